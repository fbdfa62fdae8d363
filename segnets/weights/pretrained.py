"""The public builders, with torchvision's arguments, `weights=` included.

Each wraps a builder of `segnets.builders`, which does not read files. torchvision's `pretrained=`, positional arguments
and unknown arguments, which torchvision ignores, raise TypeError with a hint.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

from segnets import builders
from segnets.builders import Builder
from segnets.card import ModelConfig
from segnets.errors import WeightsError, warn_caller
from segnets.model import SegmentationModel
from segnets.options import NAMES, OPTIONS, Options
from segnets.registry import BACKBONES, MODELS, build_described, find_builder
from segnets.weights.actual import infer_config
from segnets.weights.fitting import fit
from segnets.weights.geometry import merge_options, other_geometry
from segnets.weights.sources import FoundWeights, WeightsSource, read_source, unwrap_source
from segnets.weights.wrappers import find_network

if TYPE_CHECKING:
    from typing_extensions import Unpack

_HINTS = {
    "pretrained": "use weights= (a file, a state dict or a published name)",
    "pretrained_backbone": "use weights_backbone= (a file, a state dict or a published name)",
    "aux": "use aux_loss=",
    "backbone": "the backbone is part of the name of the network, see segnets.list_models()",
    "replace_stride_with_dilation": "use output_stride=",
}
# In the order of torchvision's builders; the other options follow.
_FIRST = ("weights", "progress", "num_classes", "aux_loss", "weights_backbone")


class PretrainedBuilder(Protocol):
    """Signature of every public builder, apart from the options of its network (`segnets.options.Options`).

    Weights for three channels can be loaded with other values of `in_channels`: the first convolution is summed for one
    channel, and repeated and scaled for more, as in timm.

    Args:
        weights: A `.safetensors` or plain `.pth` file, a state dict, or a published name such as
            "COCO_WITH_VOC_LABELS_V1", whose file must be in torch's hub cache. Nothing is downloaded. Options that are
            not given come from the file, unless they follow from a given one (atrous rates from the output stride). A
            warning lists given options with which the tensors compute something other than they were trained for.
        progress: Ignored; accepted because torchvision's builders have it.
        weights_backbone: Like `weights`, but for the backbone alone: weights of its classifier, with or without the
            last layers. Ignored if `weights` is given.
        **options: `num_classes` defaults to that of the weights, or 21 without weights; if it differs from the
            weights', the last convolutions keep their initial values, and a warning lists them. `aux_loss` defaults to
            that of the weights, or False. docs/models.md describes the others.

    Raises:
        TypeError: If an argument is unknown.
        ValueError: If options contradict each other or have no effect in this network.
        WeightsError: If weights are not found or do not fit.
    """

    __name__: str

    def __call__(
        self,
        *,
        weights: WeightsSource | None = None,
        progress: bool = True,
        weights_backbone: WeightsSource | None = None,
        **options: Unpack[Options],
    ) -> SegmentationModel:
        """Build the network."""
        ...


def with_weights(build: Builder) -> PretrainedBuilder:
    """Wrap a builder with torchvision's arguments for weights."""

    def builder(
        *,
        weights: WeightsSource | None = None,
        progress: bool = True,  # noqa: ARG001
        weights_backbone: WeightsSource | None = None,
        **options: Unpack[Options],
    ) -> SegmentationModel:
        if weights is None:
            model = build(**options)
            if weights_backbone is not None:
                _load_backbone(model, build, weights_backbone)
            return model
        given = {name: value for name, value in options.items() if value is not None}
        found = _read(weights, build.name)
        if found.config is None:
            # The auxiliary classifier is included, so that a prefix is found on its names too.
            shown = build_described(build.name, build.resolve(given))
            found = unwrap_source(found, shown.state_dict())
            _say_unwrapped(found)
        model = build(**_options_for(found, build, given))
        warning = other_geometry(model.config, found.config, found.where)
        report = fit(model, found.tensors, where=found.where)
        model.card = report.card_for(found.card)
        if warning:
            warn_caller(warning)
        return model

    builder.__name__ = builder.__qualname__ = build.name
    signature = _signature(build)
    described = [
        f"        {option.name}: {option.description}." for option in OPTIONS if option.name in signature.parameters
    ]
    builder.__doc__ = "\n".join(
        [
            f"{build.title}\n\n    Args:",
            "        weights, progress, weights_backbone: See `PretrainedBuilder`.",
            *described,
        ]
    )
    return _refusing_unknown(builder, signature)


def _signature(build: Builder) -> inspect.Signature:
    """Return the arguments that have an effect in this network, with its defaults, for `help()` and editors."""
    defaults = {
        **dict.fromkeys(_FIRST),
        "progress": True,
        "gradient_checkpointing": False,
        "norm_eval": False,
        **{name: value for name, value in build.applicable({}).items() if name not in _FIRST},
    }
    return inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in defaults.items()]
    )


