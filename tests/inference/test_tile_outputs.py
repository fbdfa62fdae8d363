"""Outputs of images in tiles: files, tables, GeoTIFF, postprocessing, failures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import nn

from segnets.card import Decoding, ModelCard
from segnets.errors import PredictError
from segnets.inference.journal import Entry
from segnets.inference.outputs import Task, Writers, write_image
from segnets.inference.postprocess import PostProcessing
from segnets.inference.predictor import Predictor
from segnets.inference.sources import Item
from segnets.inference.tile_outputs import write_tiled
from segnets.inference.writers import WRITERS
from segnets.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
TABLES = ("csv", "coco")
PLACE: dict[str, Any] = {"crs": "EPSG:25832", "transform": rasterio.Affine(0.5, 0, 6e5, 0, -0.5, 5e6)}


class Brightest(nn.Module):
    """A class per channel, and one for dark pixels. A logit depends on its own pixel only, so tiles change nothing."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": torch.cat([8 * image, torch.full_like(image[:, :1], 2.0)], dim=1)}


def predictor(decoding: Decoding | None = None, **options: Any) -> Predictor:
    model = Brightest().eval()
    card = ModelCard(
        classes=("red", "green", "blue", "dark"),
        palette=((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)),
        preprocessing=Preprocessing(resize="none"),
        decoding=decoding,
    )
    setattr(model, "card", card)  # noqa: B010
    return Predictor(model, device="cpu", **options)


def writers(*names: str) -> Writers:
    chosen: dict[str, Any] = {name: WRITERS[name] for name in names}
    tables = {name: chosen.pop(name) for name in TABLES if name in chosen}
    return Writers(chosen, tables)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    coarse = RNG.integers(0, 256, (20, 25, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((201, 163), Image.Resampling.NEAREST).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def task_of(path: Path) -> Task:
    return Task(Item(str(path), str(path), Path(path.name)), "image")


def tiled(path: Path, net: Predictor, out: Path, *names: str, **options: Any) -> Entry:
    out.mkdir(exist_ok=True)
    return write_tiled(task_of(path), net, writers(*names), out, **{"tile": 64, "overlap": 8, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"postprocessing": PostProcessing(min_confidence=0.6, only=("red", "dark"), min_area=200, fill_holes=100)},
        {"decoding": Decoding("multilabel", 0.7)},
    ],
    ids=["plain", "postprocessing", "planes"],
)
def test_every_output_equals_that_of_the_image_at_once(image: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    net, names = predictor(**options), ("mask", "overlay", "confidence", "probabilities", "geojson", "csv", "coco")
    (tmp_path / "plain").mkdir()
    expected = write_image(task_of(image), net.predict(image), writers(*names), tmp_path / "plain")
    steps: list[tuple[int, int]] = []
    entry = tiled(image, net, tmp_path / "tiles", *names, progress=lambda *done: steps.append(done))
    assert entry.state == expected.state
    assert entry.outputs == expected.outputs
    assert entry.size == (163, 201)
    assert entry.tables == expected.tables
    for name in expected.outputs:
        assert (tmp_path / "tiles" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    assert {path.name for path in (tmp_path / "tiles").iterdir()} == {*expected.outputs}
    assert steps[-1][0] == steps[-1][1] == len(steps) > 9
    assert set(entry.seconds) == set(expected.seconds)
    assert min(entry.seconds.values()) >= 0


def test_georeferenced_masks(image: Path, tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(image))
    path = tmp_path / "map.tif"
    with rasterio.open(path, "w", driver="GTiff", height=163, width=201, count=3, dtype="uint8", **PLACE) as file:
        file.write(pixels.transpose(2, 0, 1))
    for tile in (64, None):
        entry = tiled(path, predictor(), tmp_path / f"out {tile}", "mask", tile=tile)
        assert [*entry.outputs] == ["image.tif", "image.png"]
        assert entry.outputs["image.tif"] == (tmp_path / f"out {tile}" / "image.tif").stat().st_size
        with rasterio.open(tmp_path / f"out {tile}" / "image.tif") as dataset:
            assert dataset.crs == rasterio.crs.CRS.from_epsg(25832)
            assert dataset.transform == PLACE["transform"]
            assert np.array_equal(dataset.read(1), predictor().predict(pixels).mask)


def test_failures(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with pytest.raises(PredictError, match="tile=63: expected a multiple of 32"):
        tiled(image, predictor(), out, "mask", tile=63)
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:300])
    many = PostProcessing(min_area=5)
    for path, net, names, reason in (
        (tmp_path / "cut.png", predictor(), ("mask",), r"cut\.png: can't be read as an image"),
        (image, predictor(max_pixels=32_762), ("mask",), r"image\.png: has 201x163 pixels, 32,763 in total"),
        (image, predictor(), ("mask", "geojson", "coco"), r"too many for geojson and coco, which take at most 9,999;"),
        (image, predictor(), ("probabilities",), r"too many for probabilities, which take at most 9,999"),
        (image, predictor(postprocessing=many), ("mask",), r"too many for changes of regions \(--min-area"),
    ):
        monkeypatch.setattr("segnets.inference.tile_outputs.MAX_PIXELS", 9_999)
        entry = tiled(path, net, out, *names)
        assert entry.state == "failed"
        assert re.search(reason, entry.reason), entry.reason
        assert "\n" not in entry.reason
        assert [*out.iterdir()] == []
    monkeypatch.setattr("segnets.inference.tile_outputs.MAX_PIXELS", 99_999)
    monkeypatch.setattr("segnets.inference.tile_outputs.MAX_VALUES", 99_999)
    assert "too many for probabilities of 4 classes" in tiled(image, predictor(), out, "probabilities").reason

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("segnets.inference.tile_outputs.MaskRows.rows", full)
    entry = tiled(image, predictor(), out, "mask", "overlay")
    assert (entry.state, [*out.iterdir()]) == ("failed", [])
    assert entry.reason.endswith("image.png: does not fit into memory; choose smaller tiles (--tile)")


def test_a_reduced_overlay_is_said(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segnets.inference.writers.rows_overlay.MAX_SIDE", 100)
    entry = tiled(image, predictor(), tmp_path / "out", "overlay", "mask")
    assert entry.notices == ("its overlay is reduced to 67x55 pixels, 1 of 3 in each direction",)
    assert tiled(image, predictor(), tmp_path / "out", "mask").notices == ()
