"""What fuzzing found, each as small as it could be made."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from segnets.card import ModelCard, ModelConfig
from segnets.errors import WeightsError
from segnets.preprocessing import Preprocessing
from segnets.weights.description import METADATA_KEY, encode
from tests.fuzz.structure import Document, Entry
from tests.weights_tools.files import rezip, saved
from weights_tools import inspect
from weights_tools.reader._constructors import construct, storage_of
from weights_tools.reader._machine import Machine
from weights_tools.reader.limits import MAX_TENSORS

EMPTY = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}


def safetensors(path: Path, header: object) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


def test_the_name_of_a_class_is_escaped_for_the_terminal(tmp_path: Path) -> None:
    path = rezip(tmp_path / "w.pth", {"data.pkl": b"\x80\x02cos\x1b[2J\nsystem\n)R.", "data/0": b""})
    text = str(inspect(path))
    assert "os\\x1b[2J.system" in text
    assert "\x1b" not in text


def test_a_key_is_escaped_for_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(saved({"\x1b[2J": {"w": torch.ones(1)}}))
    assert "\x1b" not in str(inspect(path))


def test_a_repeated_long_name_is_fast() -> None:
    text = b"X" + (8 << 20).to_bytes(4, "little") + b"a" * (8 << 20) + b"q\0"
    before = time.process_time()
    Machine(memoryview(text + b"h\0h\0\x930" * 20_000 + b"N."), 0, construct, storage_of).run()
    assert time.process_time() - before < 5


def test_more_classes_than_any_checkpoint_names() -> None:
    data = b"".join(b"cm\n%d\n0" % index for index in range(10_001)) + b"N."
    with pytest.raises(WeightsError, match="names more than 10,000 classes"):
        Machine(memoryview(data), 0, construct, storage_of).run()


def test_more_tensors_than_any_network_has(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "w.safetensors", {str(index): EMPTY for index in range(MAX_TENSORS + 2)})
    with pytest.raises(WeightsError, match=f"holds {MAX_TENSORS + 2:,} tensors, more than any network has"):
        inspect(path)


def test_a_description_of_a_network_without_end(tmp_path: Path) -> None:
    description = encode(ModelConfig("deeplabv3_resnet50", {"atrous_rates": [1] * 100_000}), ModelCard())
    path = safetensors(tmp_path / "w.safetensors", {"__metadata__": {METADATA_KEY: description}, "w": EMPTY})
    before = time.process_time()
    assert "can't be built: atrous_rates=" in str(inspect(path).refused)
    assert time.process_time() - before < 5


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessing": {**Preprocessing().to_json(), "mean": [10**400, 1, 1]}},
        {"preprocessing": {str(number): 1 for number in range(5000)}},
        {"preprocessing": "x" * 100_000},
        {"classes": ["\x1b[2J"]},
        {"model": {"name": "resnet50", "options": {"\x1b[2J": 1}}},
    ],
    ids=["overflow", "fields", "text", "class", "option"],
)
def test_a_damaged_description_is_refused_in_one_short_line(tmp_path: Path, change: dict[str, object]) -> None:
    described = {**json.loads(encode(ModelConfig("lraspp_mobilenet_v3_small", {}), ModelCard())), **change}
    path = safetensors(tmp_path / "w.safetensors", {"__metadata__": {METADATA_KEY: json.dumps(described)}, "w": EMPTY})
    refused = str(inspect(path).refused)
    assert "description" in refused or "described" in refused
    assert refused.isprintable()
    assert len(refused) < 500


def test_the_dtype_of_a_tensor_is_escaped_for_the_terminal(tmp_path: Path) -> None:
    tensor = b"ctorch._utils\n_rebuild_tensor_v3\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nK\1tQK\0))\x89}"
    pickle = b"\x80\x02}S'w'\n" + tensor + b"ctorch\n\x1b[2J\ntRs."
    text = str(inspect(rezip(tmp_path / "w.pth", {"data.pkl": pickle, "data/0": bytes(4)})))
    assert "the tensor 'w' is a torch.\\x1b[2J tensor" in text


def test_the_name_of_a_duplicate_entry_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    name = "n" * 50_000
    entries = [Entry(name.encode(), b""), Entry(name.encode(), b"")]
    path.write_bytes(Document("zip", entries=entries).to_bytes())
    with pytest.raises(WeightsError, match="the archive has two entries") as caught:
        inspect(path)
    assert len(str(caught.value)) < 1000
