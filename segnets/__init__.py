"""Classic segmentation networks: train, convert with verification, deploy to C++.

FCN, DeepLabV3, DeepLabV3+, PSPNet and LR-ASPP on dilated ResNets and MobileNetV3, with the same results as torchvision.
Weights are stored in one self-describing file. Exports run in C++ with the same results as in Python.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segnets.backbones import IntermediateLayerGetter
from segnets.card import Decoding, ModelCard, ModelConfig
from segnets.errors import (
    ExportError,
    FrameRingError,
    ImageError,
    OutputError,
    PeerGoneError,
    SegnetsError,
    WeightsError,
)
from segnets.model import SegmentationModel
from segnets.preprocessing import Preprocessing, preprocess
from segnets.registry import list_models, register_model
from segnets.segmenter import segment
from segnets.weights import LoadReport, load, load_weights, save
from segnets.weights.pretrained import (
    create_model,
    deeplabv3_mobilenet_v3_large,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    fcn_resnet50,
    fcn_resnet101,
    lraspp_mobilenet_v3_large,
)

if TYPE_CHECKING:
    from segnets._cost import Cost, cost
    from segnets.deploy import ExportReport, VerifyReport, export, join_onnx, load_exported, verify
    from segnets.frame_ring import FrameRing

# The single source of the version. pyproject.toml, cpp/pyproject.toml and cpp/CMakeLists.txt read it from here.
__version__ = "0.1.0"

__all__ = [
    "Cost",
    "Decoding",
    "ExportError",
    "ExportReport",
    "FrameRing",
    "FrameRingError",
    "ImageError",
    "IntermediateLayerGetter",
    "LoadReport",
    "ModelCard",
    "ModelConfig",
    "OutputError",
    "PeerGoneError",
    "Preprocessing",
    "SegmentationModel",
    "SegnetsError",
    "VerifyReport",
    "WeightsError",
    "cost",
    "create_model",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "export",
    "fcn_resnet50",
    "fcn_resnet101",
    "join_onnx",
    "list_models",
    "load",
    "load_exported",
    "load_weights",
    "lraspp_mobilenet_v3_large",
    "preprocess",
    "register_model",
    "save",
    "segment",
    "verify",
]


# Imported when first used, to keep `import segnets` fast.
_LAZY = {
    **dict.fromkeys(("Cost", "cost"), "segnets._cost"),
    **dict.fromkeys(
        ("ExportReport", "VerifyReport", "export", "join_onnx", "load_exported", "verify"), "segnets.deploy"
    ),
    "FrameRing": "segnets.frame_ring",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
