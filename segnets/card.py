"""Description of a model apart from its tensors.

`ModelConfig` holds what is needed to rebuild the network. `ModelCard` describes its trained weights: the classes,
their colours, the preprocessing used in training, and the origin of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from segnets.preprocessing import Preprocessing

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Colour: TypeAlias = tuple[int, int, int]


ASSUMED = "assumed"  # provenance key: names in ASSUMABLE of what the source did not record
PREPARATION = ("resize", "mean", "std")
ASSUMABLE = (*PREPARATION, "decoding")


@dataclass(frozen=True)
class ModelConfig:
    """Name and options of a builder, enough to rebuild the same network.

    Attributes:
        name: Name of the builder, one of `segnets.list_models()`, or of a backbone.
        options: Options of the builder, as JSON values.
    """

    name: str
    options: Mapping[str, JSON] = field(default_factory=dict)


DECODING_RULES = ("argmax", "threshold", "multilabel")


@dataclass(frozen=True)
class Decoding:
    """Rule that turns logits into the ids of a mask.

    Attributes:
        rule: "argmax" gives the id of the largest logit. "threshold" is for networks of one channel: it gives id 1
            where the probability (the sigmoid of the logit) exceeds `threshold`, and id 0 elsewhere. "multilabel"
            applies the threshold to every channel, and gives a plane of 0 and 1 for each class.
        threshold: Probability strictly between 0 and 1. Not used by "argmax".

    Raises:
        ValueError: If a value is not allowed, or contradicts the other.
    """

    rule: str = "argmax"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in DECODING_RULES:
            raise ValueError(f"rule={self.rule!r}: expected one of {', '.join(map(repr, DECODING_RULES))}")
        value = self.threshold
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise ValueError(f"threshold={value!r}: expected a probability strictly between 0 and 1")
        if self.rule == "argmax" and value != 0.5:
            raise ValueError(f"threshold={value!r} has no effect with rule='argmax'; omit threshold")

    def __str__(self) -> str:
        return self.rule if self.rule == "argmax" else f"{self.rule} {self.threshold:g}"

    @property
    def cut(self) -> float:
        """The logit of `threshold`, rounded to float32, so that every runtime compares with the same number."""
        return float(np.float32(math.log(self.threshold / (1 - self.threshold))))

    def ids(self, channels: int) -> int:
        """Return the number of ids, which is the number of class names, for logits of `channels` channels."""
        return 2 if self.rule == "threshold" else channels

    def fits(self, channels: int) -> bool:
        """Return whether the rule suits logits of `channels` channels."""
        return self.rule == "multilabel" or (self.rule == "threshold") == (channels == 1)

    def to_json(self) -> dict[str, JSON]:
        """Return the fields as JSON values, which `from_json` reads back."""
        return {"rule": self.rule} if self.rule == "argmax" else {"rule": self.rule, "threshold": self.threshold}

    @classmethod
    def from_json(cls, obj: object) -> Decoding:
        """Build a Decoding from the result of `to_json`.

        Raises:
            ValueError: If a field is missing or unknown, or has a value that is not allowed.
        """
        if not isinstance(obj, Mapping) or "rule" not in obj or not obj.keys() <= {"rule", "threshold"}:
            raise ValueError(f"decoding: expected an object with 'rule' and 'threshold', got {obj!r}")
        return cls(**obj)

    @classmethod
    def default(cls, channels: int) -> Decoding:
        """Return the rule for a network whose card has none."""
        return cls("threshold") if channels == 1 else cls()


def assumption_of(decoding: Decoding | None, channels: int) -> str:
    """Return a sentence on the assumed rule and how to set it, or "" if the rule is known."""
    if decoding is not None or channels != 1:
        return ""
    return (
        "the network has one channel, and how its logits become ids is unknown: assumed a sigmoid with threshold 0.5, "
        "ids 0 and 1. Set it with decoding=segnets.Decoding('threshold', 0.5) (--decoding threshold)"
    )


@dataclass(frozen=True)
class ModelCard:
    """Description of a model's trained weights.

    Attributes:
        classes: One name per class id, in the order of the ids, or empty if unknown.
        palette: One RGB colour (0..255) per class id, or empty.
        preprocessing: Preprocessing from an image to the network's input.
        provenance: Origin of the weights as JSON values: source layout, file hash, licence, tool version.
        decoding: Rule that turns logits into ids. None means argmax, or a threshold of 0.5 for a network of one
            channel.
    """

    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: Mapping[str, JSON] = field(default_factory=dict)
    decoding: Decoding | None = None

    def preparing(self, preprocessing: Preprocessing, stated: Iterable[str] = PREPARATION) -> ModelCard:
        """Return the card with a new preprocessing, some fields of which are no longer assumed.

        Args:
            preprocessing: New preprocessing.
            stated: Fields that the caller set, names in `PREPARATION`.
        """
        left: list[JSON] = [name for name in assumed_fields(self) if name not in {*stated}]
        provenance = {key: value for key, value in self.provenance.items() if key != ASSUMED}
        return replace(
            self, preprocessing=preprocessing, provenance={**provenance, ASSUMED: left} if left else provenance
        )

    def assuming(self, names: Iterable[str] = PREPARATION) -> ModelCard:
        """Return the card with these fields of its preprocessing, or its decoding, marked as assumed.

        Args:
            names: Names in `ASSUMABLE`.
        """
        known = {*assumed_fields(self), *names}
        if not known:
            return self
        return replace(self, provenance={**self.provenance, ASSUMED: [name for name in ASSUMABLE if name in known]})

    def without_classes(self) -> ModelCard:
        """Return the card for a model with newly initialised last layers, keeping only the preprocessing."""
        return replace(self.derived(), classes=(), palette=(), decoding=None)

    def derived(self) -> ModelCard:
        """Return the card for weights that may have changed, without facts verified only for the original."""
        if not _CLAIMS & self.provenance.keys():
            return self
        original: dict[str, JSON] = {
            key: value for key, value in self.provenance.items() if key not in ("proof", ASSUMED)
        }
        kept = {key: value for key, value in self.provenance.items() if key == ASSUMED}
        return replace(self, provenance={**kept, "derived_from": original})


# Provenance keys that hold only for unchanged tensors.
_CLAIMS = {"proof", "source_sha256"}


def assumed_fields(card: ModelCard) -> list[str]:
    """Return the assumed parts of the preprocessing and the decoding, as names in `ASSUMABLE`."""
    names = card.provenance.get(ASSUMED)
    return [name for name in ASSUMABLE if name in names] if isinstance(names, list) else []


def describe_assumed(card: ModelCard) -> str:
    """Return a sentence that lists what is assumed and the options that change it, or ""."""
    names = assumed_fields(card)
    if not names:
        return ""
    preprocessing, parts = card.preprocessing, []
    if "resize" in names:
        parts.append(f"{preprocessing.describe_resize()} (--resize)")
    for name in ("mean", "std"):
        if name in names:
            parts.append(f"{name} {','.join(f'{value:.6g}' for value in getattr(preprocessing, name))} (--{name})")
    if "decoding" in names and card.decoding is not None:
        parts.append(f"{card.decoding} (--decoding)")
    return f"{', '.join(parts)}: the source does not record what the network was trained with"


def with_labels(card: ModelCard, classes: object, palette: object) -> ModelCard:
    """Replace the class names and colours of a card with those from the caller.

    Args:
        card: Card to start from.
        classes: One name per class id, or None to keep the card's names.
        palette: One RGB colour per class id, or None to keep the card's colours.

    Returns:
        A new card, not yet checked by `check_card`.

    Raises:
        ValueError: If `classes`, `palette` or a colour is not a list.
    """
    if classes is not None:
        card = replace(card, classes=_entries("classes", classes))
    if palette is not None:
        colours = (_entries("palette colour", colour) for colour in _entries("palette", palette))
        card = replace(card, palette=tuple(colours))
    return card


def check_card(card: ModelCard, num_classes: int | None) -> None:
    """Check the class names, colours, preprocessing and decoding of a card.

    Args:
        card: Card to check.
        num_classes: Number of classes of the model, which is the number of channels of its logits; None if it is
            unknown.

    Raises:
        ValueError: If a file can't store the card, the card has a different number of classes, or its decoding
            contradicts that number.
    """
    for i, name in enumerate(card.classes):
        if not is_class_name(name):
            raise ValueError(f"classes[{i}]={name!r}: expected a printable string")
    for i, colour in enumerate(card.palette):
        if not is_colour(colour):
            raise ValueError(f"palette[{i}]={colour!r}: expected three integers 0..255 (red, green, blue)")
    if not isinstance(card.preprocessing, Preprocessing):
        raise ValueError(f"preprocessing={card.preprocessing!r}: expected a segnets.Preprocessing")
    if not isinstance(card.decoding, Decoding | None):
        raise ValueError(f"decoding={card.decoding!r}: expected a segnets.Decoding")
    if num_classes is not None:
        _check_decoding(card.decoding, num_classes)
        _check_counts(card, num_classes)


def check_stated(card: ModelCard, num_classes: int | None) -> None:
    """Check a new card as `check_card` does, with the default decoding if it has none.

    Raises:
        ValueError: Under the same conditions as `check_card`.
    """
    if card.decoding is None and num_classes is not None:
        card = replace(card, decoding=Decoding.default(num_classes))
    check_card(card, num_classes)


def _check_decoding(decoding: Decoding | None, channels: int) -> None:
    if decoding is None or decoding.fits(channels):
        return
    if decoding.rule == "argmax":
        raise ValueError(
            "decoding: argmax gives 0 everywhere for a network of one channel. Pass decoding="
            "segnets.Decoding('threshold', 0.5) (--decoding threshold) and two class names"
        )
    raise ValueError(
        f"decoding: a threshold needs a network of one channel, but this one has {channels}. Pass decoding="
        "segnets.Decoding('argmax') for one class per pixel, or segnets.Decoding('multilabel') for a plane per class "
        "(--decoding argmax or multilabel)"
    )


def _check_counts(card: ModelCard, channels: int) -> None:
    # One-channel files without a decoding may have a single name: they were written before the decoding was recorded.
    rule = card.decoding or Decoding.default(channels)
    counts = {rule.ids(channels)} if card.decoding is not None else {rule.ids(channels), channels}
    for field_name, what, count in (("classes", "names", len(card.classes)), ("palette", "colours", len(card.palette))):
        if count and count not in counts:
            if max(counts) == channels:
                raise ValueError(
                    f"{field_name}: {count} {what} for a model with {channels} classes. Pass one for each class id."
                )
            raise ValueError(
                f"{field_name}: {count} {what} for a network of one channel, whose mask has the ids 0 and 1. Pass two, "
                "the background first."
            )


def _entries(what: str, values: object) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{what}={values!r}: expected a list")
    return tuple(values)


def is_class_name(name: object) -> TypeGuard[str]:
    """Return whether `name` is allowed as a class name: a printable string."""
    return isinstance(name, str) and name.isprintable()


def is_colour(colour: object) -> bool:
    """Return whether `colour` is allowed in a palette: three integers 0..255."""
    return (
        isinstance(colour, list | tuple)
        and len(colour) == 3
        and all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255 for value in colour)
    )
