"""Import torchvision next to a CPU-only torch.

PyPI's torchvision is built for CUDA. With a CPU-only torch its compiled operators fail to load, and `import
torchvision` raises "operator torchvision::nms does not exist". The pure Python parts (datasets, transforms, models)
use none of these operators. This module defines the schemas of the missing operators, so that the import succeeds.

Import this module first, and torchvision as usual afterwards:

    import segnets.torchvision_compat
    import torchvision

`from segnets.torchvision_compat import torchvision` is equivalent. If torchvision imports without help, nothing
changes. `import segnets` never imports this module.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """Import torchvision, with the missing operators defined if it fails without them."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)
    return importlib.import_module("torchvision")


torchvision = import_torchvision()
