"""The builders as people call them: torchvision's arguments, `weights=` included.

Each wraps a builder of `segnets.builders`, which knows nothing of files. torchvision's `pretrained=`, its positional
arguments and its habit of swallowing unknown arguments are not taken over; all raise TypeError with a hint.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Protocol

from segnets import builders
from segnets.builders import Builder
from segnets.errors import WeightsError
from segnets.model import SegmentationModel
from segnets.registry import BACKBONES, find_builder
from segnets.weights.fitting import AUXILIARY, fit
from segnets.weights.sources import FoundWeights, WeightsSource, read_source

DEFAULT_NUM_CLASSES = 21  # PASCAL VOC's, as in torchvision

_HINTS = {
    "pretrained": "use weights= (a file, a state dict or a published name)",
    "pretrained_backbone": "use weights_backbone= (a file, a state dict or a published name)",
    "aux": "use aux_loss=",
    "in_channels": "these networks take three channels; replace the first convolution for another number",
    "backbone": "the backbone is part of the model's name, see segnets.list_models()",
}


class PretrainedBuilder(Protocol):
    """What every public builder takes.

    weights: a `.safetensors` or plain `.pth` file, a state dict, or a published name such as
    "COCO_WITH_VOC_LABELS_V1", whose file must lie in torch's hub cache. Nothing is ever downloaded.
    progress: accepted for torchvision's sake; there is no download to show.
    num_classes: classes, background included; by default those of the weights, else 21. If it differs from the
    weights', the last 1x1 convolutions keep their initial values, and a warning names them.
    aux_loss: with an auxiliary classifier, whose scores come out under "aux"; by default as in the weights, else not.
    weights_backbone: the same for the backbone alone, from a classifier; not read if weights are given.
    gradient_checkpointing: in training, compute the backbone's activations twice instead of keeping them.

    Raises TypeError for unknown arguments, WeightsError if weights are not found or don't fit.
    """

    __name__: str

    def __call__(
        self,
        *,
        weights: WeightsSource | None = None,
        progress: bool = True,
        num_classes: int | None = None,
        aux_loss: bool | None = None,
        weights_backbone: WeightsSource | None = None,
        gradient_checkpointing: bool = False,
    ) -> SegmentationModel: ...


def with_weights(build: Builder) -> PretrainedBuilder:
    """Give a builder torchvision's arguments for weights."""

    def builder(
        *,
        weights: WeightsSource | None = None,
        progress: bool = True,  # noqa: ARG001  (torchvision's; see PretrainedBuilder)
        num_classes: int | None = None,
        aux_loss: bool | None = None,
        weights_backbone: WeightsSource | None = None,
        gradient_checkpointing: bool = False,
    ) -> SegmentationModel:
        found = None if weights is None else _read(weights, build.__name__)
        if found is not None:
            num_classes = num_classes if num_classes is not None else _num_classes(found)
            aux_loss = aux_loss if aux_loss is not None else any(name.startswith(AUXILIARY) for name in found.tensors)
        model = build(
            num_classes=DEFAULT_NUM_CLASSES if num_classes is None else num_classes,
            aux_loss=False if aux_loss is None else aux_loss,
            gradient_checkpointing=gradient_checkpointing,
        )
        if found is not None:
            report = fit(model, found.tensors, where=found.where)
            model.card = report.card_for(found.card)
        elif weights_backbone is not None:
            _load_backbone(model, weights_backbone)
        return model

    signature = inspect.signature(builder)
    builder.__name__ = builder.__qualname__ = build.__name__
    builder.__doc__ = f"{build.__doc__}\n\n    The arguments are those of `PretrainedBuilder`."
    return _refusing_unknown(builder, signature)


def _refusing_unknown(builder: Callable[..., SegmentationModel], signature: inspect.Signature) -> PretrainedBuilder:
    """Turn an unknown argument into a TypeError that knows what was meant."""

    @functools.wraps(builder)
    def checked(*args: object, **options: Any) -> SegmentationModel:
        name = builder.__name__
        if args:
            raise TypeError(f"{name}() takes keyword arguments only: {', '.join(signature.parameters)}")
        for unknown in options.keys() - signature.parameters.keys():
            near = get_close_matches(unknown, signature.parameters, n=1)
            hint = _HINTS.get(unknown) or (f"did you mean {near[0]}=?" if near else "")
            raise TypeError(
                f"{name}() got an unexpected argument {unknown!r}{': ' + hint if hint else ''} "
                f"(it takes {', '.join(signature.parameters)})"
            )
        return builder(**options)

    return checked


def _read(weights: WeightsSource, model: str) -> FoundWeights:
    found = read_source(weights, model=model)
    if found.config is not None and found.config.name != model:
        raise WeightsError(f"{found.where}: is for {found.config.name}, not for {model}; call that builder")
    return found


def _num_classes(found: FoundWeights) -> int:
    """As many as the last convolution has rows. Heads end with their classifier, in every layout we keep."""
    last = [name for name in found.tensors if name.startswith("classifier.") and name.endswith("bias")]
    if not last:
        raise WeightsError(f"{found.where}: has no classifier; for a backbone alone use weights_backbone=")
    return len(found.tensors[last[-1]])


def _load_backbone(model: SegmentationModel, source: WeightsSource) -> None:
    """Fill the backbone from a classifier of the same family; its last layers are not part of the backbone."""
    name = model.config.name if model.config is not None else ""
    family = next(backbone for backbone in sorted(BACKBONES, key=len, reverse=True) if name.endswith(backbone))
    found = _read(source, family)
    dropped = ("classifier.",) if family.startswith("mobilenet") else ("fc.",)
    tensors = {
        key.removeprefix("features."): tensor for key, tensor in found.tensors.items() if not key.startswith(dropped)
    }
    fit(model.backbone, tensors, where=f"{found.where} (for the backbone, {family})")


fcn_resnet50 = with_weights(builders.fcn_resnet50)
fcn_resnet101 = with_weights(builders.fcn_resnet101)
deeplabv3_resnet50 = with_weights(builders.deeplabv3_resnet50)
deeplabv3_resnet101 = with_weights(builders.deeplabv3_resnet101)
deeplabv3_mobilenet_v3_large = with_weights(builders.deeplabv3_mobilenet_v3_large)
lraspp_mobilenet_v3_large = with_weights(builders.lraspp_mobilenet_v3_large)


def create_model(name: str, **options: Any) -> SegmentationModel:
    """Build a network by name, with the options of its builder (see `PretrainedBuilder`).

    Raises ValueError for an unknown name, with the nearest known one.
    """
    return with_weights(find_builder(name))(**options)
