"""COCO: masks drawn from object outlines. pycocotools is imported when first used (extra `coco`).

    DATA/annotations/instances_train2017.json     images in DATA/train2017
    DATA/annotations/instances_val2017.json       images in DATA/val2017

COCO's own annotations become the 21 classes of PASCAL VOC, by the rules of torchvision's reference for segmentation:
objects of other categories are background, pixels in two objects are ignored, and the training split leaves out images
whose objects of these classes have 1000 pixels or less in total. Annotations with other categories keep all of these,
and all images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.catalog import VOC_CLASSES
from segnets.data.dataset import MOST_CLASSES, VOID, DataSet, Sample
from segnets.data.description import Description
from segnets.data.folder import described
from segnets.errors import DataError
from segnets.images import ImageData, read_image
from segnets.palettes import voc_palette

BACKGROUND = "__background__"
# Category ids of COCO in the order of VOC's classes; 0 stands for the background (torchvision
# references/segmentation/coco_utils.py, CAT_LIST).
COCO_AS_VOC = (0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
# COCO's names where they differ from VOC's.
_RENAMED = {
    "airplane": "aeroplane",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor",
}
LEAST_AREA = 1000  # pixels; an image of the training split has more
_PREFIX, _YEAR = "instances_", "2017"


@dataclass(frozen=True)
class CocoImage:
    """Objects of one image.

    Attributes:
        height: Height of the image in pixels, from the annotations.
        width: Width of the image in pixels, from the annotations.
        objects: JSON text, a list of [class id, outline]. An outline is a list of polygons x1, y1, x2, y2, ..., or a
            run-length encoding. Text is a single Python object, so worker processes share its memory. Reference counts
            of many objects would force copies.
    """

    height: int
    width: int
    objects: bytes


@dataclass(frozen=True)
class CocoReader:
    """Reader of images that draws their masks.

    Attributes:
        images: Objects of each image, by image path.
    """

    images: Mapping[Path, CocoImage] = field(repr=False)

    def image(self, sample: Sample) -> ImageData:
        """Return the pixels (H, W, 3), uint8, with notices about assumptions."""
        return read_image(sample.image)

    def mask(self, sample: Sample) -> npt.NDArray[np.integer]:
        """Return the mask (H, W), uint8, drawn from the outlines.

        Raises:
            DataError: If an outline can't be drawn.
        """
        try:
            return draw_mask(self.images[sample.image])
        except DataError:
            raise
        except Exception as error:  # pycocotools raises many exception types for malformed outlines
            raise DataError(f"{sample.mask}: the outlines of {sample.image.name} can't be drawn ({error}).") from None

    def stored_palette(self, _sample: Sample) -> Sequence[Colour]:
        """Return no colours."""
        return ()


def draw_mask(image: CocoImage) -> npt.NDArray[np.uint8]:
    """Draw the mask of an image from its objects.

    Args:
        image: Size and objects of the image.

    Returns:
        Class ids (H, W), uint8: 0 outside all objects, 255 where objects overlap.

    Raises:
        DataError: If pycocotools is not installed.
    """
    try:
        from pycocotools import mask as coco_mask
    except ImportError:
        raise DataError("COCO needs pycocotools, which is not installed: pip install 'segnets[coco]'.") from None
    ids = np.zeros((image.height, image.width), dtype=np.uint8)
    objects = np.zeros((image.height, image.width), dtype=np.uint16)
    for class_id, outline in json.loads(image.objects):
        parts = coco_mask.decode(coco_mask.frPyObjects(outline, image.height, image.width))
        inside = parts.any(axis=2) if parts.ndim == 3 else parts != 0
        np.maximum(ids, np.where(inside, np.uint8(class_id), np.uint8(0)), out=ids)
        objects += inside
    ids[objects > 1] = VOID
    return ids


def is_coco(folder: Path) -> bool:
    """Return whether a folder has annotations in COCO's layout."""
    return any((folder / "annotations").glob(f"{_PREFIX}*.json"))


