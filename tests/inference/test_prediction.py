"""The result of one image."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segnets import Decoding
from segnets.errors import ImageError, OutputError
from segnets.inference import Prediction, Seconds, overlay, voc_palette
from segnets.inference import rle as rle_module
from segnets.inference.maps import decode_mask
from segnets.inference.resized_logits import ResizedLogits

CLASSES = ("background", "dog", "cat")


def predicted(rule: str = "argmax", channels: int = 3, shape: tuple[int, int] = (12, 20), **changes: Any) -> Prediction:
    """Return a prediction of random logits."""
    decoding = Decoding(rule)
    logits = torch.randn(channels, 5, 6, generator=torch.Generator().manual_seed(0)) * 2
    maps = ResizedLogits(logits, *shape)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    names = CLASSES[: decoding.ids(channels)]
    values = {"image": image, "mask": decode_mask(maps, decoding), "maps": maps, "classes": names, "decoding": decoding}
    return Prediction(source="photo.jpg", **{**values, **changes})


def test_areas_are_those_of_the_mask() -> None:
    prediction = predicted()
    assert (prediction.height, prediction.width) == prediction.mask.shape == (12, 20)
    assert prediction.area() == {name: int((prediction.mask == i).sum()) for i, name in enumerate(CLASSES)}
    assert sum(prediction.area().values()) == 240
    assert predicted(mask=np.zeros((12, 20), np.uint8)).area() == {"background": 240, "dog": 0, "cat": 0}


def test_masks_that_contradict_the_classes_are_refused() -> None:
    for mask, message in (
        (np.full((12, 20), 3, np.uint8), r"the id 3; expected 0\.\.2"),
        (np.full((12, 20), -1, np.int16), "the id -1"),
        (np.zeros((2, 12, 20), np.uint8), "2 planes for 3 classes"),
        (np.zeros(12, np.uint8), r"expected \(H, W\)"),
    ):
        with pytest.raises(ImageError, match=rf"photo\.jpg: .*{message}"):
            predicted(mask=mask)


@pytest.mark.parametrize(("rule", "channels"), [("argmax", 3), ("threshold", 1), ("multilabel", 3)])
def test_probabilities_confidence_and_entropy_agree(rule: str, channels: int) -> None:
    prediction = predicted(rule, channels)
    probabilities = prediction.probabilities()
    assert probabilities.shape == (len(prediction.classes), 12, 20)
    assert probabilities.dtype == prediction.confidence.dtype == prediction.entropy.dtype == np.float32
    if rule == "multilabel":
        assert np.array_equal(probabilities > 0.5, prediction.mask == 1)
        expected = np.maximum(probabilities, 1 - probabilities).min(axis=0)
        every = np.stack([probabilities, 1 - probabilities])
    else:
        assert np.array_equal(probabilities.argmax(0), prediction.mask)
        expected = probabilities.max(axis=0)
        every = probabilities
    assert np.allclose(prediction.confidence, expected, atol=1e-5)
    assert np.allclose(prediction.entropy, -(every * np.log(every)).reshape(-1, 12, 20).sum(axis=0), atol=1e-5)
    assert prediction.confidence is prediction.confidence  # computed once


@pytest.mark.parametrize(("rule", "channels"), [("argmax", 3), ("threshold", 1), ("multilabel", 3)])
def test_run_lengths_and_polygons_cover_the_mask(rule: str, channels: int) -> None:
    prediction = predicted(rule, channels)
    mask, areas = prediction.mask, prediction.area()
    for name, encoded in prediction.rle().items():
        class_id = prediction.classes.index(name)
        expected = mask[class_id] if mask.ndim == 3 else mask == class_id
        assert np.array_equal(rle_module.decode(encoded), expected)
        properties = [each["properties"] for each in prediction.polygons()["features"]]
        assert sum(each["area"] for each in properties if each["class"] == name) == areas[name]
    assert set(prediction.rle()) == {name for name, area in areas.items() if area}


def test_equal_names_are_kept_apart() -> None:
    prediction = predicted(classes=("other", "dog", "other"))
    areas = prediction.area()
    assert list(areas) == ["other", "dog", "other (2)"]
    assert areas["other (2)"] == (prediction.mask == 2).sum()
    assert "other (2)" in prediction.rle()


def test_names_and_colours_are_made_up_where_the_card_has_none() -> None:
    prediction = predicted(classes=())
    assert prediction.classes == ("class 0", "class 1", "class 2")
    assert prediction.palette == tuple(voc_palette(3))
    mask = np.array([[0, 4]], np.uint8)
    assert len(Prediction(source="a", mask=mask).classes) == 5
    assert len(Prediction(source="a", mask=mask, num_classes=7).palette) == 7
    assert len(Prediction(source="a", mask=np.zeros((4, 1, 2), np.uint8)).classes) == 4
    assert predicted("threshold", 1, classes=()).classes == ("class 0", "class 1")
    with pytest.raises(ValueError, match="2 colours for 3 classes"):
        predicted(palette=[(0, 0, 0), (1, 1, 1)])


def test_overlays_and_legends_are_pictures() -> None:
    prediction = predicted()
    assert prediction.image is not None
    plain = prediction.overlay(outlines=False)
    assert np.array_equal(plain, overlay(prediction.image, prediction.mask, prediction.palette))
    assert not np.array_equal(prediction.overlay(), plain)
    assert np.array_equal(prediction.overlay(0.0, outlines=False), prediction.image)
    assert prediction.legend(width=300, text_size=20).shape[1:] == (300, 3)
    with pytest.raises(ValueError, match=r"photo\.jpg: an overlay needs the image"):
        predicted(image=None).overlay()


def test_a_notebook_shows_a_small_picture() -> None:
    data = predicted(shape=(1500, 2500))._repr_png_()
    assert data is not None
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.width) == ("PNG", 960)
        assert 576 < picture.height < 760
    assert predicted(image=None)._repr_png_() is not None


def test_the_text_form_names_the_largest_classes() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:3], mask[3], mask[4, 0] = 1, 2, 3
    prediction = Prediction(source="a.jpg", mask=mask, classes=("sky", "dog", "cat", "fly"))
    assert repr(prediction) == "Prediction('a.jpg', mask (10, 10) uint8: sky 59.0 %, dog 30.0 %, cat 10.0 %, 1 more)"
    nameless = Prediction(source="a.jpg", mask=mask, classes=("0", "1", "2", "3"))
    assert "class 0 59.0 %, class 1 30.0 %" in repr(nameless)  # not "0 59.0 %"


def test_a_prediction_without_logits_says_so() -> None:
    prediction = predicted(maps=None)
    for compute in (prediction.probabilities, lambda: prediction.confidence, lambda: prediction.entropy):
        with pytest.raises(ValueError, match=r"photo\.jpg: no .*, because this prediction does not keep its logits"):
            compute()


def test_an_error_is_raised_by_every_method(tmp_path: Path) -> None:
    error = ImageError("bad.jpg: not an image")
    prediction = Prediction(source="bad.jpg", error=error, classes=CLASSES)
    assert prediction.mask is None
    assert prediction.error is error
    assert repr(prediction) == "Prediction('bad.jpg', error='bad.jpg: not an image')"
    assert prediction._repr_png_() is None
    for compute in (
        prediction.area,
        prediction.polygons,
        prediction.rle,
        prediction.overlay,
        prediction.legend,
        prediction.picture,
        prediction.probabilities,
        lambda: prediction.confidence,
        lambda: prediction.entropy,
        lambda: prediction.height,
        lambda: prediction.save(tmp_path / "mask.png"),
    ):
        with pytest.raises(ImageError) as raised:
            compute()
        assert raised.value is error
    assert not list(tmp_path.iterdir())
    for mask, reason in ((None, None), (np.zeros((1, 1), np.uint8), error)):
        with pytest.raises(ValueError, match="either a mask or an error"):
            Prediction(source="a", mask=mask, error=reason)


def test_the_suffix_of_a_saved_file_says_the_format(tmp_path: Path) -> None:
    prediction = predicted()
    for name in (
        "a.png",
        "a.JPG",
        "a.jpeg",
        "a.overlay.png",
        "a.confidence.png",
        "a.npz",
        "a.geojson",
        "a.csv",
        "a.json",
    ):
        assert prediction.save(tmp_path / name) == tmp_path / name
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), prediction.mask)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.overlay.png")), prediction.picture())
    assert np.asarray(Image.open(tmp_path / "a.confidence.png")).shape == (12, 20)
    with Image.open(tmp_path / "a.JPG") as picture:
        assert (picture.format, picture.size) == ("JPEG", prediction.picture().shape[1::-1])
    assert json.loads((tmp_path / "a.json").read_text())["images"][0]["file_name"] == "photo.jpg"
    assert (tmp_path / "a.csv").read_text().startswith("image,class id,class,pixels,share,mean confidence\nphoto.jpg,0")
    with pytest.raises(OutputError, match=r"a\.bmp: unknown suffix; expected one of .*\.png"):
        prediction.save(tmp_path / "a.bmp")


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    predicted().save(path)
    before = path.read_bytes()
    other = predicted(mask=np.zeros((12, 20), np.uint8))
    with pytest.raises(OutputError, match="exists already"):
        other.save(path)
    with pytest.raises(ValueError, match="logits"):
        predicted(maps=None).save(tmp_path / "a.npz")
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before
    other.save(path, overwrite=True)
    assert path.read_bytes() != before


def test_seconds_add_up() -> None:
    assert Seconds(decode=1, network=2, post=3, write=4).total == 10
    assert predicted().seconds.total == 0
