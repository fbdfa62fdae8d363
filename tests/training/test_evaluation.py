"""Evaluation of a model on a split."""

from __future__ import annotations

import importlib
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

import segnets
from segnets.data import DataSet, open_data
from segnets.errors import DataError, OutputError
from segnets.training.class_names import agree_on_classes
from segnets.training.evaluation import Evaluation, evaluate
from segnets.training.metrics import ConfusionMatrix
from segnets.training.pictures import draw_example, draw_panels
from segnets.training.results import reserved_folder, save_evaluation
from tests.data.common import CLASSES, image_of, mask_of, write_folder, write_pair
from tests.inference.common import small_model


@pytest.fixture(scope="module")
def model() -> segnets.SegmentationModel:
    return small_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Three images of two sizes in val; the last one has ignored pixels and no car, another is ignored altogether."""
    folder = write_folder(
        tmp_path_factory.mktemp("data") / "set", description='classes = ["sky", "road", "car"]\nignore = [9]'
    )
    mask = mask_of(7, 48, 40)
    mask[mask == 2] = 9
    write_pair(folder / "val", "200", image_of(7, 48, 40), mask)
    write_pair(folder / "val", "300", image_of(8), np.full((32, 40), 255, np.uint8))
    return open_data(folder)


@pytest.fixture(scope="module")
def evaluation(model: segnets.SegmentationModel, data: DataSet) -> Evaluation:
    return evaluate(model, data, examples=2)


def test_scores_are_those_of_the_masks_that_segment_gives(
    model: segnets.SegmentationModel, data: DataSet, evaluation: Evaluation
) -> None:
    expected = np.zeros((3, 3), np.int64)
    for sample in data.samples("val"):
        assert sample.mask is not None
        truth, mask = np.asarray(Image.open(sample.mask)), segnets.segment(model, str(sample.image))
        for c in range(3):
            for k in range(3):
                expected[c, k] += ((truth == c) & (mask == k)).sum()
    np.testing.assert_array_equal(evaluation.counts.counts, expected)
    assert evaluation.counts.pixels + evaluation.ignored_pixels == 3 * 32 * 40 + 48 * 40
    assert evaluation.ignored_ids == (9, 255)


def test_scores_at_the_size_of_the_input_are_those_of_torchvisions_references(
    model: segnets.SegmentationModel, data: DataSet
) -> None:
    """The evaluation of references/segmentation/train.py, with its preset on tensors and its masks by Pillow."""
    importlib.import_module("segnets.torchvision_compat")
    functional = importlib.import_module("torchvision.transforms.functional")
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for sample in data.samples("val"):
        assert sample.mask is not None
        image = torch.from_numpy(np.array(Image.open(sample.image))).permute(2, 0, 1)
        image = functional.resize(image, 64, antialias=True).float() / 255
        image = functional.normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        target = functional.resize(Image.open(sample.mask), 64, interpolation=functional.InterpolationMode.NEAREST)
        truth = torch.from_numpy(np.array(target)).long().flatten()
        with torch.inference_mode():
            mask = model(image[None])["out"].argmax(1).flatten()
        known = truth < 3
        expected += torch.bincount(3 * truth[known] + mask[known], minlength=9).reshape(3, 3)
    found = evaluate(model, data, at="input", examples=1)
    np.testing.assert_array_equal(found.counts.counts, expected.numpy())
    assert found.to_json()["at"] == "input"
    assert found.worst[0].image.shape[:2] == found.worst[0].truth.shape == (64, 80)
    assert "compared at the size of the network's input" in found.lines()
    scaled = evaluate(segnets.Predictor(model, resize="x1.5", deterministic=True), data, at="input", examples=1)
    assert scaled.worst[0].image.shape[:2] == scaled.worst[0].truth.shape
    assert scaled.worst[0].truth.shape in ((48, 60), (72, 60))
    with pytest.raises(ValueError, match="at='mask': expected one of 'image', 'input'"):
        evaluate(model, data, at="mask")


def test_scores_of_the_images_add_up(data: DataSet, evaluation: Evaluation) -> None:
    assert [image.name for image in evaluation.images] == [sample.name for sample in data.samples("val")]
    counts = evaluation.counts
    summed = sum(image.counts for image in evaluation.images)
    np.testing.assert_array_equal(summed, np.stack([counts.hits, counts.truth, counts.predicted]))
    ignored = evaluation.images[-1]
    assert (ignored.pixels, math.isnan(ignored.mean_iou), math.isnan(ignored.accuracy)) == (0, True, True)


def test_the_worst_and_the_best_are_kept(evaluation: Evaluation) -> None:
    ranked = sorted(each.mean_iou for each in evaluation.images if each.pixels)
    assert [each.score.mean_iou for each in evaluation.worst] == ranked[:2]
    assert [each.score.mean_iou for each in evaluation.best] == ranked[::-1][:2]


def test_parts_of_a_split_merge_to_the_whole(
    model: segnets.SegmentationModel, data: DataSet, evaluation: Evaluation
) -> None:
    samples = data.samples("val")
    parts = [
        evaluate(model, data, samples=samples[rank::5], examples=2) for rank in (1, 0, 2, 3, 4)
    ]  # the last is empty
    merged = Evaluation.merged(parts)
    assert merged.to_json() == evaluation.to_json()
    assert [each.name for each in merged.images] == [each.name for each in evaluation.images]
    assert [each.score.name for each in merged.worst] == [each.score.name for each in evaluation.worst]
    with pytest.raises(ValueError, match="a sample occurs in several parts"):
        Evaluation.merged([parts[0], parts[0]])


def test_json_and_text_state_absent_classes(evaluation: Evaluation) -> None:
    counts = ConfusionMatrix(3)
    counts.counts[:2, :2] = [[6, 2], [1, 1]]
    shown = replace(evaluation, counts=counts, images=evaluation.images[:1], ignored_pixels=10)
    assert shown.absent == ("car",)
    found = shown.to_json()
    assert found["iou"] == {"sky": 6 / 9, "road": 1 / 4, "car": None}
    assert (found["mean_iou"], found["pixel_accuracy"], found["images"]) == ((6 / 9 + 1 / 4) / 2, 0.7, 1)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    text = "\n".join(shown.lines())
    assert "1 image, 10 pixels; 50.00 % ignored (values 9, 255)" in text
    assert "mean IoU        0.4583  over 2 of 3 classes" in text
    assert "car    absent from truth and prediction" in text


def test_an_evaluation_without_valid_pixels(model: segnets.SegmentationModel, data: DataSet) -> None:
    nothing = evaluate(model, data, samples=data.samples("val")[-1:], examples=1)
    assert nothing.to_json()["mean_iou"] is None
    assert nothing.worst == ()
    assert "mean IoU             -  over 0 of 3 classes" in nothing.lines()


class Fixed(nn.Module):
    """A network whose logits are bands of the image."""

    def __init__(self, channels: int, decoding: segnets.Decoding, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))
        self.channels = channels
        preprocessing = segnets.Preprocessing(resize="none", mean=(0.5,) * 3, std=(0.5,) * 3)
        self.card = segnets.ModelCard(classes=classes, decoding=decoding, preprocessing=preprocessing)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": image[:, : self.channels] * self.factor}


def test_one_class_with_a_sigmoid(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", val=1, description='classes = ["other", "bright"]')
    (image, mask) = (tmp_path / "data" / "val" / kind / "100.png" for kind in ("images", "masks"))
    truth = (np.asarray(Image.open(image))[:, :, 0] > 100).astype(np.uint8)
    Image.fromarray(truth).save(mask)
    found = evaluate(Fixed(1, segnets.Decoding("threshold"), ("other", "bright")).eval(), open_data(folder))
    bright = np.asarray(Image.open(image))[:, :, 0] > 127
    both, either = (bright & (truth == 1)).sum(), (bright | (truth == 1)).sum()
    assert found.counts.iou[1] == both / either
    assert found.counts.num_classes == 2


def test_a_plane_per_class(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", val=1)
    found = evaluate(Fixed(3, segnets.Decoding("multilabel"), CLASSES).eval(), open_data(folder), examples=1)
    image, mask = (np.asarray(Image.open(folder / "val" / kind / "100.png")) for kind in ("images", "masks"))
    for c in range(3):
        plane, truth = image[:, :, c] > 127, mask == c
        assert found.counts.iou[c] == (plane & truth).sum() / (plane | truth).sum()
    assert found.counts.pixels + found.ignored_pixels == 3 * 32 * 40
    assert draw_example(found, found.worst[0]).dtype == np.uint8
    save_evaluation(found, tmp_path / "out")
    assert not (tmp_path / "out" / "confusion.csv").exists()


def test_masks_with_a_plane_per_class(tmp_path: Path, model: segnets.SegmentationModel) -> None:
    folder = write_folder(tmp_path / "data", description=f'classes = {[*CLASSES]}\nmasks = "planes"')
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (3, 32, 40)).astype(np.uint8)
    truth[:, 0] = truth[1, 1] = 255
    for mask in folder.glob("*/masks/*.png"):
        mask.unlink()
        tifffile.imwrite(mask.with_suffix(".tif"), truth, photometric="minisblack")
    data = open_data(folder)
    found = evaluate(Fixed(3, segnets.Decoding("multilabel"), CLASSES).eval(), data, examples=1)
    ious = []
    for c in range(3):
        planes = [np.asarray(Image.open(each.image))[:, :, c] > 127 for each in data.samples("val")]
        valid, wanted = truth[c] != 255, truth[c] == 1
        ious.append(sum((p & wanted).sum() for p in planes) / sum(((p | wanted) & valid).sum() for p in planes))
    np.testing.assert_allclose(found.counts.iou, ious, rtol=1e-15)
    assert found.ignored_pixels == 2 * 4 * 40
    _, shown, predicted, marks = draw_panels(found, found.worst[0], max_side=40)
    assert shown.shape == predicted.shape == (32, 40, 3)
    assert (marks[0, :, 2].astype(int) - marks[0, :, 0] > 60).all()  # blue, because all planes are ignored there
    with pytest.raises(DataError, match="a plane per class, but SegmentationModel gives one class per pixel"):
        evaluate(model, data)


@pytest.mark.parametrize(
    ("own", "names", "ids", "message"),
    [
        (("sky", "road"), CLASSES, 3, r"has 2 classes \(sky, road\), but m has 3 \(sky, road, car\)"),
        (("sky", "road"), (), 3, r"has 2 classes \(sky, road\), but m has 3. Use"),
        (("sky", "car", "road"), CLASSES, 3, "in a different order from m's: class 1 is 'car' and 'road'"),
        (
            ("sky", "street", "van"),
            CLASSES,
            3,
            r"differ from m's: class 1 is 'street' and 'road' \(1 more\)",
        ),
    ],
)
def test_classes_that_contradict_each_other_are_refused(
    data: DataSet, own: tuple[str, ...], names: tuple[str, ...], ids: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        agree_on_classes(replace(data, classes=own), names, ids, "m")


def test_classes_come_from_the_model_where_the_data_names_none(data: DataSet) -> None:
    unnamed = replace(data, classes=())
    assert agree_on_classes(unnamed, CLASSES, 3, "m").classes == CLASSES
    assert agree_on_classes(unnamed, (), 3, "m").classes == ("0", "1", "2")
    assert agree_on_classes(data, (), 3, "m").classes == CLASSES


def test_ids_that_the_model_does_not_have_are_named(data: DataSet) -> None:
    with pytest.raises(
        DataError, match=r"value 2 is neither a class id \(0..1\).*The data set has no class names; these are"
    ):
        evaluate(Fixed(2, segnets.Decoding(), ("sky", "road")).eval(), replace(data, classes=()))


def test_a_missing_mask_is_named_before_anything_is_computed(model: segnets.SegmentationModel, data: DataSet) -> None:
    *samples, last = data.samples("val")
    done: list[int] = []
    with pytest.raises(DataError, match=r"300\.png: has no mask"):
        evaluate(
            model, data, samples=[*samples, replace(last, mask=None)], progress=lambda *counts: done.append(counts[0])
        )
    assert done == []


def test_images_of_other_channels_are_refused(model: segnets.SegmentationModel, data: DataSet) -> None:
    with pytest.raises(DataError, match="has images of 4 channels, but SegmentationModel takes 3"):
        evaluate(model, replace(data, channels=4))


def test_files_of_an_evaluation(evaluation: Evaluation, tmp_path: Path) -> None:
    folder = save_evaluation(evaluation, tmp_path / "a" / "b")
    pictures = [f"worst/{number:02}_{each.score.name}.png" for number, each in enumerate(evaluation.worst, 1)]
    files = [str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()]
    assert sorted(files) == sorted(["confusion.csv", "images.csv", "report.html", "scores.json", *pictures])
    rows = [line.split(",") for line in (folder / "images.csv").read_text().splitlines()]
    assert rows[0] == ["name", "pixels", "pixel_accuracy", "mean_iou", *CLASSES]
    assert [row[0] for row in rows[1:]] == [image.name for image in evaluation.images]
    assert float(rows[1][3]) == pytest.approx(evaluation.images[0].mean_iou, abs=1e-6)
    assert rows[-1][2:] == ["", "", "", "", ""]  # all pixels are ignored
    matrix = [line.split(",")[1:] for line in (folder / "confusion.csv").read_text().splitlines()[1:]]
    np.testing.assert_array_equal(np.array(matrix, np.int64), evaluation.counts.counts)
    with pytest.raises(OutputError, match="is not empty"):
        save_evaluation(evaluation, folder)
    save_evaluation(evaluation, folder, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not a folder"):
        save_evaluation(evaluation, tmp_path / "file")


def test_files_of_images_with_odd_names(evaluation: Evaluation, tmp_path: Path) -> None:
    """Long names of many bytes per letter, and names that are not UTF-8."""
    worst = [
        replace(each, score=replace(each.score, name=name))
        for each, name in zip(evaluation.worst, (f"{'字' * 60}/{'名' * 60}", "b\udcff"), strict=False)
    ]
    images = tuple(each.score for each in worst)
    folder = save_evaluation(replace(evaluation, images=images, worst=tuple(worst)), tmp_path / "out")
    names = [line.split(",")[0] for line in (folder / "images.csv").read_text("utf-8").splitlines()[1:]]
    assert names == [images[0].name, "b\\udcff"]
    assert sorted(each.name for each in (folder / "worst").iterdir()) == [f"01_{'名' * 33}.png", "02_b_.png"]


def test_the_picture_shows_wrong_and_ignored_pixels(evaluation: Evaluation) -> None:
    example = next(each for each in evaluation.worst if each.score.name == "200")
    height, width = example.truth.shape
    picture = draw_example(evaluation, example).astype(int)
    shown = picture[6 + height + 27 :, 6 + width + 6 :][:height, :width]
    reddish = shown[..., 0] - shown[..., 1] > 60
    wrong = (example.prediction != example.truth) & (example.truth != 255)
    np.testing.assert_array_equal(reddish, wrong)
    ignored = shown[example.truth == 255]
    assert len(ignored)
    assert (ignored[:, 2] - ignored[:, 0] > 60).all()
    correct = shown[(example.truth != 255) & ~wrong]
    assert (np.ptp(correct, axis=-1) == 0).all()


def _fail_in(folder: Path, *, file: str | None = None) -> None:
    with reserved_folder(folder):
        assert folder.is_dir()
        if file is not None:
            (folder / file).touch()
        raise KeyboardInterrupt


def test_an_error_leaves_no_new_folder(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name, left in (("a/b", False), ("old/c", False), ("old", True)):
        with pytest.raises(KeyboardInterrupt):
            _fail_in(tmp_path / name)
        assert (tmp_path / name).exists() == left
    with pytest.raises(OutputError, match="the name is too long"):
        _fail_in(tmp_path / "a" / ("b" * 300))
    assert [each.name for each in tmp_path.iterdir()] == ["old"]
    with pytest.raises(KeyboardInterrupt):
        _fail_in(tmp_path / "a", file="scores.json")
    assert (tmp_path / "a" / "scores.json").exists()


def test_the_command(data: DataSet, model: segnets.SegmentationModel, tmp_path: Path, capsys: Any) -> None:
    from segnets.cli import main

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segnets.save(model, tmp_path / "w.safetensors")
    command = ["evaluate", "--model", str(tmp_path / "w.safetensors"), str(data.path)]
    assert main([*command, "--json", "--save", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == evaluate(model, data).to_json() | {"model": str(tmp_path / "w.safetensors")}
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == found
    assert f"model {tmp_path}/w.safetensors; split val: " in (tmp_path / "out" / "report.html").read_text()
    assert main([*command, "--split", "train"]) == 0
    assert "split train: 4 images" in capsys.readouterr().out
    assert main([*command, "--split", "test"]) == 1
    assert "the split 'test' does not exist" in capsys.readouterr().err
    failing = [*command, "--ignore", "8"]  # instead of those of the data set
    assert main([*failing, "--save", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()
    assert "value 9 is neither a class id (0..2) nor ignored" in capsys.readouterr().err