def open_coco(folder: Path, classes: Sequence[str] | None, ignore: Sequence[int] | None) -> DataSet:
    """Open a data set in COCO's layout. Reading the annotations of COCO itself takes a while.

    Args:
        folder: Folder that contains `annotations` and the image folders.
        classes: Names that replace the class names, one per class, or None.
        ignore: Mask values to ignore, or None.

    Returns:
        The data set.

    Raises:
        DataError: If there are no annotations, they are malformed, or the splits have different categories.
    """
    files = sorted((folder / "annotations").glob(f"{_PREFIX}*.json"))
    if not files:
        raise DataError(f"{folder}: has no annotations/{_PREFIX}*.json. Unpack COCO's annotations.")
    names: tuple[str, ...] | None = None
    splits: dict[str, tuple[Sample, ...]] = {}
    images: dict[Path, CocoImage] = {}
    for path in files:
        year = path.stem.removeprefix(_PREFIX)
        split = year.removesuffix(_YEAR)
        of_split, its_names = read_annotations(path, folder / year, large_only=split == "train")
        if names not in (None, its_names):
            raise DataError(
                f"{path}: its categories differ from those in {files[0].name}. Use the same categories in both files."
            )
        names = its_names
        splits[split] = tuple(Sample(image.stem, image, path) for image in sorted(of_split))
        images |= of_split
    palette = tuple(voc_palette(len(VOC_CLASSES))) if names == VOC_CLASSES else ()
    description = Description(classes=names or (), palette=palette).overridden(classes, ignore)
    ordered = {name: splits[name] for name in sorted(splits, key=lambda name: (name != "train", name))}
    return described(folder, description, ordered, reader=CocoReader(images))


def read_annotations(path: Path, folder: Path, *, large_only: bool) -> tuple[dict[Path, CocoImage], tuple[str, ...]]:
    """Read an annotations file.

    Args:
        path: Path of the JSON file.
        folder: Folder of the images.
        large_only: Whether to leave out images whose objects total 1000 pixels or less, for COCO's own categories.

    Returns:
        Objects of each image by image path, and the class names.

    Raises:
        DataError: If the file is malformed.
    """
    try:
        content = json.loads(path.read_bytes())
        class_of, names = _classes({int(each["id"]): str(each["name"]) for each in content["categories"]})
        objects: dict[int, list[Any]] = {}
        area: dict[int, float] = {}
        for each in content["annotations"]:
            class_id = class_of.get(each["category_id"])
            if class_id is not None:
                objects.setdefault(each["image_id"], []).append((class_id, each["segmentation"]))
                area[each["image_id"]] = area.get(each["image_id"], 0) + each.get("area", 0)
        large_only = large_only and names == VOC_CLASSES
        images: dict[Path, CocoImage] = {}
        for each in content["images"]:
            if not large_only or area.get(each["id"], 0) > LEAST_AREA:
                text = json.dumps(objects.get(each["id"], [])).encode()
                images[folder / each["file_name"]] = CocoImage(each["height"], each["width"], text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: is not a COCO instances file ({reason}). Unpack or export it again.") from None
    return images, names


def _classes(categories: dict[int, str]) -> tuple[dict[int, int], tuple[str, ...]]:
    """Return the class id of each category id, and the names of the classes."""
    if all(
        _RENAMED.get(categories.get(category, ""), categories.get(category)) == name
        for category, name in zip(COCO_AS_VOC[1:], VOC_CLASSES[1:], strict=True)
    ):
        return {category: class_id for class_id, category in enumerate(COCO_AS_VOC)}, VOC_CLASSES
    if len(categories) >= MOST_CLASSES:
        raise ValueError(f"{len(categories)} categories; at most {MOST_CLASSES - 1} are supported")
    ordered = sorted(categories)
    return {each: number for number, each in enumerate(ordered, 1)}, (
        BACKGROUND,
        *(categories[each] for each in ordered),
    )
