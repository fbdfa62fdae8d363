"""What a layout is: the names and shapes by which one project's networks are recognised, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from segnets.card import JSON, ModelConfig
from weights_tools.reader.values import TensorRef

Tensors = Mapping[str, TensorRef]


@dataclass(frozen=True)
class Match:
    """A network that was recognised.

    layout, version: the rules that recognised it, recorded in the converted file.
    config: what builds the network in segnets.
    names: for each tensor of the network its name in the file.
    geometry: what no tensor shows, and how this layout settles it.
    unused: tensors that the network never uses.
    """

    layout: str
    version: int
    config: ModelConfig
    names: Mapping[str, str]
    geometry: Mapping[str, JSON]
    notes: tuple[str, ...] = field(default=())
    unused: tuple[str, ...] = field(default=())


class Layout(Protocol):
    """One origin of checkpoints."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    def recognise(self, tensors: Tensors, chosen: Mapping[str, JSON]) -> Match | str | None:
        """Return the network, a reason why this relative of the layout is refused, or None if it is nothing of it.

        chosen: options that no tensor shows, by somebody who knows them.
        """
        ...
