"""The bytes that writers make, read back by other programs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools.coco import COCO

from segnets.card import JSON
from segnets.commands import predict
from segnets.errors import ImageError
from segnets.inference import Prediction, voc_palette
from segnets.inference.writers import SUFFIXES, WRITERS, FileWriter, Record, TableWriter, coco, probabilities
from tests.inference.test_polygons import filled
from tests.inference.test_prediction import CLASSES, predicted


def written(name: str, prediction: Prediction) -> bytes:
    writer = cast("FileWriter", WRITERS[name])
    first, second = io.BytesIO(), io.BytesIO()
    writer.write(prediction, first)
    writer.write(prediction, second)
    assert first.getvalue() == second.getvalue()
    return first.getvalue()


def table(name: str, records: Iterator[Record] | list[Record], classes: tuple[str, ...] = CLASSES) -> bytes:
    file = io.BytesIO()
    cast("TableWriter", WRITERS[name]).assemble(records, classes, voc_palette(len(classes)), file)
    return file.getvalue()


def record(name: str, prediction: Prediction) -> JSON:
    """Return a record after a trip through a journal."""
    result: JSON = json.loads(json.dumps(cast("TableWriter", WRITERS[name]).record(prediction)))
    return result


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_file_and_table_writers_are_told_apart() -> None:
    tables = {name for name, writer in WRITERS.items() if isinstance(writer, TableWriter)}
    assert tables == {"coco", "csv"}
    suffixes = [each.suffix for each in WRITERS.values() if not isinstance(each, TableWriter)]
    assert len({*suffixes}) == len(suffixes)
    assert {*suffixes} <= SUFFIXES.keys() | {".overlay.jpg"}


def test_masks_are_indexed_with_the_palette() -> None:
    prediction = predicted(palette=[(0, 0, 0), (9, 8, 7), (250, 0, 1)])
    image = opened(written("mask", prediction))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), prediction.mask)
    assert image.getpalette() == [0, 0, 0, 9, 8, 7, 250, 0, 1]
    colours = np.array(prediction.palette, np.uint8)[prediction.mask]
    assert np.array_equal(np.asarray(image.convert("RGB")), colours)


def test_masks_with_pixels_to_ignore_keep_their_id() -> None:
    prediction = predicted(mask=np.array([[0, 255], [2, 1]], np.uint8), maps=None)
    image = opened(written("mask", prediction))
    assert np.asarray(image).tolist() == [[0, 255], [2, 1]]
    assert image.convert("RGB").getpixel((1, 0)) == (224, 224, 192)  # as in PASCAL VOC


@pytest.mark.parametrize(("classes", "mode"), [(256, "P"), (257, "I;16"), (1000, "I;16")])
def test_masks_above_256_classes_have_16_bits(classes: int, mode: str) -> None:
    mask: npt.NDArray[np.integer] = np.arange(classes - 12, classes).reshape(3, 4)
    mask = mask.astype(np.uint8) if classes <= 256 else mask.astype(np.uint16)
    image = opened(written("mask", Prediction(source="a", mask=mask, num_classes=classes)))
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), mask)


def test_planes_lie_one_below_the_other() -> None:
    prediction = predicted("multilabel")
    image = np.asarray(opened(written("mask", prediction)))
    assert np.array_equal(image.reshape(prediction.mask.shape), prediction.mask)


def test_ids_that_no_png_holds_are_refused() -> None:
    prediction = Prediction(source="a.jpg", mask=np.full((1, 2), 70_000), palette=[(0, 0, 0)] * 70_001)
    with pytest.raises(ImageError, match=r"a\.jpg: the mask has ids 0\.\.70000"):
        written("mask", prediction)


def test_overlays_have_the_picture_with_its_legend() -> None:
    prediction = predicted(shape=(300, 400))
    picture = prediction.picture()
    assert np.array_equal(np.asarray(opened(written("overlay-png", prediction))), picture)
    image = opened(written("overlay", prediction))
    assert image.format == "JPEG"
    assert np.abs(np.asarray(image).astype(int)[300:] - picture[300:]).mean() < 3  # the legend survives


def test_overlays_too_large_for_jpeg_say_what_to_do() -> None:
    prediction = predicted(mask=np.zeros((2, 65_536), np.uint8), image=np.zeros((2, 65_536, 3), np.uint8), maps=None)
    with pytest.raises(ImageError, match=r"photo\.jpg: .* too large for JPEG .*overlay-png"):
        written("overlay", prediction)


@pytest.mark.parametrize(("rule", "channels"), [("argmax", 3), ("threshold", 1), ("multilabel", 3)])
def test_probabilities_are_read_by_numpy(rule: str, channels: int) -> None:
    prediction = predicted(rule, channels)
    with np.load(io.BytesIO(written("probabilities", prediction)), allow_pickle=False) as archive:
        assert {*archive} == {"probabilities", "classes"}
        assert archive["probabilities"].dtype == np.float16
        assert np.abs(archive["probabilities"] - prediction.probabilities()).max() <= 1 / 4096
        assert tuple(archive["classes"]) == prediction.classes
    # A class that post-processing added has no probability.
    if rule != "multilabel":
        added = predicted(rule, channels, classes=(*prediction.classes, "unsure"))
        with np.load(io.BytesIO(written("probabilities", added))) as archive:
            assert tuple(archive["classes"]) == prediction.classes


def test_too_many_probabilities_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probabilities, "MAX_VALUES", 719)
    with pytest.raises(ImageError, match=r"photo\.jpg: probabilities of 3 classes at 20 x 12 are 720 numbers.*719"):
        written("probabilities", predicted())


def test_confidence_is_gray() -> None:
    prediction = predicted()
    image = opened(written("confidence", prediction))
    assert image.mode == "L"
    assert np.abs(np.asarray(image) / 255 - prediction.confidence).max() <= 0.5001 / 255


def test_geojson_gives_the_mask_back() -> None:
    prediction = predicted()
    data = written("geojson", prediction)
    collection = json.loads(data)
    assert collection == json.loads(json.dumps(prediction.polygons()))
    mask = np.full(collection["size"], 255)
    for feature in collection["features"]:
        mask[filled(feature["geometry"]["coordinates"], mask.shape)] = feature["properties"]["id"]
    assert np.array_equal(mask, prediction.mask)
    assert data.count(b"\n") == len(collection["features"]) + 2  # one feature per line
    void = predicted(mask=np.full((2, 2), 255, np.uint8), maps=None)
    assert json.loads(written("geojson", void))["features"] == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("rule", "channels"), [("argmax", 3), ("threshold", 1), ("multilabel", 3)])
def test_coco_is_opened_by_pycocotools(rule: str, channels: int, tmp_path: Path) -> None:
    predictions = [predicted(rule, channels, shape) for shape in ((12, 20), (31, 7))]
    names = predictions[0].classes
    records: list[Record] = [
        (f"{i}.jpg", each.height, each.width, record("coco", each)) for i, each in enumerate(predictions)
    ]
    path = tmp_path / "coco.json"
    path.write_bytes(table("coco", records, names))
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(path))
    assert [each["name"] for each in dataset.loadCats(dataset.getCatIds())] == list(names)
    for image_id, prediction in enumerate(predictions, start=1):
        image = dataset.loadImgs([image_id])[0]
        assert (image["height"], image["width"]) == (prediction.height, prediction.width)
        areas = {}
        for annotation in dataset.loadAnns(dataset.getAnnIds(imgIds=[image_id])):
            class_id = annotation["category_id"]
            expected = prediction.mask[class_id] if rule == "multilabel" else prediction.mask == class_id
            assert np.array_equal(dataset.annToMask(annotation), expected)
            areas[names[class_id]] = annotation["area"]
            x, y, width, height = annotation["bbox"]
            assert expected[y : y + height, x : x + width].sum() == annotation["area"]
            assert annotation["iscrowd"] == 0
        assert areas == {name: area for name, area in prediction.area().items() if area}
    ids = dataset.getAnnIds()
    assert sorted(ids) == list(range(1, len(ids) + 1))


def test_csv_has_a_row_per_image_and_class() -> None:
    prediction = predicted(mask=np.repeat(np.array([[1, 0]], np.uint8), 10, axis=1).repeat(12, axis=0))
    name = 'a "b",\nc.jpg'
    text = table("csv", [(name, 12, 20, record("csv", prediction)), ("b\udcff.jpg", 1, 1, [[2, 1, None]])]).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["image"], row["class id"], row["class"], row["pixels"]) for row in rows] == [
        (name, "0", "background", "120"),
        (name, "1", "dog", "120"),
        (name, "2", "cat", "0"),
        ("b\\udcff.jpg", "0", "background", "0"),
        ("b\\udcff.jpg", "1", "dog", "0"),
        ("b\\udcff.jpg", "2", "cat", "1"),
    ]
    assert [row["share"] for row in rows[:3]] == ["0.500000", "0.500000", "0.000000"]
    means = [prediction.confidence[prediction.mask == each].mean() for each in (0, 1)]
    assert [row["mean confidence"] for row in rows] == [f"{means[0]:.4f}", f"{means[1]:.4f}", "", "", "", ""]


def test_csv_averages_the_confidence_of_planes() -> None:
    prediction = predicted("multilabel")
    rows = cast("list[list[Any]]", record("csv", prediction))
    for class_id, area, mean in rows:
        plane = prediction.mask[class_id] == 1
        assert area == plane.sum()
        assert mean == pytest.approx(prediction.confidence[plane].mean(), abs=1e-4)
    without = cast("list[list[Any]]", record("csv", predicted(maps=None)))
    assert [row[2] for row in without] == [None] * len(without)


@pytest.mark.parametrize("name", ["coco", "csv"])
def test_tables_of_no_image_are_complete(name: str) -> None:
    data = table(name, [])
    if name == "coco":
        assert json.loads(data)["images"] == json.loads(data)["annotations"] == []
    else:
        assert data == b"image,class id,class,pixels,share,mean confidence\n"


@pytest.mark.parametrize("name", ["coco", "csv"])
def test_tables_stream_their_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "_IN_MEMORY", 1000)
    one = record(name, predicted())

    class Sink(io.RawIOBase):
        """File that keeps nothing."""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return len(data)

    def records(count: int) -> Iterator[Record]:
        return ((f"folder/of/images/{index:012d}.jpg", 12, 20, one) for index in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        cast("TableWriter", WRITERS[name]).assemble(records(count), CLASSES, voc_palette(3), cast("Any", Sink()))
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(10)
    assert peak(1500) < peak(300) + 60_000


@pytest.mark.parametrize("name", WRITERS)
def test_writers_raise_the_error_of_a_prediction(name: str) -> None:
    error = ImageError("bad.jpg: not an image")
    writer: Any = WRITERS[name]
    prediction = Prediction(source="bad.jpg", error=error, classes=CLASSES)
    with pytest.raises(ImageError) as raised:
        writer.record(prediction) if isinstance(writer, TableWriter) else writer.write(prediction, io.BytesIO())
    assert raised.value is error


def test_the_help_names_every_writer() -> None:
    assert predict._OUTPUTS.split(", ") == list(WRITERS)
