"""The interface of a layout: the rules for recognising the networks of one project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from segnets.card import JSON, ModelConfig
from weights_tools.reader.values import TensorRef

Tensors = Mapping[str, TensorRef]


@dataclass(frozen=True)
class Evidence:
    """Everything that a layout may use to judge a checkpoint.

    Attributes:
        tensors: Tensors by their names in the file, without the prefixes of wrappers.
        chosen: Options that the caller chose.
        configured: Options from the project's own config. `chosen` overrides them.
        container: Format of the file, as in `Container.kind`.
        requested: Whether the caller asked for this layout. Otherwise names shared with other projects do not count as
            evidence.
    """

    tensors: Tensors
    chosen: Mapping[str, JSON] = field(default_factory=dict)
    configured: Mapping[str, JSON] = field(default_factory=dict)
    container: str = ""
    requested: bool = False


@dataclass(frozen=True)
class Match:
    """A recognised network.

    Attributes:
        layout: Name of the layout, recorded in the converted file.
        version: Version of the layout's rules, recorded in the converted file.
        config: Equivalent network in segnets.
        names: Name in the file for each tensor of the network.
        geometry: Options that the weights do not determine, with the values that the layout assumes.
        notes: Remarks for the user.
        flattened: Linear layers of the network, by our names, that are 1x1 convolutions in the file. The values and
            their order are the same.
        unused: Tensors of the file that the network never uses.
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
    """One set of names that a project may use for the tensors of a segnets network.

    Attributes:
        names: Name in the project for each tensor of ours.
        chosen: Options that a reader of the exported file has to choose.
        flattened: Linear layers, by our names, that are 1x1 convolutions in the project.
    """

    names: Mapping[str, str]
    chosen: Mapping[str, JSON] = field(default_factory=dict)
    flattened: tuple[str, ...] = ()


class Layout(Protocol):
    """The names, shapes and conventions of one project's checkpoints."""

    @property
    def name(self) -> str:
        """Name for `--layout` and for the converted file."""
        ...

    @property
    def version(self) -> int:
        """Version of the rules, increased when their results change."""
        ...

    def match(self, evidence: Evidence) -> Match | str | None:
        """Recognise a network.

        Returns:
            The network; a reason for refusing it if the tensors resemble this layout but are not supported; or None if
            they have nothing to do with it.
        """
        ...

    def match_backbone(self, evidence: Evidence) -> Match | str | None:
        """Recognise the backbone alone, as `match` does; all other tensors are unused."""
        ...

    def export_names(self, config: ModelConfig, names: Sequence[str]) -> Iterator[ExportNames]:
        """Yield the sets of names that the project may use for a segnets network, without checking them.

        Args:
            config: Network to export.
            names: Names of its tensors.
        """
        ...
