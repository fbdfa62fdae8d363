"""Cityscapes: 19 classes of street scenes.

DATA/leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png
DATA/gtFine/{train,val,test}/CITY/*_gtFine_labelIds.png        or *_gtFine_labelTrainIds.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segnets.card import Colour
from segnets.data.dataset import DataSet, Sample
from segnets.data.description import Description
from segnets.data.folder import USUAL_SPLITS, described
from segnets.errors import DataError

_IMAGE, _IDS, _TRAIN_IDS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
# Name, value in labelIds, colour (labels.py of cityscapesScripts).
_CLASSES: tuple[tuple[str, int, Colour], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
_LAST_ID = 33


def is_cityscapes(folder: Path) -> bool:
    """Return whether a folder contains Cityscapes images."""
    return (folder / "leftImg8bit").is_dir()


def open_cityscapes(folder: Path, classes: Sequence[str] | None, ignore: Sequence[int] | None) -> DataSet:
    """Open Cityscapes with its 19 evaluation classes. All other classes are ignored.

    Args:
        folder: Folder that contains leftImg8bit and gtFine.
        classes: 19 names that replace Cityscapes' class names, or None.
        ignore: Additional mask values to ignore, or None.

    Returns:
        The data set. Its test split has no masks, because the published ones are empty.

    Raises:
        DataError: If there are no images or masks.
    """
    if not is_cityscapes(folder) or not (folder / "gtFine").is_dir():
        raise DataError(f"{folder}: expected the folders leftImg8bit and gtFine of Cityscapes. Unpack both archives.")
    by_train_id = not any(folder.glob(f"gtFine/*/*/*{_IDS}"))
    ids = () if by_train_id else tuple(value for _, value, _ in _CLASSES)
    void = () if by_train_id else tuple(value for value in range(_LAST_ID + 1) if value not in ids)
    description = Description(
        classes=tuple(name for name, _, _ in _CLASSES),
        palette=tuple(colour for _, _, colour in _CLASSES),
        ids=ids,
        ignore=void,
    ).overridden(classes, None if ignore is None else (*void, *ignore))
    splits = {
        split: _samples(folder, split, _TRAIN_IDS if by_train_id else _IDS)
        for split in USUAL_SPLITS
        if (folder / "leftImg8bit" / split).is_dir()
    }
    return described(folder, description, splits)


def _samples(folder: Path, split: str, suffix: str) -> tuple[Sample, ...]:
    images, masks = folder / "leftImg8bit" / split, folder / "gtFine" / split
    names = [path.relative_to(images).as_posix().removesuffix(_IMAGE) for path in images.glob(f"*/*{_IMAGE}")]
    return tuple(
        Sample(name, images / f"{name}{_IMAGE}", None if split == "test" else masks / f"{name}{suffix}")
        for name in sorted(names)
    )
