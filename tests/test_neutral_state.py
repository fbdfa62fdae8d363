"""Masks, exports and comparisons do not depend on the caller's state of torch."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets.deploy import Exported, export, load_exported, verify
from segnets.neutral_state import neutral_state
from segnets.preprocessing import Preprocessing
from tests.deploy.common import one_thread, random_image, tiny
from tests.tiers import full_but

__all__ = ["one_thread"]
PLAIN = Preprocessing(resize="none")


class Network(nn.Module):
    """A network whose mask changes if anything is rounded to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convolution = nn.Conv2d(3, 32, 3, padding=1).requires_grad_(False)
        self.classifier = nn.Conv2d(32, 16, 1).requires_grad_(False)
        for parameter in self.parameters():
            parameter.normal_(generator=generator)
        self.eval()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": self.classifier(torch.relu(self.convolution(image)))}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.mkldnn.matmul.fp32_precision = "none"  # type: ignore[attr-defined]


@contextmanager
def convolution_precision(name: str) -> Iterator[None]:
    torch.backends.mkldnn.conv.fp32_precision = name  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.backends.mkldnn.conv.fp32_precision = "none"  # type: ignore[attr-defined]


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "device": lambda: torch.device("meta"),
    "matmul precision": lambda: matmul_precision("medium"),
    "convolution precision": lambda: convolution_precision("bf16"),
    "deterministic": deterministic,
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "gradients": torch.enable_grad,
}
# On a CPU that computes bfloat16, these change what the bare network returns. Otherwise this test would test nothing.
CHANGING = ("autocast bfloat16", "autocast float16")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("neutral")
    export(Network(), folder / "portable.ts", preprocessing=PLAIN)
    export(tiny(), folder / "cpu.ts", target="cpu", preprocessing=PLAIN)
    export(Network(), folder / "network.onnx", format="onnx", preprocessing=PLAIN)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def loaded(files: list[Path]) -> list[Exported]:
    return [load_exported(path) for path in files]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return random_image(40, 60)


def results_of(network: nn.Module, exports: Iterable[Exported], image: Tensor, normalised: Tensor) -> list[Tensor]:
    results = [segnets.segment(network, image, PLAIN)]
    for exported in exports:
        results += [exported.preprocess(image), exported.logits(normalised), exported.segment(image)]
    return results


@pytest.fixture(scope="module")
def expected(loaded: list[Exported], image: Tensor) -> list[Tensor]:
    return results_of(Network(), [*loaded, *loaded], image, segnets.preprocess(image, PLAIN))


@pytest.mark.parametrize("state", STATES)
def test_masks_stay_the_same(
    state: str, files: list[Path], loaded: list[Exported], expected: list[Tensor], image: Tensor
) -> None:
    network, normalised = Network(), segnets.preprocess(image, PLAIN)
    plain = network(normalised)["out"]
    threads = torch.get_num_threads()
    with STATES[state]():
        results = results_of(network, itertools.chain(loaded, map(load_exported, files)), image, normalised)
        bare = network(normalised)["out"] if state in CHANGING else None
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert torch.equal(result, wanted)
    assert bare is None or not torch.equal(bare.float(), plain)
    assert torch.get_num_threads() == threads


CASES = [(target, state) for target in ("portable", "cpu") for state in STATES]
CHOSEN = [
    *(("portable", state) for state in ("autocast float16", "default dtype bfloat16", "device", "matmul precision")),
    *(("cpu", state) for state in ("autocast bfloat16", "default dtype float64", "convolution precision")),
]


@pytest.mark.parametrize(("target", "state"), full_but(CHOSEN, CASES))
def test_exports_stay_the_same(target: str, state: str, tmp_path: Path) -> None:
    network = Network() if target == "portable" else tiny()
    export(network, tmp_path / "plain.ts", target=target, preprocessing=PLAIN)
    with STATES[state]():
        report = export(network, tmp_path / "m.ts", target=target, preprocessing=PLAIN)
        checked = verify(tmp_path / "m.ts", against=network)
    assert report.verification.passed
    assert checked.passed
    expected, exported = load_exported(tmp_path / "plain.ts"), load_exported(tmp_path / "m.ts")
    assert exported.contract == expected.contract
    for name, tensor in expected.golden.items():
        assert torch.equal(exported.golden[name], tensor), name


@pytest.mark.parametrize(
    "state", full_but(["default device"], ["autocast bfloat16", "default device", "inference mode"])
)
def test_onnx_exports_pass(state: str, tmp_path: Path) -> None:
    network = Network()
    with STATES[state]():
        export(network, tmp_path / "m.onnx", format="onnx", preprocessing=PLAIN)
        segnets.join_onnx(tmp_path / "m.onnx", tmp_path / "joined.onnx")
    assert verify(tmp_path / "m.onnx", against=Network()).passed


def test_the_state_of_the_caller_returns() -> None:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
        convolution_precision("bf16"),
        matmul_precision("medium"),
    ):
        with neutral_state():
            assert not torch.is_autocast_enabled("cpu")
            assert torch.zeros(1).device.type == "cpu"
            assert torch.backends.mkldnn.conv.fp32_precision == "ieee"  # type: ignore[attr-defined]
        assert torch.is_autocast_enabled("cpu")
        assert torch.zeros(1).device.type == "meta"
        assert torch.backends.mkldnn.conv.fp32_precision == "bf16"  # type: ignore[attr-defined]
        assert torch.get_float32_matmul_precision() == "medium"
    assert not torch.is_inference_mode_enabled()


def test_an_inherited_precision_stays_inherited() -> None:
    read = torch._C._get_fp32_precision_getter
    torch.backends.fp32_precision = "bf16"  # type: ignore[attr-defined]
    try:
        with neutral_state():
            assert read("mkldnn", "conv") == read("mkldnn", "matmul") == "ieee"
        assert read("mkldnn", "conv") == "bf16"
        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
        assert read("mkldnn", "conv") == "ieee"
    finally:
        torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]


def test_the_precision_returns_after_the_last_of_several_threads() -> None:
    read, entered, leave = torch._C._get_fp32_precision_getter, threading.Event(), threading.Event()

    def call() -> None:
        with neutral_state():
            entered.set()
            leave.wait(10)

    with convolution_precision("bf16"):
        thread = threading.Thread(target=call)
        with neutral_state():
            thread.start()
            assert entered.wait(10)
        assert read("mkldnn", "conv") == "ieee"  # the thread still computes
        leave.set()
        thread.join()
        assert read("mkldnn", "conv") == "bf16"
