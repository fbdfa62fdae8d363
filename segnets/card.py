"""Description of a model apart from its tensors.

`ModelConfig` holds what is needed to rebuild the network. `ModelCard` describes its trained weights: the classes,
their colours, the preprocessing used in training, and the origin of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeGuard

from segnets.preprocessing import Preprocessing

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Colour: TypeAlias = tuple[int, int, int]


ASSUMED = "assumed"  # provenance key: the fields of the preprocessing that nothing states
PREPARATION = ("resize", "mean", "std")


@dataclass(frozen=True)
class ModelConfig:
    """Name and options of a builder, enough to rebuild the same network.

    Attributes:
        name: Name of the builder, one of `segnets.list_models()`, or of a backbone.
        options: Options of the builder, as JSON values.
    """

    name: str
    options: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelCard:
    """Description of a model's trained weights.

    Attributes:
        classes: One name per class id, in the order of the ids, or empty if unknown.
        palette: One RGB colour (0..255) per class id, or empty.
        preprocessing: Preprocessing from an image to the network's input.
        provenance: Origin of the weights as JSON values: source layout, file hash, licence, tool version.
    """

    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: Mapping[str, JSON] = field(default_factory=dict)

    def preparing(self, preprocessing: Preprocessing, stated: Iterable[str] = PREPARATION) -> ModelCard:
        """Return the card with a preprocessing of which the caller states some fields, no longer assumed ones.

        Args:
            preprocessing: New preprocessing.
            stated: Names in `PREPARATION`.
        """
        left: list[JSON] = [name for name in assumed_fields(self) if name not in {*stated}]
        provenance = {key: value for key, value in self.provenance.items() if key != ASSUMED}
        return replace(
            self, preprocessing=preprocessing, provenance={**provenance, ASSUMED: left} if left else provenance
        )

    def assuming(self, names: Iterable[str] = PREPARATION) -> ModelCard:
        """Return the card with the record that these fields of its preprocessing are assumed.

        Args:
            names: Names in `PREPARATION`.
        """
        known = {*assumed_fields(self), *names}
        if not known:
            return self
        return replace(self, provenance={**self.provenance, ASSUMED: [name for name in PREPARATION if name in known]})

    def without_classes(self) -> ModelCard:
        """Return the card for a model with newly initialised last layers, keeping only the preprocessing."""
        return replace(self.derived(), classes=(), palette=())

    def derived(self) -> ModelCard:
        """Return the card for weights that may have changed since, without facts verified only for the original."""
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
    """Return the fields of the preprocessing that are assumed, names in `PREPARATION`."""
    names = card.provenance.get(ASSUMED)
    return [name for name in PREPARATION if name in names] if isinstance(names, list) else []


def describe_assumed(card: ModelCard) -> str:
    """Return a sentence that names the assumed preprocessing and the options that change it, or ""."""
    names = assumed_fields(card)
    if not names:
        return ""
    preprocessing, parts = card.preprocessing, []
    if "resize" in names:
        parts.append(f"{preprocessing.describe_resize()} (--resize)")
    for name in ("mean", "std"):
        if name in names:
            parts.append(f"{name} {' '.join(f'{value:.6g}' for value in getattr(preprocessing, name))} (--{name})")
    return f"{', '.join(parts)}: nothing states how the network was trained. Pass what it was trained with"


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
    """Check the class names, colours and preprocessing of a card.

    Args:
        card: Card to check.
        num_classes: Number of classes of the model, or None if it is unknown.

    Raises:
        ValueError: If a file could not store the card, or the card has another number of classes.
    """
    for i, name in enumerate(card.classes):
        if not is_class_name(name):
            raise ValueError(f"classes[{i}]={name!r}: expected a printable string")
    for i, colour in enumerate(card.palette):
        if not is_colour(colour):
            raise ValueError(f"palette[{i}]={colour!r}: expected three integers 0..255 (red, green, blue)")
    if not isinstance(card.preprocessing, Preprocessing):
        raise ValueError(f"preprocessing={card.preprocessing!r}: expected a segnets.Preprocessing")
    for field_name, what, count in (("classes", "names", len(card.classes)), ("palette", "colours", len(card.palette))):
        if count and num_classes is not None and count != num_classes:
            raise ValueError(
                f"{field_name}: {count} {what} for a model with {num_classes} classes. Give one for each class id."
            )


def _entries(what: str, values: object) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{what}={values!r}: expected a list")
    return tuple(values)


def is_class_name(name: object) -> TypeGuard[str]:
    """Return whether a card can hold `name` as the name of a class: a printable string."""
    return isinstance(name, str) and name.isprintable()


def is_colour(colour: object) -> bool:
    """Return whether a card can hold `colour` in its palette: three integers 0..255."""
    return (
        isinstance(colour, list | tuple)
        and len(colour) == 3
        and all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255 for value in colour)
    )
