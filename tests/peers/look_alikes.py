"""Networks that resemble supported ones, built from their projects: they are refused, or a note names the likeness."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.oracle import torchvision
from weights_tools.check.peers._mmseg_import import mmseg_models, silence_advice

NORM = {"type": "BN"}


@dataclass(frozen=True)
class LookAlike:
    """A network that resembles a supported one.

    Attributes:
        peer: Project that has the network.
        network: Name of the network.
        build: Function that builds it, on the meta device if only names and shapes matter.
        message: Pattern of the refusal, or of the conversion's note if it is not refused.
        why: Reason, for docs/layouts.md.
        refused: Whether a conversion is refused.
    """

    peer: str
    network: str
    build: Callable[[], nn.Module]
    message: str
    why: str
    refused: bool = True

    def __str__(self) -> str:
        return f"{self.peer}: {self.network}"

    def state(self) -> Mapping[str, Tensor]:
        """Return zeros under the names of the network; the values do not matter."""
        with torch.device("meta"):
            state = self.build().state_dict()
        return {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in state.items()}


def _timm(name: str) -> nn.Module:
    import timm

    module: nn.Module = timm.create_model(name, num_classes=9)
    return module


def timm(name: str, message: str, why: str, *, refused: bool = True) -> LookAlike:
    return LookAlike("timm", name, partial(_timm, name), message, why, refused)


def _smp(architecture: str, encoder: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    module: nn.Module = getattr(smp, architecture)(encoder, encoder_weights=None)
    return module


def smp(architecture: str, message: str, why: str, encoder: str = "resnet18") -> LookAlike:
    network = f"{architecture}({encoder})"
    return LookAlike("segmentation_models_pytorch", network, partial(_smp, architecture, encoder), message, why)


def _mmseg(head: Mapping[str, Any], backbone: Mapping[str, Any]) -> nn.Module:
    common = {"num_classes": 7, "norm_cfg": NORM, "align_corners": False, "channels": 128}
    segmentors = mmseg_models().segmentors
    with silence_advice():
        module: nn.Module = segmentors.EncoderDecoder(backbone=dict(backbone), decode_head={**common, **head})
    return module


RESNET = {"type": "ResNetV1c", "depth": 18, "norm_cfg": NORM}
MOBILENET = {"type": "MobileNetV3", "arch": "large", "out_indices": (1, 3, 16), "norm_cfg": NORM}


def mmseg(
    network: str,
    head: Mapping[str, Any],
    message: str,
    why: str,
    backbone: Mapping[str, Any] = RESNET,
    *,
    refused: bool = True,
) -> LookAlike:
    return LookAlike("mmsegmentation", network, partial(_mmseg, head, backbone), message, why, refused)


def _mobilenet_v2() -> nn.Module:
    models: Any = importlib.import_module("transformers")
    module: nn.Module = models.MobileNetV2ForSemanticSegmentation(models.MobileNetV2Config(num_labels=7))
    return module


def _resnet(**arguments: Any) -> nn.Module:
    models: Any = importlib.import_module("transformers")
    module: nn.Module = models.ResNetForImageClassification(models.ResNetConfig(num_labels=7, **arguments))
    return module


class _VainFOnMobileNet(nn.Module):
    """Names of VainF's network, with the backbone in two parts."""

    def __init__(self) -> None:
        super().__init__()
        features = torchvision.models.mobilenet_v2(weights=None).features
        self.backbone = nn.ModuleDict({"low_level_features": features[:4], "high_level_features": features[4:-1]})
        self.classifier = nn.ModuleDict(
            {"classifier": torchvision.models.segmentation.deeplabv3.DeepLabHead(320, 21, [6, 12, 18])}
        )


def _torchvision(name: str) -> nn.Module:
    module: nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    return module


