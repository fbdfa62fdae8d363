"""`convert`: every wrapper and container of a checkpoint gives the same network, byte for byte."""

from __future__ import annotations

import argparse
import pathlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import segnets
from segnets.errors import WeightsError
from tests.tiers import full_but
from tests.typed import options_of
from tests.weights_tools.files import assert_same, network, rezip, saved, unzip
from weights_tools import convert

State = Mapping[str, Tensor]


def _convert(tmp_path: Path, content: object, **options: Any) -> Any:
    source = tmp_path / "source.pth"
    if content is not None:
        torch.save(content, source, **options)
    return convert(source, tmp_path / "out.safetensors")


def _loaded(tmp_path: Path) -> dict[str, Tensor]:
    return dict(segnets.load(tmp_path / "out.safetensors", dtype=None).state_dict())


def _prefixed(state: State, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS: dict[str, tuple[Callable[[State], object], tuple[str, ...]]] = {
    "plain": (lambda s: s, ()),
    "OrderedDict with _metadata": (lambda s: _with_metadata(s), ()),
    "DataParallel": (lambda s: _prefixed(s, "module."), ("module.",)),
    "compiled": (lambda s: _prefixed(s, "_orig_mod."), ("_orig_mod.",)),
    "compiled DataParallel": (lambda s: _prefixed(s, "_orig_mod.module."), ("_orig_mod.", "module.")),
    "DataParallel of compiled": (lambda s: _prefixed(s, "module._orig_mod."), ("module.", "_orig_mod.")),
    "averaged": (lambda s: {"n_averaged": torch.tensor(3), **_prefixed(s, "module.")}, ("module.",)),
    "averaged DataParallel": (
        lambda s: {"n_averaged": torch.tensor(3), **_prefixed(s, "module.module.")},
        ("module.", "module."),
    ),
    "Lightning": (
        lambda s: {"state_dict": {**_prefixed(s, "model."), "loss.weight": torch.ones(21)}, "epoch": 3},
        ("model.",),
    ),
    "in two dictionaries": (lambda s: {"model": {"state_dict": s}, "epoch": 1}, ()),
    "Parameters": (lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()}, ()),
}


def _with_metadata(state: State) -> object:
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return ordered


@pytest.mark.parametrize(
    "wrapper", full_but(WRAPPERS.keys() - {"averaged DataParallel", "compiled DataParallel"}, WRAPPERS)
)
def test_every_wrapper_gives_the_same_tensors(tmp_path: Path, state: State, wrapper: str) -> None:
    wrap, stripped = WRAPPERS[wrapper]
    report = _convert(tmp_path, wrap(state))
    assert_same(_loaded(tmp_path), state)
    assert (report.model, report.stripped) == ("lraspp_mobilenet_v3_large", stripped)
    assert (report.options["num_classes"], report.options["aux_loss"]) == (21, False)
    if wrapper.startswith("averaged"):
        assert report.dropped == ("n_averaged",)
    if wrapper == "Lightning":
        assert report.dropped == ("loss.weight",)


def test_reference_training_checkpoint_with_foreign_objects(tmp_path: Path, state: State) -> None:
    content = {
        "model": state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
        "args": argparse.Namespace(device="cuda", data_path=pathlib.PurePosixPath("/data")),
        "best_score": np.float64(0.5),
        "scaler": {"scale": 65536.0},
    }
    report = _convert(tmp_path, content)
    assert_same(_loaded(tmp_path), state)
    assert report.path == ("model",)
    ignored = " ".join(report.ignored)
    assert "args (argparse.Namespace)" in ignored
    assert "best_score (numpy." in ignored
    assert "epoch (int)" in ignored


def test_legacy_file_without_zip(tmp_path: Path, state: State) -> None:
    with_views = dict(state)
    with_views["classifier.high_classifier.bias"] = torch.cat(
        [torch.ones(3), state["classifier.high_classifier.bias"]]
    )[3:]
    report = _convert(tmp_path, with_views, _use_new_zipfile_serialization=False)
    assert report.container == "torch legacy"
    assert_same(_loaded(tmp_path), state)


@pytest.mark.parametrize("protocol", full_but([2, 5], [2, 3, 4, 5]))
def test_pickle_protocols(tmp_path: Path, state: State, protocol: int) -> None:
    _convert(tmp_path, {"state_dict": state, "epoch": 1 << 40, "done": True}, pickle_protocol=protocol)
    assert_same(_loaded(tmp_path), state)


def test_without_batch_norm_counters(tmp_path: Path, state: State) -> None:
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    report = _convert(tmp_path, old)
    loaded = _loaded(tmp_path)
    assert len(report.zeroed) == 47
    assert_same({name: loaded[name] for name in old}, old)
    assert all(loaded[name].dtype == torch.int64 and loaded[name] == 0 for name in report.zeroed)


@pytest.mark.parametrize("change", [lambda t: t.reshape(1), lambda t: t.to(torch.int32), lambda t: t.half()])
def test_batch_norm_counters_become_int64(tmp_path: Path, state: State, change: Callable[[Tensor], Tensor]) -> None:
    strange = {name: change(t) if name.endswith("num_batches_tracked") else t for name, t in state.items()}
    report = _convert(tmp_path, strange)
    assert len(report.reshaped) == 47
    assert_same(_loaded(tmp_path), state)


