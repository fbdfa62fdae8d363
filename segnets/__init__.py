"""Classic segmentation networks: train, convert with verification, deploy to C++.

FCN, DeepLabV3, DeepLabV3+, PSPNet and LR-ASPP on dilated ResNets and MobileNetV3, with the same results as torchvision.
Weights are stored in one self-describing file. Exports run in C++ with the same results as in Python.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segnets._cost import Cost, cost
    from segnets.backbones import IntermediateLayerGetter
    from segnets.card import Decoding, ModelCard, ModelConfig
    from segnets.deploy import ExportReport, VerifyReport, export, join_onnx, load_exported, verify
    from segnets.errors import (
        DataError,
        ExportError,
        FrameRingError,
        ImageError,
        OutputError,
        PeerGoneError,
        PredictError,
        SegnetsError,
        TrainingError,
        WeightsError,
    )
    from segnets.frame_ring import FrameRing
    from segnets.inference import Prediction, Predictor
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

# The single source of the version. pyproject.toml, cpp/pyproject.toml and cpp/CMakeLists.txt read it from here.
__version__ = "0.1.0"

__all__ = [
    "Cost",
    "DataError",
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
    "PredictError",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "SegmentationModel",
    "SegnetsError",
    "TrainingError",
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


# Imported when first used: the commands set up Ctrl-C before torch is imported, and `--help` does not need torch.
_MODULES = {
    "_cost": ("Cost", "cost"),
    "backbones": ("IntermediateLayerGetter",),
    "card": ("Decoding", "ModelCard", "ModelConfig"),
    "deploy": ("ExportReport", "VerifyReport", "export", "join_onnx", "load_exported", "verify"),
    "errors": (
        "DataError",
        "ExportError",
        "FrameRingError",
        "ImageError",
        "OutputError",
        "PeerGoneError",
        "PredictError",
        "SegnetsError",
        "TrainingError",
        "WeightsError",
    ),
    "frame_ring": ("FrameRing",),
    "inference": ("Prediction", "Predictor"),
    "model": ("SegmentationModel",),
    "preprocessing": ("Preprocessing", "preprocess"),
    "registry": ("list_models", "register_model"),
    "segmenter": ("segment",),
    "weights": ("LoadReport", "load", "load_weights", "save"),
    "weights.pretrained": (
        "create_model",
        "deeplabv3_mobilenet_v3_large",
        "deeplabv3_resnet50",
        "deeplabv3_resnet101",
        "fcn_resnet50",
        "fcn_resnet101",
        "lraspp_mobilenet_v3_large",
    ),
}
_LAZY = {name: f"segnets.{module}" for module, names in _MODULES.items() for name in names}
_SUBMODULES = {module.split(".")[0] for module in _MODULES} | {
    "builders",
    "data",
    "heads",
    "layers",
    "options",
    "training",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value
    if name in _SUBMODULES:
        return import_module(f"segnets.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
