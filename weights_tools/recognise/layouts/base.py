"""What a layout is: the names and shapes by which one project's networks are recognised, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from segnets.card import JSON, ModelConfig
from weights_tools.reader.values import TensorRef

Tensors = Mapping[str, TensorRef]


@dataclass(frozen=True)
class Evidence:
    """Everything that a layout may judge by.

    tensors: by their names in the file, wrappers taken off.
    chosen: options that no tensor shows, by somebody who knows them. told: the same, by a configuration of the
    project's own that stands beside the tensors; what is chosen counts more.
    container: the kind of file. by_name: this layout was asked for, and need not be sure.
    """

    tensors: Tensors
    chosen: Mapping[str, JSON] = field(default_factory=dict)
    told: Mapping[str, JSON] = field(default_factory=dict)
    container: str = ""
    by_name: bool = False


@dataclass(frozen=True)
class Match:
    """A network that was recognised.

    layout, version: the rules that recognised it, recorded in the converted file.
    config: what builds the network in segnets.
    names: for each tensor of the network its name in the file.
    geometry: what no tensor shows, and how this layout settles it.
    flattened: 1x1 convolutions of the file, by our names, that are linear layers here: the same numbers in the same
    order, two dimensions fewer.
    unused: tensors of the file that the network never uses.
    """

    layout: str
    version: int
    config: ModelConfig
    names: Mapping[str, str]
    geometry: Mapping[str, JSON]
    notes: tuple[str, ...] = ()
    flattened: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportNames:
    """One set of names that a project may have for a network of ours.

    names: ours -> theirs. chosen: the options that have to be said when the file is read again. flattened: as in
    `Match`.
    """

    names: Mapping[str, str]
    chosen: Mapping[str, JSON] = field(default_factory=dict)
    flattened: tuple[str, ...] = ()


class Layout(Protocol):
    """One origin of checkpoints."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    def match(self, evidence: Evidence) -> Match | str | None:
        """Return the network, a reason why this relative of the layout is refused, or None if it is nothing of it."""
        ...

    def match_backbone(self, evidence: Evidence) -> Match | str | None:
        """As `match`, of the backbone alone; all else in the file is unused."""
        ...

    def export_names(self, config: ModelConfig, names: Sequence[str]) -> Iterator[ExportNames]:
        """Yield what the tensors of a network of ours, `names`, may be called there; none of it is checked."""
        ...
