"""What a configuration tells of the tensors beside it (`SourceConfig`), and how it is gathered (`Findings`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from segnets.card import JSON, Colour
from segnets.preprocessing import Preprocessing
from weights_tools._text import join_names

_MOST = 8  # notes, and reasons: a file could have as many as it likes


@dataclass(frozen=True)
class SourceConfig:
    """What a checkpoint's own configuration says. Everything is optional.

    source: where it says so, for people. project: whose configuration it is: "mmseg", "smp", "timm", "transformers".
    options: those of segnets that it settles; None is "none", as of multi_grid. Tensors may show some of them too.
    preprocessing: channels, mean and std; sizes are left alone.
    refused: why no network of segnets computes what this one does, although its tensors may have the same names.
    expects: what the tensors themselves have to show if it is theirs: "head", "backbone", options that they show. To be
    compared (`contradiction`), never believed.
    """

    source: str
    project: str | None = None
    options: Mapping[str, JSON] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()
    refused: str | None = None
    expects: Mapping[str, JSON] = field(default_factory=dict)


@dataclass
class Findings:
    """What has been found so far. preprocessing stays None as long as nothing is known of the images."""

    options: dict[str, JSON] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    expects: dict[str, JSON] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def refuse(self, reason: str) -> None:
        self.reasons.append(reason)

    def state(self, option: str, value: JSON) -> None:
        self.options[option] = value

    def expect(self, fact: str, value: JSON) -> None:
        """Something that shows in the tensors; None is not known."""
        if value is not None:
            self.expects[fact] = value

    def told(self, source: str, project: str | None) -> SourceConfig:
        return SourceConfig(
            source,
            project,
            self.options,
            self.classes,
            self.palette,
            self.preprocessing,
            tuple(dict.fromkeys(self.notes))[:_MOST],
            join_names(dict.fromkeys(self.reasons), _MOST) if self.reasons else None,
            self.expects,
        )
