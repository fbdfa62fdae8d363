"""The one door to torchvision: `from segnets.torchvision_compat import torchvision`.

The torchvision of PyPI is built for CUDA. Beside a CPU-only torch its compiled operators can't be loaded, and its
import fails with "operator torchvision::nms does not exist". Its Python parts (data sets, transforms, models) need
none of them: with the schemas of the missing operators defined first, the import passes.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _import_torchvision() -> ModuleType:
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)
    return importlib.import_module("torchvision")


torchvision = _import_torchvision()
