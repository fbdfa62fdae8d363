"""Describe what a file holds and whether it can be converted, without executing anything in it."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import replace

from segnets.card import ModelCard, describe_assumed
from segnets.errors import WeightsError
from segnets.registry import BACKBONES
from weights_tools._provenance import described_card, find_published, hash_in_name, other_channels
from weights_tools._reports import Candidate, InspectReport
from weights_tools._text import printable
from weights_tools.check.values import ValueCheck, check_values
from weights_tools.extract.state_dict import SeveralStateDictsError, StateDict, find_state_dict
from weights_tools.reader import Container, Content, TensorReader, open_checkpoint
from weights_tools.reader.values import ITEM_SIZES
from weights_tools.recognise import Recognised, describe_architecture, recognise

_MAX_READ = 4  # as a multiple of the file's size
_MAX_CANDIDATES = 10  # number that the error lists; each takes a tenth of a second


def inspect(src: str | os.PathLike[str], *, key: str | None = None, data: bool = True) -> InspectReport:
    """Describe a checkpoint: container, wrappers, network, preprocessing, dtypes, doubts.

    Args:
        src: Checkpoint of any readable container format.
        key: Dictionary of the file to describe, if there are several.
        data: Whether to read the tensors too, verify checksums and look for NaN. Without this, even a large file takes
            only a fraction of a second.

    Returns:
        A report; if the checkpoint could not be converted, `refused` gives the reason.

    Raises:
        WeightsError: If the file is not a checkpoint, or is damaged.
    """
    with open_checkpoint(src, data=data) as (source, container):
        base = InspectReport(
            file=str(src),
            size=source.size,
            sha256=source.sha256() if data else None,
            container=container.kind,
            notes=tuple(container.notes),
            doubts=_file_doubts(source, container, data=data),
        )
        try:
            state = find_state_dict(container, key)
        except SeveralStateDictsError as error:
            keys = error.keys[:_MAX_CANDIDATES]
            candidates = tuple(_candidate(source, container, each, data=data) for each in keys)
            return replace(base, refused=str(error), candidates=candidates)
        except WeightsError as error:
            return replace(base, refused=str(error))
        try:
            found = recognise(container, state, file=source.path)
        except WeightsError as error:
            return _refused(base, source, container, state, str(error), data=data)
        report = _with_tensors(base, found.state)
        return _recognised(report, source, container, found, data=data)


def _file_doubts(source: Content, container: Container, *, data: bool) -> tuple[str, ...]:
    doubts = [
        f"the file names {name}, which an attack needs and a checkpoint does not" for name in container.hostile()[:3]
    ]
    stated = hash_in_name(source.path)
    if data and stated is not None and not source.sha256().startswith(stated):
        doubts.append(f"the file's name states the checksum {stated}, but its sha256 begins with {source.sha256()[:8]}")
    return tuple(doubts)


def _refused(
    base: InspectReport, source: Content, container: Container, state: StateDict, reason: str, *, data: bool
) -> InspectReport:
    report = _with_tensors(replace(base, refused=reason), state)
    # Thousands of views of one storage would take hours to check.
    small = sum(ref.numel * ITEM_SIZES[ref.dtype] for ref in state.tensors.values()) <= _MAX_READ * source.size
    with contextlib.suppress(WeightsError):  # the error above takes precedence
        values = _check(source, container, state, list(state.tensors), data=data and small)
        report = replace(report, doubts=(*report.doubts, *values.problems, *values.doubts))
    return report


def _candidate(source: Content, container: Container, key: str, *, data: bool) -> Candidate:
    name = printable(key, quote=False)
    try:
        found = recognise(container, find_state_dict(container, key), file=source.path)
        values = _check(source, container, found.state, list(found.fit.names.values()), data=data)
    except WeightsError as error:
        return Candidate(name, refused=str(error))
    return Candidate(
        name,
        layout=found.match.layout,
        model=found.match.config.name,
        options=found.match.config.options,
        tensors=len(found.state.tensors),
        refused="; ".join(values.problems) or None,
    )


def _check(source: Content, container: Container, state: StateDict, names: list[str], *, data: bool) -> ValueCheck:
    """Check the values of these tensors, if reading is allowed."""
    if not data:
        return ValueCheck()
    reader = TensorReader(source, container)
    return check_values({name: reader.read(name, state.tensors[name]) for name in names})


def _with_tensors(base: InspectReport, state: StateDict) -> InspectReport:
    return replace(
        base,
        tensors=len(state.tensors),
        parameters=sum(ref.numel for ref in state.tensors.values()),
        dtypes=dict(sorted(Counter(ref.dtype for ref in state.tensors.values()).items())),
        path=state.path,
        stripped=state.stripped,
        dropped=state.dropped,
        ignored=state.ignored,
        notes=(*base.notes, *state.notes),
    )


def _recognised(
    report: InspectReport, source: Content, container: Container, found: Recognised, *, data: bool
) -> InspectReport:
    notes, doubts = [*report.notes, *found.match.notes], list(report.doubts)
    if found.fit.zeroed:
        notes.append(f"{len(found.fit.zeroed)} batch norm counters are absent; a conversion sets them to 0")
    values = _check(source, container, found.state, list(found.fit.names.values()), data=data)
    doubts += [*values.problems, *values.doubts]
    refused = "; ".join(values.problems) or None
    if container.hostile():
        refused = "the file is probably an attack; nothing in it was run"
    card = ModelCard()
    try:
        published = find_published(source.path, source.sha256() if data else None, found.match.config)
        card, note = described_card(found, published, TensorReader(source, container))
        notes += [each for each in (note, other_channels(found.match.config, card)) if each]
    except WeightsError as error:
        refused = refused or str(error)
    prepares = found.match.config.name not in BACKBONES
    return replace(
        report,
        layout=found.match.layout,
        model=found.match.config.name,
        options=found.match.config.options,
        architecture=describe_architecture(found.match.config),
        geometry=found.match.geometry,
        decoding=None if card.decoding is None else card.decoding.to_json(),
        preprocessing=card.preprocessing.to_json() if prepares else {},
        assumed=describe_assumed(card),
        notes=tuple(notes),
        doubts=tuple(doubts),
        refused=refused,
    )
