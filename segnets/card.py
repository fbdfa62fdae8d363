"""Description of a model besides its tensors.

`ModelConfig` holds what is needed to build the network again. `ModelCard` describes its trained weights: the classes,
their colours, the preprocessing used in training, and the origin of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from segnets.preprocessing import Preprocessing

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Colour: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class ModelConfig:
    """Name and options of a builder, which build the same network again.

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

    def without_classes(self) -> ModelCard:
        """Return the card for a model whose last layers were newly initialised: only the preprocessing still holds."""
        return replace(self.derived(), classes=(), palette=())

    def derived(self) -> ModelCard:
        """Return the card for weights that may have changed since, without the claims proven for the original."""
        if not _CLAIMS & self.provenance.keys():
            return self
        original: dict[str, JSON] = {key: value for key, value in self.provenance.items() if key != "proof"}
        return replace(self, provenance={"derived_from": original})


# Provenance keys that hold only for unchanged tensors.
_CLAIMS = {"proof", "source_sha256"}
