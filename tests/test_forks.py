"""A process that was forked after a call refuses the next one, instead of waiting forever for threads that it lacks."""

from __future__ import annotations

import gc
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import segnets
import weights_tools
from segnets.deploy import export, load_exported
from segnets.errors import ForkError
from tests.deploy.common import SMALL, random_image, tiny

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def forked(work: Callable[[], None]) -> None:
    """Run `work` in a forked process, which gets 20 seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of exactly this
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forks") / "small.ts"
    export(tiny(), path, target="portable", preprocessing=SMALL)
    return path


def test_calls_after_a_fork_are_refused(small: Path, tmp_path: Path) -> None:
    exported, image = load_exported(small), random_image(200, 300)
    model = segnets.create_model("fcn_resnet18", num_classes=2, backbone_stages=2).eval()
    expected = exported.segment(image)

    def work() -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: exported.segment(image),
            lambda: load_exported(small).segment(image),
            lambda: segnets.segment(model, image),
            lambda: segnets.save(model, tmp_path / "w.safetensors"),
            lambda: export(model, tmp_path / "m.ts"),
            lambda: weights_tools.convert(small, tmp_path / "w.safetensors"),
        )
        for call in calls:
            with pytest.raises(ForkError, match=rf"forked from process {os.getppid()}, .* Fork before the first call"):
                call()
        assert list(tmp_path.iterdir()) == []
        torch.set_num_threads(1)  # as the workers of a DataLoader do
        assert torch.equal(exported.segment(image), expected)

    forked(work)
    assert torch.equal(exported.segment(image), expected)


def test_sessions_of_onnx_runtime_can_be_dropped_after_a_fork(tmp_path: Path) -> None:
    """Destroying a session waits for its threads, which a forked process lacks."""
    path = tmp_path / "m.onnx"
    export(tiny(), path, size=(1, 3, 48, 64))
    loaded = [load_exported(path)]
    expected = loaded[0].segment(random_image(40, 50))

    def work() -> None:
        loaded.clear()
        gc.collect()

    forked(work)
    assert torch.equal(loaded[0].segment(random_image(40, 50)), expected)


def test_a_fork_before_the_first_call_is_fine(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test process ran before is forgotten; its child uses one thread, and then several."""
    monkeypatch.setattr("segnets.forks._process_with_threads", None)
    torch.set_num_threads(1)
    exported, image = load_exported(small), random_image(40, 50)
    expected = exported.segment(image)

    def work() -> None:
        assert torch.equal(exported.segment(image), expected)

    forked(work)


def test_a_saved_network_has_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnets.forks._process_with_threads", None)
    model = segnets.create_model("fcn_resnet18", num_classes=2, backbone_stages=2).eval()
    segnets.save(model, tmp_path / "w.safetensors", preprocessing=SMALL)

    def work() -> None:
        with pytest.raises(ForkError):
            segnets.segment(model, random_image(20, 30))

    forked(work)


@pytest.mark.parametrize("imported_before", [True, False])
def test_weights_are_loaded_after_a_fork(
    imported_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copying and converting tensors of more than 32,768 values runs in torch's threads."""
    if not imported_before:  # as in a worker of multiprocessing that imports segnets itself
        monkeypatch.setattr("segnets.forks.os.getpid", lambda: segnets.forks._importer)
        monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    path = tmp_path / "half.safetensors"
    model = segnets.create_model("fcn_resnet18", num_classes=2, backbone_stages=2).eval()
    segnets.save(model.half(), path, preprocessing=SMALL)
    expected = model.float().state_dict()
    torch.ones(1 << 20).add_(1)  # starts the threads of this process

    def work() -> None:
        other = segnets.create_model("fcn_resnet18", num_classes=2, backbone_stages=2)
        segnets.load_weights(other, expected)
        loaded = (segnets.load(path), segnets.create_model("fcn_resnet18", weights=path), other)
        for network in loaded:
            for name, tensor in network.state_dict().items():
                assert tensor.numpy().tobytes() == expected[name].numpy().tobytes()

    forked(work)
