"""segnets_native gives the mask of Python's TorchScript, from NumPy's own memory, and leaves Python running."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided

import segnets
from segnets.export import export, load_exported
from segnets.preprocess import Preprocessing
from tests.cpp.common import export_tiny
from tests.cpp.test_bad_input import change_contract
from tests.export.common import random_image, random_model, rewrite


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected(model: Path, image: np.ndarray) -> np.ndarray:
    image = image.copy(order="C")
    batch = image[None] if image.ndim == 3 else image
    mask: np.ndarray = load_exported(model).segment(torch.from_numpy(batch)).numpy()
    return mask[0] if image.ndim == 3 else mask


# ---- results ----


@pytest.mark.parametrize(("height", "width"), [(64, 80), (65, 97), (1, 1), (1, 300), (300, 1)])
def test_the_mask_is_that_of_python(height: int, width: int, native: Any, small: Path) -> None:
    image = random_image(height, width)[0].numpy()
    mask = native.Model(small).segment(image)
    assert (mask.dtype, mask.shape) == (np.uint8, (height, width))
    assert np.array_equal(mask, expected(small, image))


def test_logits_batches_and_many_classes(native: Any, tmp_path: Path) -> None:
    path = export_tiny(tmp_path / "wide.ts", classes=300)
    model, exported = native.Model(os.fsencode(path)), load_exported(path)
    images = picture(3, 40, 50, 3)
    masks = model.segment(images)
    assert (masks.dtype, masks.shape) == (np.int16, (3, 40, 50))
    assert np.array_equal(masks, expected(path, images))
    assert np.array_equal(model.segment(images[::-1]), masks[::-1])  # a batch that runs backwards
    assert np.array_equal(model.segment(images[1:2]), masks[1:2])
    logits = model.logits(images)
    assert (logits.dtype, logits.shape) == (np.float32, (3, 300, 40, 50))
    assert np.array_equal(logits, exported.logits(exported.preprocess(torch.from_numpy(images))).numpy())
    assert model.logits(images[0]).shape == (300, 40, 50)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows of a larger image": lambda a: a[5:-5, 7:-7],
    "every second row": lambda a: a[::2],
    "every third pixel": lambda a: a[:, ::3],
    "RGB of RGBA": lambda a: np.concatenate([a, a[..., :1]], axis=2)[..., :3],
    "planes": lambda a: np.ascontiguousarray(a.transpose(2, 0, 1)).transpose(1, 2, 0),
    "Fortran's order": np.asfortranarray,
    "transposed": lambda a: a.transpose(1, 0, 2),
    "BGR": lambda a: a[..., ::-1],
    "a region of BGR": lambda a: a[3:-4, 5:-6, ::-1],
    "upside down": lambda a: a[::-1],
    "mirrored": lambda a: a[:, ::-1],
    "turned around": lambda a: a[::-1, ::-1, ::-1],
    "one column": lambda a: a[:, 4:5],
    "one row of BGR": lambda a: a[4:5, :, ::-1],
    "one pixel": lambda a: a[4:5, 4:5],
    "one row of planes": lambda a: np.ascontiguousarray(a[4:5].transpose(2, 0, 1)).transpose(1, 2, 0),
    "one column of planes": lambda a: np.ascontiguousarray(a[:, 4:5].transpose(2, 0, 1)).transpose(1, 2, 0),
    "one row again and again": lambda a: np.broadcast_to(a[:1], a.shape),
    "gray as three channels": lambda a: np.broadcast_to(a[..., :1], a.shape),
    "overlapping rows": lambda a: as_strided(a, (30, 30, 3), (3, 3, 1)),
    "not aligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].reshape(a.shape),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_mask_of_its_copy(name: str, native: Any, tiny: Path) -> None:
    image = LAYOUTS[name](picture(46, 60, 3))
    model = native.Model(tiny)
    image.flags.writeable = False
    want = model.segment(image.copy(order="C"))
    assert np.array_equal(want, expected(tiny, image))
    assert np.array_equal(model.segment(image), want)
    assert np.array_equal(model.segment(np.stack([image, image])[:, ...])[1], want)


COPIED = {"upside down", "mirrored", "turned around", "one row again and again", "gray as three channels"}


@pytest.mark.parametrize("name", ["BGR", "a region of BGR", "RGB of RGBA", "planes", "rows of a larger image", *COPIED])
def test_numpy_copies_neither_pixels_nor_mask(name: str, native: Any, tiny: Path) -> None:
    image = LAYOUTS[name](picture(460, 600, 3))
    model = native.Model(tiny)
    tracemalloc.start()  # NumPy tells it about every array
    mask = model.segment(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (peak >= image.size) == (name in COPIED)
    if name not in COPIED:
        assert peak < mask.nbytes


def test_the_mask_is_the_networks_own_memory_and_outlives_it(native: Any, tiny: Path) -> None:
    model = native.Model(tiny)
    image = picture(20, 30, 3)
    mask, want = model.segment(image), expected(tiny, image)
    assert mask.base is not None  # somebody else's memory: nothing was copied
    assert mask.flags.c_contiguous
    assert mask.flags.writeable
    part = mask[3:, 4:]
    others = [model.segment(picture(20, 30, 3, seed=i)) for i in range(5)]  # would overwrite memory that was freed
    del model, mask
    assert np.array_equal(part, want[3:, 4:])
    part[:] = 9  # it is the caller's alone
    assert len(others) == 5


def test_contract_self_test_and_warm_up(native: Any, small: Path) -> None:
    model = native.Model(str(small))
    assert model.contract["classes"] == ["background", "cat", "dög", "tree", "sky"]
    assert model.contract["mask_dtype"] == "uint8"
    assert repr(model) == "<segnets_native.Model lraspp_mobilenet_v3_large, 5 classes>"
    result = model.self_test()
    assert result.passed
    assert result.disagreements == result.near_ties
    assert result.pixels == 64 * 48
    assert result.logits_difference <= result.tolerance
    assert "passed" in repr(result)
    model.warm_up(33, 44)
    model.warm_up(height=33, width=44, calls=1)
    native.set_threads(1)
    assert torch.get_num_threads() == 1  # one LibTorch


# ---- bad input ----

BAD: dict[str, tuple[Callable[[], object], str]] = {
    "a list": (lambda: [[[1, 2, 3]]], "expected a NumPy array, got list"),
    "a tensor": (lambda: torch.zeros(2, 2, 3, dtype=torch.uint8), "expected a NumPy array, got Tensor"),
    "None": (lambda: None, "expected a NumPy array, got NoneType"),
    "floats": (lambda: np.zeros((2, 2, 3)), "image: is float64, expected uint8, 0..255"),
    "signed": (lambda: np.zeros((2, 2, 3), np.int8), "image: is int8, expected uint8"),
    "bools": (lambda: np.zeros((2, 2, 3), bool), "image: is bool, expected uint8"),
    "objects": (lambda: np.full((2, 2, 3), None), "image: is object, expected uint8"),
    "fields": (lambda: np.zeros((2, 2, 3), [("r", "u1")]), r"image: is \[\('r', 'u1'\)\], expected uint8"),
    "gray": (lambda: np.zeros((5, 6), np.uint8), r"has shape \(5, 6\), expected \(H, W, 3\) or \(N, H, W, 3\)"),
    "a number": (lambda: np.array(3, np.uint8), r"has shape \(\), expected"),
    "five axes": (lambda: np.zeros((1, 1, 2, 2, 3), np.uint8), r"has shape \(1, 1, 2, 2, 3\), expected"),
    "RGBA": (lambda: np.zeros((5, 6, 4), np.uint8), r"has shape \(5, 6, 4\), expected \(H, W, 3\)"),
    "channels first": (lambda: np.zeros((3, 5, 6), np.uint8), r"numpy.moveaxis\(image, -3, -1\) brings"),
    "no rows": (lambda: np.zeros((0, 6, 3), np.uint8), r"has shape \(0, 6, 3\), which holds no pixels"),
    "no columns": (lambda: np.zeros((5, 0, 3), np.uint8), "which holds no pixels"),
    "no images": (lambda: np.zeros((0, 5, 6, 3), np.uint8), "which holds no pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image(name: str, native: Any, tiny: Path) -> None:
    make, message = BAD[name]
    model = native.Model(tiny)
    for call in (model.segment, model.logits):
        with pytest.raises(native.Error, match=message):
            call(make())


def test_very_wide_images(native: Any, small: Path, tiny: Path, tmp_path: Path) -> None:
    image = picture(1, 100_000, 3)
    assert np.array_equal(native.Model(tiny).segment(image), expected(tiny, image))
    assert native.Model(small).segment(image).shape == (1, 100_000)
    export(random_model(num_classes=2), tmp_path / "m.ts", preprocessing=Preprocessing(size=520))
    with pytest.raises(native.Error, match=r"image: 1x100000 with its short side"):
        native.Model(tmp_path / "m.ts").segment(image)


def test_more_memory_than_there_is(native: Any, tiny: Path) -> None:
    image = np.broadcast_to(np.zeros((1, 1, 1, 3), np.uint8), (1 << 20, 1 << 12, 1 << 10, 3))
    with pytest.raises(native.Error, match=r"not enough memory to copy the image, which its layout \(strides .*\) needs"):
        native.Model(tiny).segment(image)


CHANGES = {
    "segnets.json": (lambda n, c: None if n.endswith("segnets.json") else c, "without a contract"),
    "version": (change_contract(format_version=2), "it has version 2, this program reads 1"),
    "device": (change_contract(device="cuda"), "device is 'cuda', and this program runs 'cpu'"),
    "kind": (change_contract(kind="aoti"), "kind is 'aoti', and this program runs 'torchscript'"),
    "classes": (change_contract(num_classes=300, classes=[], mask_dtype="int16"), "another type than its contract"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_exports_that_do_not_fit(name: str, native: Any, tiny: Path, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    path = rewrite(tiny, tmp_path / "t.ts", change)
    with pytest.raises(native.Error, match=message):
        native.Model(path).segment(picture(4, 5, 3))


def test_files_that_are_no_exports(native: Any, tiny: Path, tmp_path: Path) -> None:
    whole, model = tiny.read_bytes(), tmp_path / "ö\udcff.ts"  # a name that is no UTF-8
    for size in (4, 1000, len(whole) // 2, len(whole) - 1):
        model.write_bytes(whole[:size])
        with pytest.raises(native.Error, match=r"\.ts: is truncated or damaged"):
            native.Model(model)
    with pytest.raises(native.Error, match="does not exist"):
        native.Model(tmp_path / "none.ts")
    with pytest.raises(native.Error, match="null character"):
        native.Model("a\0b")
    with pytest.raises(TypeError):
        native.Model(3)
    with pytest.raises(native.Error, match="expected at least one, and sides of 1..65535 pixels"):
        native.Model(tiny).warm_up(0, 5)
    with pytest.raises(native.Error, match=r"threads: expected 1\.\.1024, got 0"):
        native.set_threads(0)


def test_errors_are_those_of_segnets(native: Any, tiny: Path) -> None:
    with pytest.raises(segnets.SegnetsError, match="is float64") as caught:
        native.Model(tiny).segment(np.zeros((2, 2, 3)))
    assert isinstance(caught.value, native.Error)
    assert isinstance(caught.value, ValueError)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


# ---- beside Python ----


def alone(build: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(build), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["segnets_native", "torch"])
def test_it_shares_the_libtorch_of_torch_whoever_comes_first(first: str, build: Path, native: Any, tiny: Path) -> None:
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


def test_other_threads_run_during_a_call(native: Any, tiny: Path) -> None:
    """They could not, were the GIL held: another thread then gets it before and after the call only."""
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


def test_ten_thousand_calls_leave_nothing_behind(build: Path, native: Any, tiny: Path) -> None:
    """Masks, logits, copies and errors alike. A mask that leaked would be 10 kB each time: 100 MB in all."""
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
        f"print(calls(10000) - first)\n"
    )
    assert int(alone(build, code)) < 2048  # KiB


@pytest.mark.full
def test_the_stub_says_what_the_module_has(build: Path, native: Any) -> None:
    pytest.importorskip("mypy")
    stub = build / "stub" / "segnets_native.pyi"
    stub.parent.mkdir(exist_ok=True)
    source = Path(__file__).parents[2] / "cpp" / "python" / "segnets_native.pyi"
    stub.write_text(source.read_text())
    for command in (["mypy", "--strict", str(stub)], ["mypy.stubtest", "segnets_native"]):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(build), "MYPYPATH": str(stub.parent)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
