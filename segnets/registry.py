"""Names to builders: which networks there are."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from segnets import backbones, heads
from segnets.backbones import BackboneSpec
from segnets.builders import PUBLISHED, Builder
from segnets.errors import WeightsError

HEADS: tuple[heads.HeadSpec, ...] = (
    heads.DEEPLABV3,
    heads.DEEPLABV3PLUS,
    heads.FCN,
    heads.LRASPP,
    heads.PSPNET,
)

BACKBONES: dict[str, BackboneSpec] = {
    kind.name: kind
    for kind in (
        backbones.mobilenet_v3_large,
        backbones.mobilenet_v3_small,
        backbones.resnet18,
        backbones.resnet34,
        backbones.resnet50,
        backbones.resnet101,
        backbones.resnet152,
        backbones.resnext50_32x4d,
        backbones.resnext101_32x8d,
        backbones.resnext101_64x4d,
        backbones.wide_resnet50_2,
        backbones.wide_resnet101_2,
    )
}

_PAIRS = [Builder(head, backbone) for head in HEADS for backbone in BACKBONES.values()]
MODELS: dict[str, Builder] = {builder.name: builder for builder in [*_PAIRS, *PUBLISHED]}


def list_models(pattern: str = "*") -> list[str]:
    """The names of the segmentation networks that match a shell pattern such as "fcn_*", sorted.

    Raises TypeError for a pattern that is no text.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern={pattern!r}: expected a text such as 'fcn_*'")
    return sorted(name for name in MODELS if fnmatch(name, pattern))


def find_builder(name: str) -> Builder:
    """The builder of a segmentation network. Raises ValueError for an unknown name, with the nearest known one."""
    if isinstance(name, str) and name in MODELS:
        return MODELS[name]
    near = get_close_matches(str(name), MODELS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    if isinstance(name, str) and name in BACKBONES:
        hint = f"it is a backbone and classifier, built by segnets.backbones.{name}(). "
    raise ValueError(f"no model {name!r}; {hint}Models: {', '.join(list_models())}")


class _WithoutInitialValues(TorchFunctionMode):
    """Leaves out the drawing of initial values: on the meta device it would import torch's compiler (2 seconds)."""

    _DRAWING = frozenset({"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "trunc_normal_"})

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in self._DRAWING:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def build_described(name: str, options: dict[str, Any]) -> nn.Module:
    """As `build`, on the meta device: every name, shape and dtype, and no values. Fast, and costs no memory.

    Raises WeightsError, in one line, for a name or options that can't be built: they come out of files.
    """
    if name not in MODELS and name not in BACKBONES:
        raise WeightsError(f"is for a model {str(name)[:80]!r} that this segnets does not have; update segnets")
    try:
        with torch.device("meta"), _WithoutInitialValues():
            return build(name, options)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        reason = reason if reason.isprintable() else ascii(reason)
        raise WeightsError(f"its description of {name} can't be built: {reason}") from None


def build(name: str, options: dict[str, Any]) -> nn.Module:
    """Build a segmentation network or a classifier from what its `config` recorded."""
    if name in BACKBONES:
        return BACKBONES[name](**options)
    return find_builder(name)(**options)
