"""Import mmsegmentation without the compiled operators of mmcv.

mmsegmentation imports names from `mmcv.ops`. PyPI's mmcv-lite lacks these operators, and no network here uses them.
They are replaced by a stub module in which every name is an empty class.
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
    """Module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@cache
def mmseg_models() -> SimpleNamespace:
    """Import mmsegmentation and return its modules `backbones` and `segmentors`; silence its warnings on import."""
    for name in ("mmcv.ops", "mmcv.ops.multi_scale_deform_attn"):
        operators = _Operators(name)
        operators.__path__ = []  # makes it a package
        sys.modules.setdefault(name, operators)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "``MultiScaleDeformableAttention`` has been moved", ImportWarning)
        return SimpleNamespace(
            **{name: importlib.import_module(f"mmseg.models.{name}") for name in ("backbones", "segmentors")}
        )


@contextmanager
def silence_advice() -> Iterator[None]:
    """Silence mmsegmentation's advice while a network is built or run."""
    with warnings.catch_warnings():
        for message in (
            "``build_loss`` would be deprecated soon",
            "Default ``avg_non_ignore`` is False",
            "When align_corners=True, the output would more aligned",
        ):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield
