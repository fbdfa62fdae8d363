"""Facts from a config: `Findings` collects them, `SourceConfig` holds the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segnets.card import JSON, Colour, Decoding
from weights_tools._text import join_names

_MAX_NOTES = 8  # limit for notes and for reasons, because a file could cause any number


@dataclass(frozen=True)
class SourceConfig:
    """Facts about a network from the config of the project that wrote its weights.

    Attributes:
        source: Where the config was found, for messages.
        project: Layout of the project: "mmseg", "smp", "timm" or "transformers"; None if unknown.
        options: Options of segnets that the config determines. The weights may also determine some of them. None stands
            for an option that is not used, such as multi_grid.
        classes: Names of the classes.
        palette: Colours of the classes.
        preprocessing: Fields of the preprocessing in the config, by name: `resize` and `size`, `mean` and `std`,
            `channel_order`, and others.
        decoding: Rule that turns logits into ids, or None if the config has none.
        notes: Remarks for the user.
        refused: Reason why segnets has no equivalent network, although the tensors may fit one.
        expects: Facts that the tensors must show if the config belongs to them: "head", "backbone", and options. Only
            used for comparison, by `find_contradiction`.
    """

    source: str
    project: str | None = None
    options: Mapping[str, JSON] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refused: str | None = None
    expects: Mapping[str, JSON] = field(default_factory=dict)
    decoding: Decoding | None = None


@dataclass
class Findings:
    """Facts found in a config so far, with the attributes of `SourceConfig` but `reasons` instead of `refused`."""

    options: dict[str, JSON] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    expects: dict[str, JSON] = field(default_factory=dict)
    decoding: Decoding | None = None

    def note(self, text: str) -> None:
        """Add a remark for the user."""
        self.notes.append(text)

    def refuse(self, reason: str) -> None:
        """Add a reason why segnets has no such network."""
        self.reasons.append(reason)

    def set_option(self, option: str, value: JSON) -> None:
        """Set an option of segnets."""
        self.options[option] = value

    def expect(self, fact: str, value: JSON) -> None:
        """Add a fact that the tensors must show, unless its value is None (unknown)."""
        if value is not None:
            self.expects[fact] = value

    def finish(self, source: str, project: str | None) -> SourceConfig:
        """Return the findings as the config of `project`, found at `source`."""
        return SourceConfig(
            source,
            project,
            self.options,
            self.classes,
            self.palette,
            self.preprocessing,
            tuple(dict.fromkeys(self.notes))[:_MAX_NOTES],
            join_names(dict.fromkeys(self.reasons), _MAX_NOTES) if self.reasons else None,
            self.expects,
            self.decoding,
        )
