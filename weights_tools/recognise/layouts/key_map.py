"""Tables of names: what a module is called in another project, and what here. Both ways, one to one.

An entry "decode_head.convs.{}.conv": "classifier.convs.{}.0" stands for the module and all that is in it; each {} is
one number, the same on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from segnets.card import JSON

# Theirs -> ours. The first entry that fits counts.
Table = Mapping[str, str]


@dataclass(frozen=True)
class BackboneTable:
    """One kind of backbone as a project names it.

    signature: a tensor that shows it. table: its modules, ours with "backbone." before them.
    required: options that it needs beside those of the head. average: the option `downsample` where its shortcuts pool.
    flattened: see `base.Match`. stages: of a ResNet, so many at least are there; a project that
    keeps those that it does not use has 4.
    """

    signature: str
    table: Table
    required: Mapping[str, JSON] = field(default_factory=dict)
    average: str = "average"
    flattened: tuple[str, ...] = ()
    stages: int = 4


@dataclass(frozen=True)
class NetworkTable:
    """One network of another project, in terms of ours.

    name: what people there call it. signature: a tensor that this network alone has.
    head: ours, or "" for a classifier. bodies: the backbones that it is known on.
    table: how the head's modules are called. last: our name of the layer that gives the scores.
    required: the options under which ours computes the same.
    open: what no tensor shows and people choose, with the project's own default; None is our default.
    unused: modules of theirs that never run here. unique: no other project has these names; without it the
    layout has to be asked for.
    kin: networks of theirs with the same names and shapes that compute something else, by our name of the backbone, or
    "" for every backbone. Nothing in the tensors tells them apart, so it is said aloud.
    """

    name: str
    signature: str
    head: str
    backbones: Sequence[BackboneTable]
    table: Table
    last: str
    required: Mapping[str, JSON] = field(default_factory=dict)
    choices: Mapping[str, JSON] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    unique: bool = True
    look_alikes: Mapping[str, str] = field(default_factory=dict)

    def look_alike_notes(self, backbone: str) -> tuple[str, ...]:
        """Say what else has these names, on this backbone."""
        kin = [what for name, what in self.look_alikes.items() if name in ("", backbone)]
        if not kin:
            return ()
        return (
            f"{'; '.join(kin)} has the same names and shapes, and computes something else: --golden tells them apart",
        )


def rename(names: Iterable[str], table: Table) -> tuple[dict[str, str], list[str]]:
    """Return ours -> theirs, and the names that the table does not know.

    Raises ValueError if two tensors would get one name: a mistake in the table, not in a file.
    """
    renamed: dict[str, str] = {}
    unknown: list[str] = []
    for theirs in names:
        ours = _first(theirs, table.items())
        if ours is None:
            unknown.append(theirs)
        elif ours in renamed:
            raise ValueError(f"{renamed[ours]} and {theirs} both become {ours}")
        else:
            renamed[ours] = theirs
    return renamed, unknown


def rename_back(names: Iterable[str], table: Table) -> dict[str, str] | None:
    """Return ours -> theirs for names of ours, or None if one of them has no place in the table."""
    renamed: dict[str, str] = {}
    for ours in names:
        candidates = (_renamed(ours, new, old) for old, new in table.items())
        # An entry read backwards may give a name that an earlier entry reads otherwise: that is not its name.
        theirs = next((name for name in candidates if name is not None and _first(name, table.items()) == ours), None)
        if theirs is None:
            return None
        renamed[ours] = theirs
    return renamed


def is_in(name: str, modules: Iterable[str]) -> bool:
    """Whether a tensor belongs to one of these modules, given as in a table."""
    return any(_pattern(module).match(name) for module in modules)


def _first(name: str, entries: Iterable[tuple[str, str]]) -> str | None:
    return next((new for old, to in entries if (new := _renamed(name, old, to)) is not None), None)


def _renamed(name: str, old: str, new: str) -> str | None:
    match = _pattern(old).match(name)
    return None if match is None else new.format(*match.groups()) + name[match.end() :]


@cache
def _pattern(module: str) -> re.Pattern[str]:
    numbers = re.escape(module).replace(r"\{\}", r"(\d{1,4})")
    return re.compile(rf"{numbers}(?=\.|$)")
