"""COCO's annotations become VOC's classes by the rules of torchvision's reference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import segnets.torchvision_compat
from segnets.catalog import VOC_CLASSES
from segnets.data import open_data
from segnets.data.check import check_data
from segnets.data.coco import COCO_AS_VOC
from segnets.errors import DataError
from tests.data.common import image_of

# Of pycocotools' decoder.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
torchvision = segnets.torchvision_compat.torchvision
HEIGHT, WIDTH = 60, 80


def coco_names() -> list[str]:
    names: list[str] = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    return names


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def made_up(seed: int, images: int = 6) -> dict[str, Any]:
    """Return made-up annotations: polygons of one or two parts, some of categories without a class, and a crowd."""
    random = np.random.default_rng(seed)
    objects: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(int(random.integers(0, 6))):
            parts = [
                (random.random(int(random.integers(3, 8)) * 2) * WIDTH).round(2).tolist()
                for _ in range(int(random.integers(1, 3)))
            ]
            category = int(random.choice([1, 2, 3, 16, 72, 10, 84]))
            objects.append(
                {"category_id": category, "image_id": image, "segmentation": parts, "iscrowd": 0, "bbox": [0, 0, 9, 9]}
            )
        objects[-1:] = [{**each, "area": float(random.integers(0, 1500))} for each in objects[-1:]]
    counts = [100, 200, HEIGHT * WIDTH - 300]
    crowd = {"size": [HEIGHT, WIDTH], "counts": counts}
    objects.append({"category_id": 1, "image_id": 0, "segmentation": crowd, "iscrowd": 1, "bbox": [0, 0, 9, 9]})
    for number, each in enumerate(objects):
        each.setdefault("area", float(random.integers(100, 900)))
        each["id"] = number + 1
    return {
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "annotations": objects,
        "categories": [{"id": i, "name": name} for i, name in enumerate(coco_names()) if i and name != "N/A"],
    }


def write_coco(folder: Path, split: str, content: dict[str, Any]) -> Path:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    path = folder / f"annotations/instances_{split}.json"
    path.write_text(json.dumps(content))
    (folder / split).mkdir(exist_ok=True)
    for image in content["images"]:
        Image.fromarray(image_of(image["id"], HEIGHT, WIDTH)).save(folder / split / image["file_name"])
    return path


def expected(folder: Path, split: str) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the masks that torchvision's data set and the rules of its reference give."""
    detection = torchvision.datasets.CocoDetection(folder / split, folder / f"annotations/instances_{split}.json")
    wrapped = torchvision.datasets.wrap_dataset_for_transforms_v2(detection, target_keys={"masks", "labels"})
    masks = {}
    for number, image in enumerate(detection.ids):
        records = [each for each in detection._load_target(image) if each["category_id"] in COCO_AS_VOC]
        if split == "train2017" and not sum(each["area"] for each in records) > 1000:
            continue
        target = wrapped[number][1] if records else {}
        kept = [place for place, label in enumerate(target.get("labels", ())) if int(label) in COCO_AS_VOC]
        ids = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
        covered = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
        for place in kept:
            inside = target["masks"][place].to(torch.int64)
            ids = torch.maximum(ids, inside * COCO_AS_VOC.index(int(target["labels"][place])))
            covered += inside
        ids[covered > 1] = 255
        masks[f"{image:012}"] = ids.to(torch.uint8).numpy()
    return masks