@pytest.mark.parametrize(
    "dtype",
    full_but(
        [torch.bfloat16, torch.float8_e4m3fn], [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
    ),
)
def test_dtypes_are_kept(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    report = _convert(tmp_path, cast)
    assert_same(_loaded(tmp_path), cast)
    name = str(dtype).removeprefix("torch.")
    assert f"the weights are kept in {name}. segnets.load makes a float32 model of them" in " ".join(report.notes)
    loaded = segnets.load(tmp_path / "out.safetensors")
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    assert loaded(torch.rand(1, 3, 33, 47))["out"].shape == (1, 21, 33, 47)


def test_requested_dtype(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "source.pth")
    report = convert(tmp_path / "source.pth", tmp_path / "out.safetensors", dtype="float16")
    assert_same(_loaded(tmp_path), {n: t.half() if t.is_floating_point() else t for n, t in state.items()})
    assert report.cast_to == "float16"
    with pytest.raises(WeightsError, match="dtype='int8': expected one of float32, float16"):
        convert(tmp_path / "source.pth", tmp_path / "out.safetensors", dtype="int8", overwrite=True)


def test_memory_formats(tmp_path: Path, state: State) -> None:
    """Channels last, transposed, shared and sliced tensors are converted by value."""
    strange = dict(state)
    strange["backbone.0.0.weight"] = state["backbone.0.0.weight"].contiguous(memory_format=torch.channels_last)
    first = "classifier.high_classifier.weight"
    strange[first] = state[first].transpose(0, 1).contiguous().transpose(0, 1)
    room = torch.zeros(1000)
    for start, name in ((10, "classifier.low_classifier.bias"), (500, "classifier.high_classifier.bias")):
        room[start : start + 21] = state[name]
        strange[name] = room[start : start + 21]
    strange["backbone.1.block.0.1.weight"] = strange["backbone.1.block.0.1.bias"] = state["backbone.1.block.0.1.weight"]
    _convert(tmp_path, strange)
    expected = {**state, "backbone.1.block.0.1.bias": state["backbone.1.block.0.1.weight"]}
    assert_same(_loaded(tmp_path), expected)


def test_slice_of_a_huge_storage_is_written_alone(tmp_path: Path, state: State) -> None:
    sliced = {
        **state,
        "classifier.high_classifier.bias": torch.cat([state["classifier.high_classifier.bias"], torch.ones(10**6)])[
            :21
        ],
    }
    _convert(tmp_path, sliced)
    assert_same(_loaded(tmp_path), state)
    assert (tmp_path / "source.pth").stat().st_size - (tmp_path / "out.safetensors").stat().st_size > 3_900_000


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_with_the_names_of_torchvision(
    tmp_path: Path, state: State, metadata: dict[str, str] | None
) -> None:
    save_file(dict(state), tmp_path / "source.pth", metadata)
    report = _convert(tmp_path, None)
    assert report.container == "safetensors"
    assert_same(_loaded(tmp_path), state)


def test_segnets_file_keeps_its_card(tmp_path: Path) -> None:
    model = segnets.lraspp_mobilenet_v3_large(num_classes=2)
    segnets.save(model, tmp_path / "own.safetensors", classes=["sea", "kelp"], provenance={"by": "hand"})
    convert(tmp_path / "own.safetensors", tmp_path / "out.safetensors")
    assert (tmp_path / "own.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()


@pytest.mark.parametrize(
    "how", full_but(["trace", "inside another module"], ["script", "trace", "inside another module"])
)
def test_torchscript_archives(tmp_path: Path, how: str) -> None:
    model = network(num_classes=3)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model
            self.register_buffer("confusion", torch.zeros(3, 3, dtype=torch.int64))

        def forward(self, image: Tensor) -> Tensor:
            out: Tensor = self.network(image)["out"]
            return out

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        if how == "trace":
            made = torch.jit.trace(model, torch.rand(1, 3, 32, 32), strict=False)
        else:
            made = torch.jit.script(model if how == "script" else Outer())
        torch.jit.save(made, tmp_path / "source.pth")
    report = _convert(tmp_path, None)
    assert report.container == "TorchScript archive"
    assert report.dropped == (("confusion",) if how == "inside another module" else ())
    assert_same(_loaded(tmp_path), dict(model.state_dict()))


def test_frozen_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.freeze(torch.jit.script(network(num_classes=3))), tmp_path / "source.pth")
    with pytest.raises(WeightsError, match=r"no named parameters: torch\.jit\.freeze turned them into constants"):
        _convert(tmp_path, None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("fcn_resnet50", {"aux_loss": True, "num_classes": 5}, marks=pytest.mark.full),
        ("deeplabv3_mobilenet_v3_large", {"aux_loss": True, "num_classes": 21}),
        pytest.param("deeplabv3_mobilenet_v3_large", {"aux_loss": False, "num_classes": 2}, marks=pytest.mark.full),
        ("mobilenet_v3_small", {"num_classes": 7}),
        ("resnet18", {"num_classes": 10}),
    ],
)
def test_networks(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    source = network(name, **options)
    report = _convert(tmp_path, source.state_dict())
    loaded = segnets.load(tmp_path / "out.safetensors")
    assert_same(dict(loaded.state_dict()), dict(source.state_dict()))
    assert report.model == name
    assert options.items() <= report.options.items()
    assert report.options == options_of(loaded)
    image = torch.rand(1, 3, 33, 47)
    with torch.inference_mode():
        expected, found = source(image), loaded(image)
    assert torch.equal(found["out"], expected["out"]) if isinstance(expected, dict) else torch.equal(found, expected)


def test_tensors_of_a_gpu(tmp_path: Path, state: State) -> None:
    """The device that a tensor was saved on does not matter."""
    entries = unzip(saved(dict(state)))
    cpu, cuda = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:3"
    assert cpu in entries["data.pkl"]
    entries["data.pkl"] = entries["data.pkl"].replace(cpu, cuda)
    rezip(tmp_path / "source.pth", entries)
    _convert(tmp_path, None)
    assert_same(_loaded(tmp_path), state)
