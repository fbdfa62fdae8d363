"""Heads of segmentation networks, which map feature maps to logits. Each head is one file."""

from segnets.heads.deeplabv3 import DEEPLABV3, DeepLabHead
from segnets.heads.deeplabv3plus import DEEPLABV3PLUS, DeepLabV3PlusHead
from segnets.heads.fcn import FCN, FCNConcatHead, FCNHead
from segnets.heads.lraspp import LRASPP, LRASPPHead
from segnets.heads.pspnet import PSPNET, PSPHead
from segnets.heads.spec import HeadInput, HeadSpec

__all__ = [
    "DEEPLABV3",
    "DEEPLABV3PLUS",
    "FCN",
    "LRASPP",
    "PSPNET",
    "DeepLabHead",
    "DeepLabV3PlusHead",
    "FCNConcatHead",
    "FCNHead",
    "HeadInput",
    "HeadSpec",
    "LRASPPHead",
    "PSPHead",
]
