"""Many threads on one model: their results, and a run under ThreadSanitizer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from segnets.preprocessing import Preprocessing
from tests import cmake
from tests.cpp.common import export_tiny


def share(build: Path, model: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [build / "segnets-test-threads", model, "4", "6"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_many_threads_share_one_model(build: Path, small: Path) -> None:
    result = share(build, small)
    assert (result.returncode, result.stderr) == (0, "")
    assert "4 threads, 6 calls each: 0 wrong masks, 0 failures" in result.stdout


@pytest.mark.full
def test_thread_sanitizer_finds_nothing(small: Path, tmp_path: Path) -> None:
    """ThreadSanitizer checks our code and all locks, but not the memory accesses inside LibTorch."""
    definitions = ("-DSEGNETS_BUILD_TESTS=ON", "-DSEGNETS_SANITIZE=thread", "-DSEGNETS_WITH_OPENCV=OFF")
    folder, _ = cmake.build(cmake.ROOT / "cpp", "cpp_thread", *definitions)
    options = f"suppressions={cmake.ROOT / 'cpp' / 'tests' / 'tsan.supp'}"
    wide = export_tiny(tmp_path / "wide.ts", classes=300, preprocessing=Preprocessing(resize="fixed", size=(30, 40)))
    for model in (small, wide):
        result = share(folder, model, TSAN_OPTIONS=options)
        assert "ThreadSanitizer" not in result.stderr, result.stderr
        assert (result.returncode, result.stderr) == (0, "")
        assert "0 wrong masks, 0 failures" in result.stdout
