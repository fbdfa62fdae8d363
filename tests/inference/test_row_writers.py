"""Writers that take rows: the same bytes as those of the ordinary writers, and GeoTIFF."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from PIL import Image

from segnets.card import Decoding
from segnets.errors import ImageError, OutputError
from segnets.inference.areas import class_areas
from segnets.inference.prediction import Prediction
from segnets.inference.rasters import Geo, open_raster
from segnets.inference.tiles import Rows
from segnets.inference.writers import WRITERS
from segnets.inference.writers.csv import areas_record
from segnets.inference.writers.rows import RowImage, RowWriter
from segnets.inference.writers.rows_areas import AreaRows
from segnets.inference.writers.rows_confidence import ConfidenceRows
from segnets.inference.writers.rows_geotiff import GeoTiffRows
from segnets.inference.writers.rows_mask import MaskRows
from segnets.inference.writers.rows_overlay import OverlayRows, reduction
from segnets.inference.writers.rows_whole import WholeRows
from segnets.palettes import voc_palette

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 301, 213
IMAGE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
IDS = np.kron(RNG.integers(0, 5, (44, 31)), np.ones((7, 7), int))[:HEIGHT, :WIDTH].astype(np.uint8)
PLANES = RNG.integers(0, 2, (3, HEIGHT, WIDTH), dtype=np.uint8)
CONFIDENCE = RNG.random((HEIGHT, WIDTH), dtype=np.float32)
GEO = Geo('LOCAL_CS["somewhere",UNIT["metre",1]]', (0.5, 0.0, 600_000.0, 0.0, -0.5, 5_300_000.0))


def row_image(mask: npt.NDArray[Any], classes: int, geo: Geo | None = None) -> RowImage:
    names = tuple(f"class {i}" for i in range(classes))
    decoding = Decoding("multilabel") if mask.ndim == 3 else Decoding()
    return RowImage("map.tif", mask.shape[-2], mask.shape[-1], names, tuple(voc_palette(classes)), decoding, geo)


def pieces(mask: npt.NDArray[Any], logits: npt.NDArray[np.float32] | None = None) -> Iterator[Rows]:
    top = 0
    for height in (1, 40, 128, 100, 32):
        part = slice(top, top + height)
        yield Rows(
            top,
            IMAGE[part],
            mask[..., part, :],
            CONFIDENCE[part],
            None if logits is None else logits[:, part],
        )
        top += height


def written(writer: RowWriter, mask: npt.NDArray[Any], classes: int, geo: Geo | None = None) -> bytes:
    file = io.BytesIO()
    try:
        writer.start(row_image(mask, classes, geo), file)
        for rows in pieces(mask):
            writer.rows(rows)
        writer.finish()
    finally:
        writer.close()
    return file.getvalue()


def prediction_of(mask: npt.NDArray[Any], classes: int) -> Prediction:
    image = row_image(mask, classes)
    prediction = Prediction(
        source="map.tif",
        mask=mask,
        image=IMAGE,
        classes=image.classes,
        palette=image.palette,
        decoding=image.decoding,
    )
    prediction.confidence = CONFIDENCE
    return prediction


def expected(name: str, mask: npt.NDArray[Any], classes: int) -> bytes:
    writer: Any = WRITERS[name]
    file = io.BytesIO()
    writer.write(prediction_of(mask, classes), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mask", "classes"), [(IDS, 5), (IDS.astype(np.uint16) * 70, 300), (PLANES, 3)], ids=["ids", "deep", "planes"]
)
def test_the_bytes_are_those_of_the_ordinary_writers(mask: npt.NDArray[Any], classes: int) -> None:
    assert written(MaskRows(), mask, classes) == expected("mask", mask, classes)
    assert written(ConfidenceRows(), mask, classes) == expected("confidence", mask, classes)
    assert written(OverlayRows(), mask, classes) == expected("overlay", mask, classes)
    rows: list[RowWriter] = [MaskRows(), ConfidenceRows(), OverlayRows(), OverlayRows(lossless=True)]
    ordinary: list[Any] = [WRITERS[name] for name in ("mask", "confidence", "overlay", "overlay-png")]
    assert [each.suffix for each in rows] == [each.suffix for each in ordinary]


def test_a_large_overlay_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [reduction(*size) for size in ((4096, 10), (4097, 10), (20_000, 20_000), (2_000, 262_144))] == [1, 2, 5, 64]
    monkeypatch.setattr("segnets.inference.writers.rows_overlay.MAX_SIDE", 61)  # a fifth, the last one smaller
    for mask, classes in ((IDS, 5), (PLANES, 3)):
        with Image.open(io.BytesIO(written(OverlayRows(lossless=True), mask, classes))) as opened:
            picture = np.asarray(opened)
        width = 43
        small = np.asarray(Image.fromarray(IMAGE).reduce(5))
        rows, columns = np.arange(61) * 5 + 2, np.arange(width) * 5 + 2
        rows[-1] = HEIGHT - 1
        columns[-1] = WIDTH - 1
        shown = Prediction(
            source="small",
            image=small,
            mask=mask[..., rows[:, None], columns[None, :]],
            classes=row_image(mask, classes).classes,
            palette=voc_palette(classes),
        )
        assert np.array_equal(picture, shown.picture())


def test_areas() -> None:
    for mask, classes in ((IDS, 7), (PLANES, 3)):
        areas = AreaRows(row_image(mask, classes))
        for rows in pieces(mask):
            areas.rows(rows)
        inside = [mask == each for each in range(classes)] if mask.ndim == 2 else [plane != 0 for plane in mask]
        means = [float(CONFIDENCE[each].mean(dtype=np.float64)) if each.any() else None for each in inside]
        assert areas.record() == areas_record(class_areas(mask, classes).tolist(), means)


def test_outputs_of_the_whole_image() -> None:
    logits = RNG.normal(size=(5, HEIGHT, WIDTH)).astype(np.float32)
    whole = WholeRows(row_image(IDS, 5))
    for rows in pieces(IDS, logits):
        whole.rows(rows)
    prediction = whole.prediction()
    assert np.array_equal(prediction.mask, IDS)
    assert prediction.maps is not None
    assert np.array_equal(prediction.maps.band(3, 70), logits[:, 3:70])
    assert np.allclose(prediction.probabilities().sum(0), 1, atol=1e-5)
    whole = WholeRows(row_image(PLANES, 3))
    for rows in pieces(PLANES):
        whole.rows(rows)
    assert np.array_equal(whole.prediction().mask, PLANES)
    assert whole.prediction().maps is None


def read_tiff(data: bytes, path: Path) -> tuple[npt.NDArray[Any], Any, list[Any]]:
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            names = [dataset.descriptions, json.loads(dataset.tags()["classes"])]
            colours = dataset.colormap(1) if dataset.dtypes == ("uint8",) else None
            return dataset.read(), dataset.profile, [*names, colours]


def test_geotiff(tmp_path: Path) -> None:
    data = written(GeoTiffRows(), IDS, 5, GEO)
    bands, profile, (_, names, colours) = read_tiff(data, tmp_path / "mask.tif")
    assert np.array_equal(bands, IDS[None])
    assert tuple(profile["transform"])[:6] == GEO.transform
    assert "somewhere" in profile["crs"].to_wkt()
    assert (profile["compress"], profile["tiled"], profile["blockxsize"]) == ("deflate", True, 256)
    assert names == [f"class {i}" for i in range(5)]
    assert [colours[i] for i in range(5)] == [(*colour, 255) for colour in voc_palette(5)]
    assert np.array_equal(np.array(Image.open(tmp_path / "mask.tif")), IDS)
    with open_raster(tmp_path / "mask.tif") as raster:  # it is a georeferenced image itself
        assert raster.geo == Geo(profile["crs"].to_wkt(), GEO.transform)
    deep = IDS.astype(np.uint16) * 70
    assert np.array_equal(read_tiff(written(GeoTiffRows(), deep, 300), tmp_path / "deep.tif")[0], deep[None])
    bands, _, (descriptions, _, _) = read_tiff(written(GeoTiffRows(), PLANES, 3), tmp_path / "planes.tif")
    assert np.array_equal(bands, PLANES)
    assert descriptions == ("class 0", "class 1", "class 2")
    assert written(GeoTiffRows(), IDS, 5, GEO) == data


def test_geotiff_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "mask.tif").open("wb") as file:
        writer = GeoTiffRows()
        writer.start(row_image(IDS, 5), file)
        writer.rows(next(pieces(IDS)))
        assert len([*tmp_path.iterdir()]) == 2
        writer.close()
        writer = GeoTiffRows()
        with pytest.raises(OutputError, match=r"\.tmp: GDAL can't write this GeoTIFF: "), closing(writer):
            writer.start(replace(row_image(IDS, 5), geo=Geo("no such system", GEO.transform)), file)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.tif"]

    def unwritten(self: GeoTiffRows) -> None:
        self._top += self._filled
        self._filled, self._checksum = 0, 1

    monkeypatch.setattr(GeoTiffRows, "_flush", unwritten)
    with pytest.raises(OutputError, match="GDAL did not write all pixels; is the disk full"):
        written(GeoTiffRows(), IDS, 5)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImageError, match=r"map\.tif: GeoTIFF files need rasterio, .* pip install 'segnets\[geo\]'"):
        GeoTiffRows().start(row_image(IDS, 5), io.BytesIO())
