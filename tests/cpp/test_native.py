"""segnets_native computes the same masks as TorchScript in Python, without copying NumPy's memory."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided

from segnets.deploy import load_exported
from segnets.preprocessing import Preprocessing
from tests.cpp.common import expected, export_tiny, picture
from tests.deploy.common import random_image


@pytest.mark.parametrize(("height", "width"), [(64, 80), (65, 97), (1, 1), (1, 300), (300, 1)])
def test_the_mask_equals_that_of_python(height: int, width: int, native: Any, small: Path) -> None:
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
    assert np.array_equal(model.segment(images[::-1]), masks[::-1])  # a batch in reverse order
    assert np.array_equal(model.segment(images[1:2]), masks[1:2])
    logits = model.logits(images)
    assert (logits.dtype, logits.shape) == (np.float32, (3, 300, 40, 50))
    assert np.array_equal(logits, exported.logits(exported.preprocess(torch.from_numpy(images))).numpy())
    assert model.logits(images[0]).shape == (300, 40, 50)


def test_a_scaled_image(native: Any, tmp_path: Path) -> None:
    path = export_tiny(tmp_path / "scaled.ts", preprocessing=Preprocessing(resize="scale", size=1.5))
    model, image = native.Model(path), picture(33, 131, 3)
    assert model.logits(image).shape == (5, 50, 197)
    mask = model.segment(image)
    assert (mask.dtype, mask.shape) == (np.uint8, (33, 131))
    assert np.array_equal(mask, expected(path, image))
    assert model.contract["preprocessing"]["size"] == 1.5


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
    assert np.array_equal(model.segment(np.stack([image, image]))[1], want)


COPIED = ("upside down", "mirrored", "turned around", "one row again and again", "gray as three channels")


@pytest.mark.parametrize("name", ["BGR", "a region of BGR", "RGB of RGBA", "planes", "rows of a larger image", *COPIED])
def test_numpy_copies_neither_pixels_nor_mask(name: str, native: Any, tiny: Path) -> None:
    image = LAYOUTS[name](picture(460, 600, 3))
    model = native.Model(tiny)
    tracemalloc.start()  # it records every allocation of NumPy
    mask = model.segment(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (peak >= image.size) == (name in COPIED)
    if name not in COPIED:
        assert peak < mask.nbytes


def test_the_mask_is_not_copied_and_outlives_the_model(native: Any, tiny: Path) -> None:
    model = native.Model(tiny)
    image = picture(20, 30, 3)
    mask, want = model.segment(image), expected(tiny, image)
    assert mask.base is not None  # not NumPy's own memory: nothing was copied
    assert mask.flags.c_contiguous
    assert mask.flags.writeable
    part = mask[3:, 4:]
    others = [model.segment(picture(20, 30, 3, seed=i)) for i in range(5)]  # would overwrite memory that was freed
    del model, mask
    assert np.array_equal(part, want[3:, 4:])
    part[:] = 9  # the memory belongs to the caller alone
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
    assert torch.get_num_threads() == 1  # both use the same LibTorch