def _refusing_unknown(builder: Callable[..., SegmentationModel], signature: inspect.Signature) -> PretrainedBuilder:
    """Turn an unknown argument into a TypeError with a suggestion."""
    known = (*_FIRST, *NAMES)

    @functools.wraps(builder)
    def checked(*args: object, **options: Any) -> SegmentationModel:
        name = builder.__name__
        if args:
            raise TypeError(f"{name}() takes keyword arguments only: {', '.join(signature.parameters)}")
        for unknown in [option for option in options if option not in known]:
            near = get_close_matches(unknown, known, n=1)
            hint = _HINTS.get(unknown) or (f"did you mean {near[0]}=?" if near else "")
            raise TypeError(
                f"{name}() got an unexpected argument {unknown!r}{': ' + hint if hint else ''} "
                f"(it takes {', '.join(signature.parameters)})"
            )
        return builder(**options)

    # Shown by inspect.signature and editors (PEP 362).
    checked.__signature__ = signature  # type: ignore[attr-defined]
    return checked


def _read(weights: WeightsSource, model: str) -> FoundWeights:
    found = read_source(weights, model=model)
    if found.config is not None and found.config.name != model:
        of_backbone = model in MODELS and found.config.name in BACKBONES
        advice = "Load a backbone alone with weights_backbone=." if of_backbone else "Call that builder."
        raise WeightsError(f"{found.where}: the weights are for {found.config.name}, not for {model}. {advice}")
    return found


def _options_for(found: FoundWeights, build: Builder, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, completed by those that the file records or the tensors determine."""
    if found.config is not None:
        _check_describes(found.config, found)
        return merge_options(found.config, given, found.where)
    if not any(name.startswith("classifier.") for name in found.tensors):
        raise WeightsError(f"{found.where}: no classifier found. Load a backbone alone with weights_backbone=.")
    shown, _ = infer_config(ModelConfig(build.name, build.resolve(given)), found.tensors)
    inferred = {name: shown.options[name] for name in ("num_classes", "aux_loss", "in_channels")}
    return {**inferred, **given}


def _say_unwrapped(found: FoundWeights) -> None:
    """Warn about removed parts of names, because a builder returns no report."""
    if not found.stripped:
        return
    outside = f"; ignored: {', '.join(found.outside[:5])}" if found.outside else ""
    warn_caller(f"{found.where}: removed {', '.join(map(repr, found.stripped))} from the names of its tensors{outside}")


def _check_describes(config: ModelConfig, found: FoundWeights) -> None:
    """Raise WeightsError, before memory is allocated, if a file's description does not match its tensors."""
    try:
        described = build_described(config.name, dict(config.options)).state_dict()
    except WeightsError as error:
        raise WeightsError(f"{found.where}: {error}") from None
    other = [
        name for name, tensor in found.tensors.items() if name in described and described[name].shape != tensor.shape
    ]
    if other:
        raise WeightsError(f"{found.where}: the description does not match the tensors: {', '.join(other[:5])}")


def _load_backbone(model: SegmentationModel, build: Builder, source: WeightsSource) -> None:
    """Load the backbone from the weights of its classifier, without the last layers."""
    backbone = build.backbone
    found = _read(source, backbone.name)
    if found.config is None:
        for own in (build_described(backbone.name, {}), model.backbone):  # the latter in a whole network's state dict
            if find_network(found.tensors, own.state_dict()).prefixes:
                found = unwrap_source(found, own.state_dict(), keep_all=False)
                break
        _say_unwrapped(found)
    assert model.config is not None
    dropped = backbone.unused_prefixes(model.config.options)
    tensors = {
        key.removeprefix(backbone.features_prefix): tensor
        for key, tensor in found.tensors.items()
        if not key.startswith(dropped)
    }
    where = f"{found.where} (for the backbone, {backbone.name})"
    warning = other_geometry(model.config, found.config, where)
    fit(model.backbone, tensors, where=where)
    if warning:
        warn_caller(warning)


fcn_resnet50 = with_weights(builders.fcn_resnet50)
fcn_resnet101 = with_weights(builders.fcn_resnet101)
deeplabv3_resnet50 = with_weights(builders.deeplabv3_resnet50)
deeplabv3_resnet101 = with_weights(builders.deeplabv3_resnet101)
deeplabv3_mobilenet_v3_large = with_weights(builders.deeplabv3_mobilenet_v3_large)
lraspp_mobilenet_v3_large = with_weights(builders.lraspp_mobilenet_v3_large)


def create_model(
    name: str,
    *,
    weights: WeightsSource | None = None,
    progress: bool = True,
    weights_backbone: WeightsSource | None = None,
    **options: Unpack[Options],
) -> SegmentationModel:
    """Build a network by name, with random or given weights.

    Args:
        name: Name of the network, "<head>_<backbone>" or registered with `segnets.register_model`; see
            `segnets.list_models`.
        weights: Weights to load: a `.safetensors` or plain `.pth` file, a state dict, or a published name such as
            "COCO_WITH_VOC_LABELS_V1". Nothing is downloaded.
        progress: Ignored; accepted because torchvision's builders have it.
        weights_backbone: Weights of the backbone's classifier, to load into the backbone only.
        **options: Options of the network, described in docs/models.md.

    Raises:
        TypeError: If an argument is unknown.
        ValueError: If the name is unknown, or options contradict each other or have no effect in this network.
        WeightsError: If weights are not found or do not fit.
    """
    build = with_weights(find_builder(name))
    return build(weights=weights, progress=progress, weights_backbone=weights_backbone, **options)
