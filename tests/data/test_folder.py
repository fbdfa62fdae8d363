"""Data sets in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segnets.data import open_data
from tests.data.common import CLASSES, image_of, mask_of, write_folder


def test_a_folder_with_splits(tmp_path: Path) -> None:
    data = open_data(write_folder(tmp_path))
    assert data.classes == CLASSES
    assert list(data.splits) == ["train", "val"]
    assert [sample.name for sample in data.samples("train")] == ["000", "001", "002", "003"]
    pair = data.read(data.samples("val")[1])
    assert pair.image.dtype == pair.mask.dtype == np.uint8
    np.testing.assert_array_equal(pair.image, image_of(101))
    np.testing.assert_array_equal(pair.mask, mask_of(101))
