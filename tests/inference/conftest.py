"""A weights file and a folder of images."""

from __future__ import annotations

from pathlib import Path

import pytest

import segnets
from tests.inference.common import image_folder, small_model


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    segnets.save(small_model(), path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "photos")
