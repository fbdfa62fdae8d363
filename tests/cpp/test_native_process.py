"""segnets_native in a process with torch and with threads, over ten thousand calls, and built by pip."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import cmake
from tests.cpp.common import expected, picture
from tests.test_neutral_state import convolution_precision
from tests.tiers import full_but


def alone(build: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(build), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["segnets_native", "torch"])
def test_it_shares_torchs_libtorch_in_either_import_order(first: str, build: Path, native: Any, tiny: Path) -> None:
    second = "torch" if first == "segnets_native" else "segnets_native"
    code = (
        f"import sys, {first}\n"
        f"assert {first!r} == 'torch' or 'torch' not in sys.modules\n"
        f"import {second}, numpy as np\n"
        f"image = np.arange(600, dtype=np.uint8).reshape(10, 20, 3)\n"
        f"ours = segnets_native.Model({str(tiny)!r}).segment(image)\n"
        f"theirs = torch.jit.load({str(tiny)!r}).segment(torch.from_numpy(image)[None])[0].numpy()\n"
        f"assert (ours == theirs).all()\n"
        f"maps = {{line.split()[-1] for line in open('/proc/self/maps')}}\n"
        f"print(sorted(path.rsplit('/', 1)[1] for path in maps if 'libtorch_cpu' in path or 'opencv' in path))\n"
    )
    assert alone(build, code) == "['libtorch_cpu.so']\n"


def test_without_segnets_its_error_is_a_value_error(build: Path, native: Any) -> None:
    code = (
        "import sys, segnets_native\n"
        "try: segnets_native.Model('none.ts')\n"
        "except ValueError as error: print(type(error) is segnets_native.Error, error, 'segnets' in sys.modules)\n"
    )
    assert alone(build, code) == "True none.ts: does not exist False\n"


def test_a_process_forked_after_a_call_refuses_the_next(build: Path, native: Any, tiny: Path) -> None:
    """Without torch. The child gets 20 seconds; before, it waited forever."""
    code = (
        "import os, signal, segnets_native, numpy as np\n"
        "segnets_native.set_threads(2)\n"
        f"model, image = segnets_native.Model({str(tiny)!r}), np.zeros((200, 300, 3), np.uint8)\n"
        "model.segment(image)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(20)\n"
        "    try: model.segment(image)\n"
        "    except ValueError as error: print(str(error).split(':')[0].replace(str(os.getppid()), 'PARENT'))\n"
        "    segnets_native.set_threads(1)\n"
        "    print(model.segment(image).shape, flush=True)\n"
        "    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    refusal = "this process was forked from process PARENT, which had already run a network in several threads"
    assert alone(build, code) == f"{refusal}\n(200, 300)\n"


@pytest.mark.parametrize("state", ["autocast", "precision"])
def test_masks_do_not_depend_on_the_state_of_torch(state: str, native: Any, small: Path) -> None:
    image = picture(120, 160, 3)
    model = native.Model(small)
    wanted, logits = model.segment(image), model.logits(image)
    with convolution_precision("bf16") if state == "precision" else torch.autocast("cpu", dtype=torch.bfloat16):
        for each in (model, native.Model(small)):
            assert np.array_equal(each.segment(image), wanted)
            assert np.array_equal(each.logits(image), logits)
        if state == "precision":
            assert torch.backends.mkldnn.conv.fp32_precision == "bf16"  # type: ignore[attr-defined]


def test_other_threads_run_during_a_call(native: Any, tiny: Path) -> None:
    """If the call held the GIL, another thread could run only before and after it."""
    model, image = native.Model(tiny), np.zeros((8, 900, 1100, 3), np.uint8)
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.005):
            ticks.append(time.perf_counter())

    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.perf_counter()
    model.segment(image)
    end = time.perf_counter()
    done.set()
    ticker.join()
    assert sum(start < moment < end for moment in ticks) >= 5


def test_python_threads_share_one_model(native: Any, small: Path) -> None:
    native.set_threads(1)
    model = native.Model(small)
    images = [picture(40 + 7 * i, 51 + 3 * i, 3, seed=i) for i in range(4)]
    want = [expected(small, image) for image in images]
    right: list[bool] = []

    def work(i: int) -> None:
        right.extend(np.array_equal(model.segment(images[i]), want[i]) for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 20


@pytest.mark.parametrize("calls", full_but([2000], [2000, 10000]))
def test_calls_leak_no_memory(build: Path, native: Any, tiny: Path, calls: int) -> None:
    """Neither masks, logits, copies nor errors leak. A leaked mask of 10 kB per call would add up to 20 MB or more."""
    code = (
        f"import numpy as np, segnets_native\n"
        f"segnets_native.set_threads(1)\n"
        f"model, image = segnets_native.Model({str(tiny)!r}), np.zeros((100, 100, 3), np.uint8)\n"
        f"def calls(count):\n"
        f"    for i in range(count):\n"
        f"        model.segment(image[::-1] if i % 2 else image)\n"
        f"        if i % 10 == 0: model.logits(image)\n"
        f"        try: model.segment(image[0])\n"
        f"        except segnets_native.Error: pass\n"
        f"    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmRSS'))\n"
        f"first = calls(500)\n"
        f"print(calls({calls}) - first)\n"
    )
    assert int(alone(build, code)) < 2048  # KiB


def test_the_stub_lists_the_names_of_the_module(native: Any) -> None:
    """`make check` checks the stub's types; the tests of results check that the module returns them."""

    def public(names: Iterable[str]) -> set[str]:
        return {name for name in names if not name.startswith("_")}

    stub = ast.parse((cmake.ROOT / "cpp" / "python" / "segnets_native.pyi").read_text())
    stated = [node for node in stub.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert public(dir(native)) == {node.name for node in stated}
    for node in stated:
        if isinstance(node, ast.ClassDef) and node.name != "Error":
            members = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
            assert public(dir(getattr(native, node.name))) == public(members)


@pytest.mark.full
def test_pip_builds_it_against_the_torch_that_is_installed(build: Path, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*command, str(cmake.ROOT / "cpp")], check=True, capture_output=True)
    code = f"import segnets_native as s; print(s.__file__, s.Model({str(tiny)!r}).self_test().passed)"
    assert alone(tmp_path, code).split() == [str(next(tmp_path.glob("segnets_native.*.so"))), "True"]
