"""The one door to mmsegmentation: `mmseg_models()` gives its modules `backbones` and `segmentors`.

mmsegmentation imports names from `mmcv.ops`, compiled operators that the mmcv-lite of PyPI does not have, and that no
network here uses. A stand-in module is put in their place, in which every name is a class that can do nothing.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace


class _Operators(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@cache
def mmseg_models() -> SimpleNamespace:
    """Import mmsegmentation. Its modules and mmcv's warn of TorchScript, and of names that they have moved."""
    for name in ("mmcv.ops", "mmcv.ops.multi_scale_deform_attn"):
        operators = _Operators(name)
        operators.__path__ = []  # a package, so that it may have modules inside
        sys.modules.setdefault(name, operators)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "``MultiScaleDeformableAttention`` has been moved", ImportWarning)
        return SimpleNamespace(
            **{name: importlib.import_module(f"mmseg.models.{name}") for name in ("backbones", "segmentors")}
        )


@contextmanager
def without_advice() -> Iterator[None]:
    """Build and run a network of mmsegmentation without its advice on training, and on its own calls."""
    with warnings.catch_warnings():
        for message in (
            "``build_loss`` would be deprecated soon",
            "Default ``avg_non_ignore`` is False",
            "When align_corners=True, the output would more aligned",
        ):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield
