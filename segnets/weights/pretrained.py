"""The builders as people call them: torchvision's arguments, `weights=` included.

Each wraps a builder of `segnets.builders`, which knows nothing of files. torchvision's `pretrained=`, its positional
arguments and its habit of swallowing unknown arguments are not taken over; all raise TypeError with a hint.
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
from segnets.options import NAMES, Options
from segnets.registry import BACKBONES, MODELS, build_described, find_builder
from segnets.weights.fitting import AUXILIARY, fit
from segnets.weights.geometry import options_beside, other_geometry
from segnets.weights.sources import FoundWeights, WeightsSource, read_source

if TYPE_CHECKING:
    from typing_extensions import Unpack

_HINTS = {
    "pretrained": "use weights= (a file, a state dict or a published name)",
    "pretrained_backbone": "use weights_backbone= (a file, a state dict or a published name)",
    "aux": "use aux_loss=",
    "backbone": "the backbone is part of the model's name, see segnets.list_models()",
    "replace_stride_with_dilation": "use output_stride=",
}
# In the order of torchvision's builders; the other options follow.
_FIRST = ("weights", "progress", "num_classes", "aux_loss", "weights_backbone")


class PretrainedBuilder(Protocol):
    """What every public builder takes, beside the options that its network has (`segnets.options.Options`).

    weights: a `.safetensors` or plain `.pth` file, a state dict, or a published name such as
    "COCO_WITH_VOC_LABELS_V1", whose file must lie in torch's hub cache. Nothing is ever downloaded. Options that are
    not given are then the file's, unless they follow from one that is given (the atrous rates from the output stride);
    where the same tensors then compute something else than they were made for, a warning says so.
    progress: accepted for torchvision's sake; there is no download to show.
    num_classes: classes, background included; by default those of the weights, else 21. If it differs from the
    weights', the last convolutions keep their initial values, and a warning names them.
    aux_loss: with an auxiliary classifier, whose scores come out under "aux"; by default as in the weights, else not.
    weights_backbone: the same for the backbone alone, from a classifier with or without its last layers
    (num_classes=0); not read if weights are given.

    Weights for three channels fit other in_channels: the first convolution is summed for one channel, and repeated and
    scaled for more, as timm does it.

    Raises TypeError for unknown arguments, ValueError for options that don't go together or mean nothing for this
    network, WeightsError if weights are not found or don't fit.
    """

    __name__: str

    def __call__(
        self,
        *,
        weights: WeightsSource | None = None,
        progress: bool = True,
        weights_backbone: WeightsSource | None = None,
        **options: Unpack[Options],
    ) -> SegmentationModel: ...


def with_weights(build: Builder) -> PretrainedBuilder:
    """Give a builder torchvision's arguments for weights."""

    def builder(
        *,
        weights: WeightsSource | None = None,
        # Unused: torchvision's builders take it and programs pass it, but here nothing is downloaded.
        progress: bool = True,  # noqa: ARG001
        weights_backbone: WeightsSource | None = None,
        **options: Unpack[Options],
    ) -> SegmentationModel:
        if weights is None:
            model = build(**options)
            if weights_backbone is not None:
                _load_backbone(model, build, weights_backbone)
            return model
        found = _read(weights, build.name)
        given = {name: value for name, value in options.items() if value is not None}
        model = build(**_options_for(found, build, given))
        warning = other_geometry(model.config, found.config, found.where)
        report = fit(model, found.tensors, where=found.where)
        model.card = report.card_for(found.card)
        if warning:
            warn_caller(warning)
        return model

    builder.__name__ = builder.__qualname__ = build.name
    builder.__doc__ = f"{build.title}\n\n    The arguments are those of `PretrainedBuilder`; these options apply here."
    return _refusing_unknown(builder, _signature(build))


def _signature(build: Builder) -> inspect.Signature:
    """The arguments that mean something for this network, with its own defaults, for `help()` and editors."""
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
    """Turn an unknown argument into a TypeError that knows what was meant."""
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

    # What inspect.signature and editors show (PEP 362). Python lets any function have it, but the type of functions, by
    # which mypy judges, does not list it.
    checked.__signature__ = signature  # type: ignore[attr-defined]
    return checked


def _read(weights: WeightsSource, model: str) -> FoundWeights:
    found = read_source(weights, model=model)
    if found.config is not None and found.config.name != model:
        of_backbone = model in MODELS and found.config.name in BACKBONES
        advice = "for a backbone alone use weights_backbone=" if of_backbone else "call that builder"
        raise WeightsError(f"{found.where}: is for {found.config.name}, not for {model}; {advice}")
    return found


def _options_for(found: FoundWeights, build: Builder, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, and beside them what the file says of its network, or its tensors show."""
    if found.config is not None:
        _check_describes(found.config, found)
        return options_beside(found.config, given, found.where)
    # Where the last convolution is, the head knows; build one to ask.
    head = build_described(build.name, build.resolve(given)).classifier
    names = [f"classifier.{layer}.bias" for layer in getattr(head, "last_layers", ())]
    last = [found.tensors[name] for name in names if name in found.tensors]
    if not last or not last[0].ndim:
        raise WeightsError(f"{found.where}: has no classifier; for a backbone alone use weights_backbone=")
    shown = {"num_classes": len(last[0]), "aux_loss": any(name.startswith(AUXILIARY) for name in found.tensors)}
    return {**shown, **given}


def _check_describes(config: ModelConfig, found: FoundWeights) -> None:
    """Raise WeightsError if a file describes other tensors than it has, before a network of any size is built."""
    try:
        described = build_described(config.name, dict(config.options)).state_dict()
    except WeightsError as error:
        raise WeightsError(f"{found.where}: {error}") from None
    other = [
        name for name, tensor in found.tensors.items() if name in described and described[name].shape != tensor.shape
    ]
    if other:
        raise WeightsError(f"{found.where}: its description and its tensors don't fit: {', '.join(other[:5])}")


def _load_backbone(model: SegmentationModel, build: Builder, source: WeightsSource) -> None:
    """Fill the backbone from a classifier of the same family; its last layers are not part of the backbone."""
    kind = build.backbone
    found = _read(source, kind.name)
    assert model.config is not None
    dropped = kind.unused_prefixes(model.config.options)
    tensors = {
        key.removeprefix(kind.features_prefix): tensor
        for key, tensor in found.tensors.items()
        if not key.startswith(dropped)
    }
    where = f"{found.where} (for the backbone, {kind.name})"
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
    """Build a network by name, "<head>_<backbone>" (see `segnets.list_models`), with the arguments of its builder.

    weights, progress, weights_backbone: see `segnets.weights.pretrained.PretrainedBuilder`.
    options: see `segnets.options.Options`.
    Raises ValueError for an unknown name, with the nearest known one; otherwise what the builder raises.
    """
    build = with_weights(find_builder(name))
    return build(weights=weights, progress=progress, weights_backbone=weights_backbone, **options)
