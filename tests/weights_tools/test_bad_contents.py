"""Undamaged files that do not hold one network's weights, and the environment of the command."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets.errors import WeightsError
from tests.tiers import full_but
from tests.weights_tools.files import assert_same, network
from weights_tools import convert, inspect
from weights_tools.cli import main

ROOT = Path(__file__).parents[2]
State = dict[str, Tensor]
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0]}]}
ZERO = {"base_optimizer_state": {}, "zero_stage": 2, "single_partition_of_fp32_groups": [torch.ones(3)]}


def _refusal(tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error of `convert` for a file of torch.save; check that it writes no file."""
    path = tmp_path / "w.pth"
    torch.save(content, path)
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]
    error = capsys.readouterr()
    assert error.out == ""
    assert error.err.startswith(f"weights-tools: {path}: ")
    assert main(["inspect", str(path)]) == 1
    assert "Traceback" not in capsys.readouterr().err
    return error.err


NO_WEIGHTS: dict[str, tuple[Any, str]] = {
    "None": (None, "but nothing (None). Save model.state_dict() instead."),
    "tensor": (torch.ones(3), "but a bare tensor (3,). Save model.state_dict() instead."),
    "list": (
        [torch.ones(3)],
        "tensors without names (1 in a list), as in model.parameters() and torch_ema",
    ),
    "tuple": ((1, torch.ones(3)), "but a bare tuple"),
    "number": (3.5, "but a bare float"),
    "empty": ({}, "but an empty dictionary"),
    "other things": ({"epoch": 3}, "but the keys epoch (int)"),
    "optimizer": (
        OPTIMIZER,
        "the checkpoint holds only the state of an optimizer, no weights of a network. Pass the model",
    ),
    "optimizer with others": (
        {"optimizer": OPTIMIZER, "epoch": 3},
        "the checkpoint holds the state of an optimizer (under 'optimizer') and no weights of a network. Pass the",
    ),
    "one process of ZeRO": (
        {"optimizer_state_dict": ZERO, "ds_version": "0.14"},
        "the checkpoint holds the state of an optimizer (under 'optimizer_state_dict') and no weights of a network",
    ),
    "LoRA": (
        {f"base_model.model.layer1.0.conv1.lora_{c}.weight": torch.ones(4, 4) for c in "AB"},
        "the tensors look like a LoRA adapter, which is only a change to the weights of another file",
    ),
}


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_files_without_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    content, message = NO_WEIGHTS[case]
    error = _refusal(tmp_path, content, capsys)
    assert message in error
    assert len(error.splitlines()) == 1


NAMES: list[Any] = [3, ("a", 1), b"a", None, "a\nb", "a\0b", "a/b", "../a", "\ud800", "__metadata__", "x" * 10_000_000]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:14])
def test_unusable_tensor_names_are_refused(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], name: Any
) -> None:
    error = _refusal(tmp_path, {**state, name: torch.ones(2)}, capsys)
    assert len(error.splitlines()) == 1
    assert len(error) < 400
    assert "name" in error


