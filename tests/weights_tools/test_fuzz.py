"""Files changed at random: the reader answers or raises WeightsError, and nothing else."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from segnets.errors import WeightsError
from tests.weights_tools.files import saved
from weights_tools.opened import opened, recognise_network
from weights_tools.reader.constructors import construct, storage_of
from weights_tools.reader.machine import Machine
from weights_tools.reader.tensors import TensorReader
from weights_tools.reader.values import TensorRef

SMALL = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2), "n": torch.tensor(3)}
SEEDS = {
    "zip": saved({"model": SMALL, "epoch": 3, "args": ValueError("x")}),
    "legacy": saved(SMALL, _use_new_zipfile_serialization=False),
    "safetensors": save(SMALL, {"a": "b"}),
    "pickle": pickle.dumps({"a": [1, 2.0, "x", b"y", (None, True)], "b": ValueError("x")}, 4),
}
SETTINGS = settings(
    max_examples=250, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "copy"]), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)
    ),
    min_size=1,
    max_size=4,
)


def _edited(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for kind, where, new in edits:
        at = where % (len(data) + 1)
        if kind == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "cut":
            data = data[:at] + data[at + new[0] :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        else:
            data = data[:at] + data[at : at + 40] + data[at:]
    return data


def _read_everything(path: Path) -> None:
    with contextlib.suppress(WeightsError), opened(path) as (source, container):
        with contextlib.suppress(WeightsError):
            recognise_network(container)
        reader = TensorReader(source, container)
        for value in list(container.top.values()) if isinstance(container.top, dict) else []:
            if isinstance(value, TensorRef):
                with contextlib.suppress(WeightsError):
                    reader.read("w", value).sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_files_changed_at_random(tmp_path: Path, seed: str) -> None:
    path = tmp_path / "w.pth"

    @SETTINGS
    @given(EDITS)
    def check(edits: list[tuple[str, int, bytes]]) -> None:
        path.write_bytes(_edited(SEEDS[seed], edits))
        _read_everything(path)

    check()


@SETTINGS
@given(st.binary(max_size=200))
def test_noise_as_pickle(data: bytes) -> None:
    with contextlib.suppress(WeightsError):
        Machine(memoryview(data), 0, construct, storage_of).run()


@SETTINGS
@given(EDITS)
def test_pickle_of_a_checkpoint_changed_at_random(edits: list[tuple[str, int, bytes]]) -> None:
    """The checksums of the zip would stop most of these before the machine sees them."""
    from tests.weights_tools.files import unzip

    data = _edited(unzip(SEEDS["zip"])["data.pkl"], edits)
    with contextlib.suppress(WeightsError):
        Machine(memoryview(data), 0, construct, storage_of).run()