def test_the_list_of_categories_is_that_of_the_published_weights() -> None:
    renamed = {"airplane": "aeroplane", "dining table": "diningtable", "motorcycle": "motorbike"}
    renamed |= {"potted plant": "pottedplant", "couch": "sofa", "tv": "tvmonitor"}
    names = [coco_names()[category] for category in COCO_AS_VOC]
    assert tuple(renamed.get(name, name) for name in names) == VOC_CLASSES
    weights = torchvision.models.segmentation.DeepLabV3_ResNet50_Weights.DEFAULT
    assert tuple(weights.meta["categories"]) == VOC_CLASSES


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_masks_and_images_are_those_of_torchvision(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path, split, made_up(len(split), images=12))
    data = open_data(tmp_path)
    assert data.classes == VOC_CLASSES
    masks = expected(tmp_path, split)
    samples = data.samples(split.removesuffix("2017"))
    assert [sample.name for sample in samples] == sorted(masks)
    assert (len(samples) < 12) == (split == "train2017")
    for sample in samples:
        np.testing.assert_array_equal(data.read(sample).mask, masks[sample.name])
    assert {*np.unique(list(masks.values()))} >= {0, 255, COCO_AS_VOC.index(1), COCO_AS_VOC.index(16)}
    capsys.readouterr()  # pycocotools prints


def test_images_need_more_than_a_thousand_pixels(tmp_path: Path) -> None:
    content = made_up(0, images=3)
    content["annotations"] = [
        {"category_id": 1, "image_id": i, "segmentation": [square(1, 1, 20)], "area": area, "iscrowd": 0, "id": i + 1}
        for i, area in enumerate((1000, 1000.5, 900))
    ]
    content["annotations"].append({**content["annotations"][2], "category_id": 10, "area": 5000, "id": 9})
    write_coco(tmp_path, "train2017", content)
    write_coco(tmp_path, "val2017", content)
    data = open_data(tmp_path)
    assert [sample.name for sample in data.samples("train")] == ["000000000001"]
    assert len(data.samples("val")) == 3


def test_own_categories(tmp_path: Path) -> None:
    content = made_up(0, images=2)
    content["categories"] = [{"id": 7, "name": "cow"}, {"id": 3, "name": "barn"}]
    content["annotations"] = [
        {"category_id": 7, "image_id": 0, "segmentation": [square(10, 10, 20)], "area": 400, "iscrowd": 0, "id": 1},
        {"category_id": 3, "image_id": 0, "segmentation": [square(40, 10, 20)], "area": 400, "iscrowd": 0, "id": 2},
    ]
    write_coco(tmp_path, "train", content)
    data = open_data(tmp_path)
    assert data.classes == ("__background__", "barn", "cow")
    assert len(data.samples("train")) == 2
    mask = data.read(data.samples("train")[0]).mask
    assert (mask[11:29, 11:29] == 2).all()
    assert (mask[11:29, 41:59] == 1).all()
    assert (mask == 0).sum() == HEIGHT * WIDTH - 800
    assert check_data(data).ok


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content.pop("categories"),
            r"instances_train\.json: is not a COCO instances file .*\('categories' is missing\)",
        ),
        (lambda content: content["images"][0].pop("file_name"), r"'file_name' is missing"),
        (lambda content: content["annotations"][0].pop("segmentation"), r"'segmentation' is missing"),
        (lambda content: content.update(annotations=3), r"is not a COCO instances file"),
    ],
)
def test_malformed_annotations(change: Any, message: str, tmp_path: Path) -> None:
    content = made_up(0, images=1)
    content["annotations"] = [
        {"category_id": 1, "image_id": 0, "segmentation": [square(1, 1, 9)], "area": 2000, "id": 1}
    ]
    change(content)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text("{")
    with pytest.raises(DataError, match=re.escape("instances_train.json: is not a COCO instances file")):
        open_data(tmp_path)


def test_outlines_that_cannot_be_drawn(tmp_path: Path) -> None:
    content = made_up(0, images=1)
    content["annotations"] = [{"category_id": 1, "image_id": 0, "segmentation": [[1.0]], "area": 2000, "id": 1}]
    write_coco(tmp_path, "train", content)
    data = open_data(tmp_path)
    with pytest.raises(DataError, match=r"the outlines of 000000000000\.jpg can't be drawn"):
        data.read(data.samples("train")[0])
