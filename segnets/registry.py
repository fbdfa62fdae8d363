"""The registry: names of networks and their builders."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
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
    backbone.name: backbone
    for backbone in (
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
_NEAR = 5  # number of names in a suggestion
# Names appear in file names, shell patterns and messages.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,79}")


def register_model(name: str, builder: Builder) -> None:
    """Add a network, so that `create_model`, `list_models`, `save`, `load` and `export` can use it.

    A weights file records the name and the options of its network, not the code. A program that loads such a file must
    register the same network first; otherwise `load` raises a WeightsError that gives the name. Exported files contain
    their network and need no registration.

    Args:
        name: Name of the network: a letter, then letters, digits, "_", "-" or "."; 80 characters at most.
        builder: A head on a backbone. Either can be your own; see docs/adding_a_model.md.

    Raises:
        TypeError: If `builder` is not a `segnets.builders.Builder`.
        ValueError: If the name is not allowed, or already belongs to a network or backbone.

    Example:
        >>> from segnets.builders import Builder
        >>> from segnets.heads import FCN
        >>> from segnets.backbones import resnet18
        >>> segnets.register_model("thin_fcn", Builder(FCN, resnet18, {"head_channels": 32}))
        >>> segnets.create_model("thin_fcn", num_classes=2).config.options["head_channels"]
        32
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"name={name!r}: expected a letter followed by letters, digits, '_', '-' or '.', 80 characters at most"
        )
    if not isinstance(builder, Builder):
        raise TypeError(
            f"builder of {name!r}: expected a segnets.builders.Builder (a head on a backbone), "
            f"got {type(builder).__name__}"
        )
    if name in MODELS or name in BACKBONES:
        raise ValueError(f"name={name!r}: a network with this name is already registered. Choose another name.")
    MODELS[name] = replace(builder, name=name)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the segmentation networks, sorted.

    Args:
        pattern: Shell pattern that the names must match, for example "fcn_*".

    Raises:
        TypeError: If `pattern` is not a string.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern={pattern!r}: expected a string, for example 'fcn_*'")
    return sorted(name for name in MODELS if fnmatch(name, pattern))


def find_builder(name: str) -> Builder:
    """Return the builder of a segmentation network.

    Raises:
        ValueError: If there is no network with this name; the message suggests a similar one.
    """
    if isinstance(name, str) and name in MODELS:
        return MODELS[name]
    near = nearest_models(name) if isinstance(name, str) else []
    hint = f"Similar names: {', '.join(near)}. " if near else ""
    if isinstance(name, str) and name in BACKBONES:
        hint = f"That is a backbone: segnets.backbones.{name}() builds its classifier. "
    raise ValueError(f"no model {repr(name)[:80]}. {hint}segnets.list_models() names all {len(MODELS)}")


def nearest_models(name: str) -> list[str]:
    """Return up to five names of networks that resemble a name: with its backbone, its letters, or its head."""
    name = name.lower()
    head, _, backbone = name.partition("_")
    if backbone in BACKBONES:
        return get_close_matches(name, [f"{each.name}_{backbone}" for each in HEADS], n=_NEAR, cutoff=0)
    letters = get_close_matches(name, MODELS, n=_NEAR, cutoff=0.75)
    return letters or [other for other in list_models() if other.startswith(f"{head}_")][:_NEAR]


class _WithoutInitialValues(TorchFunctionMode):
    """Mode that skips drawing initial values, which would import torch's compiler on the meta device (2 seconds)."""

    _DRAWING = frozenset({"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "trunc_normal_"})

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor unchanged instead of drawing its values."""
        given = kwargs or {}
        if getattr(func, "__name__", "") in self._DRAWING:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def build_described(name: str, options: dict[str, Any]) -> nn.Module:
    """Build a network on the meta device, with every name, shape and dtype but no values.

    Takes little time and no memory for tensors.

    Args:
        name: Name of a segmentation network or a classifier, as a file records it.
        options: Its recorded options.

    Raises:
        WeightsError: If there is no such network, or the options cannot be built. The message is one line.
    """
    if name not in MODELS and name not in BACKBONES:
        raise WeightsError(not_registered(name))
    try:
        with torch.device("meta"), _WithoutInitialValues():
            return build(name, options)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        reason = reason if reason.isprintable() else ascii(reason)
        raise WeightsError(f"the described {name} can't be built: {reason}") from None


def not_registered(name: str) -> str:
    """Return the message for a recorded network that is not registered in this process."""
    return (
        f"network {str(name)[:80]!r} is not registered. Import the module that registers it with "
        "segnets.register_model, or update segnets."
    )


def build(name: str, options: dict[str, Any]) -> nn.Module:
    """Build a segmentation network or a classifier from the name and options in its `config`."""
    if name in BACKBONES:
        return BACKBONES[name](**options)
    return find_builder(name)(**options)
