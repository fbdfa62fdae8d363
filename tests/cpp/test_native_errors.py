"""segnets_native reports all bad input with one type of error."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segnets
from segnets.deploy import export
from segnets.preprocessing import Preprocessing
from tests.cpp.common import expected, export_tiny, picture
from tests.cpp.test_bad_input import change_contract
from tests.deploy.common import random_model, rewrite

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
def test_inputs_that_are_not_images(name: str, native: Any, tiny: Path) -> None:
    make, message = BAD[name]
    model = native.Model(tiny)
    for call in (model.segment, model.logits):
        with pytest.raises(native.Error, match=message):
            call(make())


def test_very_wide_images(native: Any, small: Path, tiny: Path, tmp_path: Path) -> None:
    image = picture(1, 100_000, 3)
    assert np.array_equal(native.Model(tiny).segment(image), expected(tiny, image))
    assert native.Model(small).segment(image).shape == (1, 100_000)
    export(random_model(num_classes=2), tmp_path / "m.ts", preprocessing=Preprocessing(size=520), target="portable")
    with pytest.raises(native.Error, match=r"image: 1x100000 with its short side"):
        native.Model(tmp_path / "m.ts").segment(image)


def test_more_memory_than_available(native: Any, tiny: Path) -> None:
    image = np.broadcast_to(np.zeros((1, 1, 1, 3), np.uint8), (1 << 20, 1 << 12, 1 << 10, 3))
    with pytest.raises(native.Error, match=r"not enough memory to copy the image, which its layout \(strides"):
        native.Model(tiny).segment(image)


def test_a_batch_that_exceeds_the_memory(native: Any, tiny: Path) -> None:
    """A million images that share one image's memory would have ended the process."""
    model = native.Model(tiny)
    whole = np.broadcast_to(np.zeros((512, 512, 3), np.uint8), (1_000_000, 512, 512, 3))
    for call in (model.segment, model.logits):
        with pytest.raises(native.Error, match=r"batch: 1000000 images, 512x512 .* take at least 8388.6 GB, but"):
            call(whole)


def test_a_scaled_image_that_exceeds_the_memory(native: Any, tmp_path: Path) -> None:
    path = export_tiny(tmp_path / "scaled.ts", classes=255, preprocessing=Preprocessing(resize="scale", size=10))
    whole = np.zeros((3_000, 3_000, 3), np.uint8)
    for call in (native.Model(path).segment, native.Model(path).logits):
        with pytest.raises(native.Error, match=r"batch: 1 images, 30000x30000 .* take at least 928.8 GB, but"):
            call(whole)


CHANGES = {
    "segnets.json": (lambda n, c: None if n.endswith("segnets.json") else c, "without a contract"),
    "version": (change_contract(format_version=3), "it has version 3, but this program reads 1 to 2"),
    "device": (change_contract(device="tpu"), "device is 'tpu', but this program runs 'cpu', 'cuda'"),
    "kind": (change_contract(kind="onnx"), "kind is 'onnx', but this program runs 'torchscript', 'aoti'"),
    "classes": (
        change_contract(num_classes=300, classes=[], mask_dtype="int16"),
        "type of the model's mask differs from its contract",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_exports_with_an_invalid_contract(name: str, native: Any, tiny: Path, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    path = rewrite(tiny, tmp_path / "t.ts", change)
    with pytest.raises(native.Error, match=message):
        native.Model(path).segment(picture(4, 5, 3))


def test_files_that_are_not_exports(native: Any, tiny: Path, tmp_path: Path) -> None:
    whole, model = tiny.read_bytes(), tmp_path / "ö\udcff.ts"  # a name that is not UTF-8
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
    with pytest.raises(native.Error, match=r"expected at least one, and sides of 1\.\.65535 pixels"):
        native.Model(tiny).warm_up(0, 5)
    with pytest.raises(native.Error, match=r"threads: expected 1\.\.1024, got 0"):
        native.set_threads(0)


def test_errors_are_segnets_errors(native: Any, tiny: Path) -> None:
    with pytest.raises(segnets.SegnetsError, match="is float64") as caught:
        native.Model(tiny).segment(np.zeros((2, 2, 3)))
    assert isinstance(caught.value, native.Error)
    assert isinstance(caught.value, ValueError)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_a_model_without_a_file_is_an_error(native: Any) -> None:
    """`copy` and `__new__` make objects that hold no model."""
    empty = native.Model.__new__(native.Model)
    image = np.zeros((2, 2, 3), np.uint8)
    calls: list[Callable[[], object]] = [
        lambda: empty.segment(image),
        lambda: empty.logits(image),
        lambda: empty.warm_up(2, 2),
        empty.self_test,
        lambda: empty.contract,
        lambda: repr(empty),
    ]
    for call in calls:
        with pytest.raises(native.Error, match=r"this Model holds no file; make it with segnets_native.Model\(path\)"):
            call()
    with pytest.raises(TypeError):
        native.Model.segment(3, image)
    with pytest.raises(TypeError):
        native.SelfTest()
    with pytest.raises(TypeError):
        native.SelfTest.__new__(native.SelfTest)
