"""Do with a file all that weights_tools does with one, on paths that depend on its bytes alone."""

from __future__ import annotations

import itertools
import json
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from segnets.errors import OutputError, WeightsError
from segnets.weights.weights_file import read_weights_file
from tests.fuzz.seeds import INDEX
from weights_tools import convert, inspect
from weights_tools.check.values import check_values
from weights_tools.reader import open_checkpoint
from weights_tools.reader.tensors import TensorReader
from weights_tools.reader.values import TensorRef

# Modules that check the container: its directory, checksums and lengths.
_CONTAINER = ["source", "shards", "strict_json", "_zip_archive", "torch_zip", "safetensors_file"]
_CONTAINER += ["identify", "onnx_model", "_single_file"]
_MAX_TENSORS, _MAX_NODES = 300, 2000


@dataclass(frozen=True)
class Outcome:
    """The stage that a file reached (see STAGES), and every text that a person would see."""

    stage: str
    messages: tuple[str, ...]


def read(path: Path, choice: int) -> Outcome:
    """Read a file on every path; some numbers `choice` take further ones. Raises nothing if the promises are kept."""
    data = choice % 4 != 0  # without the tensors' bytes, checksums don't stop changed ones
    with mock.patch("weights_tools.reader.source._SMALL", 0 if choice % 64 == 1 else 1 << 20):  # 0: with threads
        try:
            report = inspect(path, data=data)
        except WeightsError as error:
            return Outcome(_stage(error), (str(error),))
    messages = [str(report), json.dumps(report.to_json())[:1]]
    stage = "network" if report.model else "weights" if report.tensors else "opened"
    if data and choice % 8 == 1:
        messages += _read_tensors(path)
    if choice % 16 == 2:
        messages += _convert(path, allow_nonfinite=choice % 32 == 2)
    try:
        if choice % 8 == 5:  # as one of the files that an index lists
            messages.append(str(inspect(path.with_name(INDEX))))
        if report.container == "safetensors" and choice % 4 == 3:
            read_weights_file(path)
    except WeightsError as error:
        messages.append(str(error))
    return Outcome(stage, tuple(messages))


def _stage(error: WeightsError) -> str:
    """Return the stage of the innermost function that refused a file."""
    trace = (error.__context__ or error).__traceback__  # the outer error adds the file's name
    modules = [frame.f_globals["__name__"].rpartition(".")[2] for frame, _ in traceback.walk_tb(trace)]
    return "container" if modules[-1] in _CONTAINER and "bare pickle" not in str(error) else "content"


def _read_tensors(path: Path) -> Iterator[str]:
    """Read every tensor of the file, whether or not a network was found."""
    with open_checkpoint(path) as (source, container):
        reader, tensors, nodes = TensorReader(source, container), {}, [container.top]
        for node in nodes:  # which grow
            if isinstance(node, dict | list | tuple) and len(nodes) < _MAX_NODES:
                nodes += list(node.values() if isinstance(node, dict) else node)[:_MAX_TENSORS]
        refs = {id(node): node for node in nodes if isinstance(node, TensorRef)}
        for index, ref in enumerate(itertools.islice(refs.values(), _MAX_TENSORS)):
            try:
                tensors[str(index)] = reader.read(str(index), ref)
            except WeightsError as error:
                yield str(error)
        yield from check_values(tensors).problems


def _convert(path: Path, *, allow_nonfinite: bool) -> Iterator[str]:
    target = path.with_name("converted.safetensors")
    try:
        yield str(convert(path, target, allow_nonfinite=allow_nonfinite))
    except (WeightsError, OutputError) as error:
        yield str(error)
        assert not target.exists(), "a refused file left an output behind"
    else:
        assert read_weights_file(target).config is not None, "the output does not describe itself"
        target.unlink()
