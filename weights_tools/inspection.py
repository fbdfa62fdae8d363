"""`inspect`: what a file holds, and whether it could be converted. Nothing of it is executed."""

from __future__ import annotations

import os
from dataclasses import replace

from segnets.errors import WeightsError
from weights_tools.checkpoint import StateDict, find_state_dict
from weights_tools.opened import Recognised, count_dtypes, hash_in_name, opened, recognise_network
from weights_tools.reader import Container, Content
from weights_tools.report import InspectReport


def inspect(src: str | os.PathLike[str], *, key: str | None = None, data: bool = True) -> InspectReport:
    """Say what a file is: container, wrappers, network, classes, number formats, doubts.

    key: which dictionary of the file to look at, where it has several. data: also read the tensors, check the file's
    checksums and look for NaN; without it a large file takes a fraction of a second.

    A checkpoint that can be read and not converted gives a report whose `refused` says why.
    Raises WeightsError if the file is no checkpoint at all, or damaged.
    """
    with opened(src, data=data) as (source, container):
        base = InspectReport(
            file=str(src),
            size=source.size,
            sha256=source.sha256() if data else None,
            container=container.kind,
            notes=tuple(container.notes),
            doubts=_doubts_of_file(source, container, data=data),
        )
        try:
            found = recognise_network(container, key=key)
        except WeightsError as error:
            return _refused(base, container, key, str(error))
        report = _with_tensors(base, found.state)
        return _recognised(report, source, container, found, data=data)


def _doubts_of_file(source: Content, container: Container, *, data: bool) -> tuple[str, ...]:
    doubts = [f"it names {name}, which no checkpoint needs and an attack does" for name in container.hostile()[:3]]
    stated = hash_in_name(source.path)
    if data and stated is not None and not source.sha256().startswith(stated):
        doubts.append(f"its name states the checksum {stated}, but its sha256 begins with {source.sha256()[:8]}")
    return tuple(doubts)


def _refused(base: InspectReport, container: Container, key: str | None, reason: str) -> InspectReport:
    try:
        state = find_state_dict(container, key)
    except WeightsError:
        return replace(base, refused=reason)
    return replace(_with_tensors(base, state), refused=reason)


def _with_tensors(base: InspectReport, state: StateDict) -> InspectReport:
    return replace(
        base,
        tensors=len(state.tensors),
        parameters=sum(ref.numel for ref in state.tensors.values()),
        dtypes=count_dtypes(state.tensors),
        path=state.path,
        stripped=state.stripped,
        dropped=state.dropped,
        ignored=state.ignored,
        notes=(*base.notes, *state.notes),
    )


def _recognised(
    report: InspectReport, source: Content, container: Container, found: Recognised, *, data: bool
) -> InspectReport:
    notes, doubts = list(report.notes), list(report.doubts)
    if found.fit.zeroed:
        notes.append(f"{len(found.fit.zeroed)} batch norm counters are absent; a conversion sets them to 0")
    refused = None
    if data:
        from weights_tools.reader.tensors import TensorReader
        from weights_tools.soundness import examine

        reader = TensorReader(source, container)
        soundness = examine({old: reader.read(old, found.state.tensors[old]) for old in found.fit.names.values()})
        doubts += [*soundness.problems, *soundness.doubts]
        refused = "; ".join(soundness.problems) or None
    if container.hostile():
        refused = "it is probably an attack; nothing of it was run"
    return replace(
        report,
        layout=found.match.layout,
        model=found.match.config.name,
        options=found.match.config.options,
        geometry=found.match.geometry,
        notes=tuple(notes),
        doubts=tuple(doubts),
        refused=refused,
    )
