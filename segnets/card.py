"""What a model knows about itself beside its tensors.

`ModelConfig` is what builds the network again. `ModelCard` is what its trained weights mean: the classes,
their colours, the preprocessing that the network was trained with, and where the weights came from.
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
    """The name of a builder and the options that build the same network again; JSON-able."""

    name: str
    options: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelCard:
    """What the weights of a model mean.

    classes: one name per class id, in the order of the ids, or empty when nobody said.
    palette: one RGB colour (0..255) per class id, or empty.
    preprocessing: from an image to the network's input.
    provenance: where the weights came from: source layout, file hash, licence, tool version.
    """

    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: Mapping[str, JSON] = field(default_factory=dict)

    def without_classes(self) -> ModelCard:
        """The card once the last layers are fresh: the images are still prepared in the same way."""
        return replace(self.derived(), classes=(), palette=())

    def derived(self) -> ModelCard:
        """The card for weights that may have changed since: what was proven of the original is not true of them."""
        if not _CLAIMS & self.provenance.keys():
            return self
        original: dict[str, JSON] = {key: value for key, value in self.provenance.items() if key != "proof"}
        return replace(self, provenance={"derived_from": original})


# Words of a provenance that hold for these very tensors only.
_CLAIMS = {"proof", "source_sha256"}