@pytest.mark.parametrize("name", ["a\nb", "a/b", "..", "\u202e", "x" * 1_000])
def test_unusable_names_in_a_safetensors_header_are_refused(tmp_path: Path, name: str) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({name: entry}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    report = inspect(tmp_path / "w.safetensors")
    assert report.refused is not None
    assert "name" in report.refused


@pytest.mark.parametrize("first", ["module.", "_orig_mod.", "model.", "net.", "network."])
def test_prefixes_are_removed_in_any_order(tmp_path: Path, state: State, first: str) -> None:
    for second in ("", "module.", "_orig_mod.", "model."):
        averaged = {"n_averaged": torch.tensor(3)} if second == "module." else {}
        prefixed = {f"{first}{second}{name}": tensor for name, tensor in state.items()}
        torch.save({**averaged, **prefixed}, tmp_path / "w.pth")
        report = inspect(tmp_path / "w.pth", data=False)
        assert report.model == "lraspp_mobilenet_v3_large", (first, second, report.refused)
        assert "".join(report.stripped) == f"{first}{second}"
        assert report.dropped == (("n_averaged",) if averaged else ())


def test_names_equal_without_their_prefix_are_refused(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    both = {**state, "module.backbone.0.0.weight": state["backbone.0.0.weight"]}
    assert "+ module.backbone.0.0.weight" in _refusal(tmp_path, both, capsys)


def test_objects_of_missing_libraries_are_ignored(tmp_path: Path, state: State) -> None:
    """Read a checkpoint as mmengine writes it, without mmengine's classes."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self.history = torch.ones(3)

    HistoryBuffer.__module__ = module.__name__
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for parent in ("mmengine", "mmengine.logging"):  # may be absent
            patch.setitem(sys.modules, parent, types.ModuleType(parent))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save(
            {"state_dict": state, "message_hub": {"loss": HistoryBuffer()}, "best": HistoryBuffer()}, tmp_path / "w.pth"
        )
    report = convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert "best (mmengine.logging.history_buffer.HistoryBuffer)" in report.ignored
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)


PARTS = {
    "backbone": (
        "backbone.",
        "the tensors are only the backbone of a segmentation network (mobilenet_v3_large), without a classifier",
    ),
    "classifier": ("classifier.", "no known network has these"),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_of_a_network_are_refused(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    prefix, message = PARTS[case]
    part = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    assert message in _refusal(tmp_path, part, capsys)


def test_missing_and_extra_tensors_are_listed(tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]) -> None:
    extra = {f"extra.{i}": torch.ones(1) for i in range(12)}
    without = {name: tensor for name, tensor in state.items() if "high_classifier" not in name}
    lines = _refusal(tmp_path, {**without, **extra}, capsys).splitlines()
    assert lines[0].endswith("but do not fit it: 2 missing, 12 unexpected")
    assert lines[1:3] == ["  - classifier.high_classifier.weight", "  - classifier.high_classifier.bias"]
    assert lines[3:] == [*(f"  + extra.{i}" for i in range(10)), "  + and 2 more"]


def test_classifiers_with_different_class_counts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(network("deeplabv3_mobilenet_v3_large", aux_loss=True, num_classes=21).state_dict())
    for name in ("classifier.4.weight", "classifier.4.bias"):
        state[name] = state[name][:19].clone()
    error = _refusal(tmp_path, state, capsys)
    assert "(num_classes=19, aux_loss=True) but do not fit it: 2 of a different shape" in error
    assert "~ aux_classifier.4.bias: file (21,), model (19,)" in error


@pytest.mark.parametrize("aux", [True, False])
def test_auxiliary_classifier_is_optional(tmp_path: Path, aux: bool) -> None:
    source = network("deeplabv3_mobilenet_v3_large", aux_loss=aux)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    assert convert(tmp_path / "w.pth", tmp_path / "out.safetensors").options["aux_loss"] is aux


def test_report_lists_the_assumed_options(tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]) -> None:
    """Take torchvision's options for what the tensors don't determine, and list them."""
    torch.save(state, tmp_path / "w.pth")
    assert main(["convert", str(tmp_path / "w.pth"), str(tmp_path / "out.safetensors")]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("layout")]
    assert row.startswith("layout     torchvision: ")
    for fact in ("align_corners=False", "batch_norm_eps=0.001"):
        assert fact in row
    assert inspect(tmp_path / "w.pth").geometry["align_corners"] is False


LAUGHS: dict[str, Callable[[Any], object]] = {
    "dictionaries": lambda inner: {"a": inner, "b": inner},
    "tuples": lambda inner: (inner, inner),
    "ordered": lambda inner: collections.OrderedDict(a=inner, b=inner),
    "objects": lambda inner: types.SimpleNamespace(a=inner, b=inner),
}


@pytest.mark.parametrize("case", LAUGHS)
def test_exponentially_nested_values_are_ignored_quickly(tmp_path: Path, state: State, case: str) -> None:
    laughs: Any = {"ha": 1}
    for _ in range(100):
        laughs = LAUGHS[case](laughs)
    torch.save({"model": state, "joke": laughs}, tmp_path / "w.pth")
    report = convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert [entry.partition(" ")[0] for entry in report.ignored] == ["joke"]
    torch.save({"joke": laughs}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no tensors named") as error:
        convert(tmp_path / "w.pth", tmp_path / "out.safetensors", overwrite=True)
    assert len(str(error.value)) < 500


def test_target_that_differs_in_case_is_not_overwritten(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "w.pth")
    (tmp_path / "OUT.safetensors").write_bytes(b"precious")
    one_file = (tmp_path / "out.safetensors").exists()  # on a case-insensitive file system
    if one_file:
        with pytest.raises(OSError, match="exists already"):
            convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    else:
        convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert (tmp_path / "OUT.safetensors").read_bytes() == b"precious"


_ALONE = """
import socket, sys
for name in ("torchvision", "onnx", "timm", "transformers", "segmentation_models_pytorch", "mmseg"):
    sys.modules[name] = None  # importing it raises ImportError
def refuse(*_): raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
from weights_tools.cli import main
sys.exit(main(["inspect", "w.pth"]) or main(["convert", "w.pth", "out.safetensors"]))
"""


@pytest.mark.parametrize("home", full_but(["/dev/null"], [None, "/dev/null"]))
def test_commands_need_no_home_network_or_other_libraries(tmp_path: Path, state: State, home: str | None) -> None:
    torch.save(state, tmp_path / "w.pth")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **({"HOME": home} if home else {})}
    command = [sys.executable, "-c", _ALONE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "w.pth"], "no caches"


class Net(nn.Module):
    pass


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_pickled_module_next_to_weights_is_ignored(tmp_path: Path, state: State, zipped: bool) -> None:
    """Convert the weights and list the module as ignored."""
    content = {"net": Net(), "state_dict": state}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    report = convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert report.ignored == ("net (tests.weights_tools.test_bad_contents.Net)",)