OTHER_DECODER = "its decoder is not supported; `--backbone-only` takes the encoder"
SAME = "same names and shapes, other outputs: converted with a note; `--golden` refuses it"
LOOK_ALIKES = [
    timm("tf_mobilenetv3_large_100", "timm's tf_mobilenetv3_large_100 .* has the same names", SAME, refused=False),
    timm("tf_mobilenetv3_small_100", "timm's tf_mobilenetv3_small_100 .* has the same names", SAME, refused=False),
    timm("resnetblur18", "resnetblur18 .* has the same names", SAME, refused=False),
    timm("resnetblur50", "resnetblur50 .* has the same names", SAME, refused=False),
    timm("resnetaa50d", "resnetaa50d.* has the same names", SAME, refused=False),
    timm("mobilenetv3_rw", "timm's mobilenetv3_rw", "other widths of the gates"),
    timm("mobilenetv3_large_075", "reduced or widened MobileNetV3", "a different width"),
    timm("tf_mobilenetv3_large_minimal_100", "without squeeze-and-excitation", "no gates"),
    timm(
        "resnet50_gn", r"group normalisation \(--option norm_layer=group", "converted with `--option norm_layer=group`"
    ),
    timm("seresnet50", "squeeze-and-excitation blocks", "blocks that segnets does not have"),
    timm("skresnet18", "ResNet of timm with selective kernels", "blocks that segnets does not have"),
    timm("resnet26", "ResNet of 2-2-2-2 bottleneck blocks", "a different depth"),
    timm("resnet50s", "look like resnet50.* but do not fit it", "a deep stem of a different width"),
    timm("efficientnet_b0", "a MobileNet or EfficientNet of timm", "a different backbone"),
    smp("Unet", "a U-Net of .*--backbone-only converts", OTHER_DECODER),
    smp("UnetPlusPlus", r"a U-Net\+\+ of .*--backbone-only converts", OTHER_DECODER),
    smp("Linknet", "a Linknet of .*--backbone-only converts", OTHER_DECODER),
    smp("PAN", "a PAN of .*--backbone-only converts", OTHER_DECODER),
    smp("MAnet", "an MAnet of .*--backbone-only converts", OTHER_DECODER),
    smp("FPN", "an FPN of .*--backbone-only converts", OTHER_DECODER),
    smp("UPerNet", "a UPerNet of .*--backbone-only converts", OTHER_DECODER),
    smp("DeepLabV3", "DeepLabV3 of .* on an encoder", "a different encoder", "efficientnet-b0"),
    smp("DeepLabV3", "DeepLabV3 of .* on .*", "squeeze-and-excitation blocks", "se_resnet50"),
    mmseg(
        "FCNHead with dilation=6",
        {"type": "FCNHead", "in_channels": 512, "dilation": 6},
        r"an FCNHead with a dilation \(fcn-d6\) has the same names",
        SAME + ", and so does `compare --with mmseg` if it is given the dilation",
        refused=False,
    ),
    mmseg(
        "PSPHead with pool_scales=(1, 2, 4, 8)",
        {"type": "PSPHead", "in_channels": 512, "pool_scales": (1, 2, 4, 8)},
        "a PSPHead with pool_scales other .* has the same names",
        SAME,
        refused=False,
    ),
    mmseg(
        "DepthwiseSeparableASPPHead",
        {"type": "DepthwiseSeparableASPPHead", "in_channels": 512, "c1_in_channels": 64, "c1_channels": 48},
        r"a DeepLabV3\+ of mmsegmentation",
        "its DeepLabV3+ pools and fuses differently",
    ),
    mmseg(
        "UPerHead",
        {"type": "UPerHead", "in_channels": [64, 128, 256, 512], "in_index": [0, 1, 2, 3]},
        "a UPerNet of mmsegmentation",
        "its head is not supported",
    ),
    mmseg(
        "LRASPPHead on MobileNetV3",
        {
            "type": "LRASPPHead",
            "in_channels": (16, 24, 960),
            "in_index": (0, 1, 2),
            "input_transform": "multiple_select",
        },
        "an LR-ASPP of mmsegmentation, which is not torchvision's",
        "its head has three branches; its backbone has a different padding and output stride",
        MOBILENET,
    ),
    LookAlike(
        "transformers",
        "MobileNetV2ForSemanticSegmentation",
        _mobilenet_v2,
        "a MobileNetV2 DeepLab from transformers",
        "an ASPP without dilated branches, and TensorFlow's padding",
    ),
    LookAlike(
        "transformers",
        "ResNet with downsample_in_first_stage=True",
        partial(_resnet, downsample_in_first_stage=True),
        "a ResNet whose config.json has downsample_in_first_stage .* has the same names",
        SAME,
        refused=False,
    ),
    LookAlike(
        "VainF",
        "DeepLabV3 on MobileNetV2 (composed)",
        _VainFOnMobileNet,
        "a MobileNet DeepLab of VainF|DeepLabV3 of VainF.* on an encoder",
        "a different backbone",
    ),
]


def quiet(build: Callable[[], Any]) -> Any:
    """Build without the warnings that some projects print."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()
