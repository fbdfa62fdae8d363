"""The process keeps memory that a call frees, if the C library supports it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from segnets.deploy import export, load_exported
from tests.deploy.common import SMALL, tiny

_COUNT_PAGES = """
import resource, sys, torch
from segnets.deploy import load_exported
image = torch.zeros(1, 3, 1500, 1500)  # its logits exceed the 32 MiB that glibc keeps by default
for keep in (False, True):
    exported = load_exported(sys.argv[1], keep_memory=keep)
    for _ in range(4):
        exported.logits(image)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        exported.logits(image)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_later_calls_reuse_memory(tmp_path: Path) -> None:
    export(tiny(), tmp_path / "m.ts", preprocessing=SMALL, target="portable")
    done = subprocess.run([sys.executable, "-c", _COUNT_PAGES, tmp_path / "m.ts"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given_back, kept = map(int, done.stdout.split())
    assert kept * 4 < given_back, (kept, given_back)


@pytest.mark.usefixtures("tiny_translated_once")
def test_a_change_of_malloc_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        calls.append((parameter, value))
        return 1

    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("segnets.deploy._memory._keeps", False)
    export(tiny(), tmp_path / "m.ts", preprocessing=SMALL, target="portable")
    export(tiny(), tmp_path / "m.onnx", preprocessing=SMALL)
    calls.clear()  # those of verification
    caplog.clear()
    with caplog.at_level(logging.INFO, "segnets"):
        load_exported(tmp_path / "m.onnx")
        load_exported(tmp_path / "m.ts", keep_memory=False)
        assert calls == []
        for _ in range(2):
            load_exported(tmp_path / "m.ts")
    assert calls == 2 * [(-1, 2**31 - 1), (-4, 0)]
    (said,) = caplog.messages
    assert "whole process" in said
    assert "keep_memory=False" in said
