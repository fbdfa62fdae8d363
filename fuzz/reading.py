"""What one execution does with a file: everything that weights_tools does with one, on one way or another.

Which ways, depends on the bytes alone, so that a failing file fails again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from torch import Tensor

from fuzz.seeds import INDEX
from segnets.errors import OutputError, WeightsError
from segnets.weights.weights_file import read_weights_file
from weights_tools import convert, inspect
from weights_tools.check.values import check_values
from weights_tools.reader import open_checkpoint
from weights_tools.reader.tensors import TensorReader
from weights_tools.reader.values import TensorRef

# How far a file came. From "pickle" on, the checks of the container (directory, checksums, lengths) were passed.
STAGES = ("head", "container", "pickle", "opened", "weights", "network")
_STAGE_OF_MODULE = {
    "identify": "head",
    "source": "container",
    "onnx_model": "head",
    "shards": "container",
    "strict_json": "container",
    "ziparchive": "container",
    "torch_zip": "container",
    "safetensors_file": "container",
    "torch_legacy": "pickle",
    "machine": "pickle",
    "opcodes": "pickle",
    "constructors": "pickle",
}
_MOST_TENSORS = 300


@dataclass(frozen=True)
class Outcome:
    """stage: how far the file came. said: everything that would be shown to a person, an error's text or a report."""

    stage: str
    said: tuple[str, ...]


def read(path: Path, choice: int) -> Outcome:
    """Look at a file in every way. choice: any number; a few ways are taken for some numbers only.

    Raises nothing, whatever the file is, if the promises are kept.
    """
    data = choice % 4 != 0  # without the tensors, changed bytes are not stopped by the checksums
    with mock.patch("weights_tools.reader.source._SMALL", 0 if choice % 64 == 1 else 1 << 20):  # with threads
        try:
            report = inspect(path, data=data)
        except WeightsError as error:
            return Outcome(_stage(error), (str(error),))
    said = [str(report), json.dumps(report.to_json())[:1]]
    stage = "network" if report.model else "weights" if report.tensors else "opened"
    if data and choice % 8 == 1:
        said += _read_tensors(path)
    if choice % 16 == 2:
        said += _convert(path, allow_nonfinite=choice % 32 == 2)
    if choice % 8 == 5:
        said += _inspect_as_a_part(path)
    if report.container == "safetensors" and choice % 4 == 3:
        said += _read_with_the_library(path)
    return Outcome(stage, tuple(said))


def _stage(error: WeightsError) -> str:
    """Where a file was refused: the module of the innermost frame."""
    inner = error.__context__ or error  # the name of the file was put before the reason
    trace = inner.__traceback__
    module = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    name = module.rpartition(".")[2]
    if name == "single":
        return "pickle" if "bare pickle" in str(error) else "head"
    return _STAGE_OF_MODULE.get(name, "opened")


def _read_tensors(path: Path) -> Iterator[str]:
    """Every tensor in the file, also of files in which no network was found."""
    with open_checkpoint(path) as (source, container):
        reader = TensorReader(source, container)
        tensors: dict[str, Tensor] = {}
        for index, ref in enumerate(_tensors(container.top)):
            try:
                tensors[str(index)] = reader.read(str(index), ref)
            except WeightsError as error:
                yield str(error)
        yield from check_values(tensors).problems


def _tensors(top: object) -> Iterator[TensorRef]:
    waiting, found = [top], 0
    seen: set[int] = set()
    while waiting and found < _MOST_TENSORS and len(seen) < 2000:
        node = waiting.pop()
        if isinstance(node, TensorRef):
            found += 1
            yield node
        elif id(node) not in seen and isinstance(node, dict | list | tuple):
            seen.add(id(node))
            waiting += list(node.values() if isinstance(node, dict) else node)[:_MOST_TENSORS]


def _convert(path: Path, *, allow_nonfinite: bool) -> Iterator[str]:
    target = path.with_name("converted.safetensors")
    try:
        yield str(convert(path, target, allow_nonfinite=allow_nonfinite))
    except (WeightsError, OutputError) as error:
        yield str(error)
        if target.exists():
            raise AssertionError("a refused file left an output behind") from None
    else:
        if read_weights_file(target).config is None:
            raise AssertionError("the output does not describe itself")
        target.unlink()


def _inspect_as_a_part(path: Path) -> Iterator[str]:
    """As one of the files that an index lists."""
    try:
        yield str(inspect(path.with_name(INDEX)))
    except WeightsError as error:
        yield str(error)


def _read_with_the_library(path: Path) -> Iterator[str]:
    try:
        read_weights_file(path)
    except WeightsError as error:
        yield str(error)
