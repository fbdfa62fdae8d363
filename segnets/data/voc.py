"""PASCAL VOC 2012, with or without the additional masks of SBD, and folders of the same layout.

    DATA/JPEGImages/*.jpg
    DATA/SegmentationClass/*.png                  palette images, 255 is ignored
    DATA/SegmentationClassAug/*.png               with the additional masks, if there; then used for the training split
    DATA/ImageSets/Segmentation/{train,val}.txt   and trainaug.txt or train_aug.txt

DATA may also be the folder that holds VOCdevkit/VOC2012 or VOC2012. Without lists, all images with a mask form the
split "all". SBD as it is published (DATA/{img,cls,train_noval.txt}, MATLAB files) needs SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.catalog import VOC_CLASSES
from segnets.data.dataset import WHOLE, DataSet, Sample
from segnets.data.description import Description, read_description
from segnets.data.folder import described, read_lines
from segnets.errors import DataError
from segnets.images import ImageData, read_image
from segnets.palettes import voc_palette

_NESTED = ("", "VOCdevkit/VOC2012", "VOC2012")
_AUGMENTED = ("trainaug.txt", "train_aug.txt")
# SBD's own training split overlaps with VOC's validation split; this one does not.
_SBD_LISTS = {"train": ("train_noval.txt", "train.txt"), "val": ("val.txt",)}


def find_voc(folder: Path) -> Path | None:
    """Return the folder with JPEGImages, or None if there is none."""
    for nested in _NESTED:
        if (folder / nested / "JPEGImages").is_dir():
            return folder / nested
    return None


def is_sbd(folder: Path) -> bool:
    """Return whether a folder has the layout in which SBD is published."""
    return (folder / "img").is_dir() and (folder / "cls").is_dir()


def open_voc(folder: Path, classes: Sequence[str] | None, ignore: Sequence[int] | None) -> DataSet:
    """Open a data set in the layout of PASCAL VOC, or SBD.

    Args:
        folder: Folder of the data set.
        classes: Class names that replace VOC's 21, or None.
        ignore: Mask values to ignore, or None. 255 is always ignored.

    Returns:
        The data set. Its classes are VOC's, unless a `dataset.toml` lists others.

    Raises:
        DataError: If a folder or a list is missing.
    """
    root = find_voc(folder)
    own = read_description(folder)
    voc = Description(classes=VOC_CLASSES, palette=tuple(voc_palette(len(VOC_CLASSES))))
    description = (own if own.classes else voc).overridden(classes, ignore)
    if root is not None:
        return described(folder, description, _splits(root))
    if not is_sbd(folder):
        raise DataError(f"{folder}: has no JPEGImages, so it is not PASCAL VOC. Pass the folder VOC2012.")
    return described(folder, description, _sbd_splits(folder), reader=SbdReader())


def _splits(root: Path) -> dict[str, tuple[Sample, ...]]:
    lists, masks = root / "ImageSets" / "Segmentation", root / "SegmentationClass"
    augmented, more = root / "SegmentationClassAug", [name for name in _AUGMENTED if (lists / name).is_file()]
    splits = {}
    if augmented.is_dir() and more:
        splits["train"] = _listed(root, lists / more[0], augmented)
    for name in ("train", "val"):
        if name not in splits and (lists / f"{name}.txt").is_file():
            splits[name] = _listed(root, lists / f"{name}.txt", masks)
    if splits:
        return splits
    if not masks.is_dir():
        raise DataError(f"{root}: has no SegmentationClass. Unpack the masks too.")
    found = sorted(masks.glob("*.png"))
    return {WHOLE: tuple(_sample(root, path.stem, path) for path in found)}


def _listed(root: Path, path: Path, masks: Path) -> tuple[Sample, ...]:
    names = [Path(parts[-1]).stem for parts in read_lines(path) if parts]  # the augmented lists contain paths
    return tuple(_sample(root, name, masks / f"{name}.png") for name in sorted({*names}))


def _sample(root: Path, name: str, mask: Path) -> Sample:
    return Sample(name, root / "JPEGImages" / f"{name}.jpg", mask)


@dataclass(frozen=True)
class SbdReader:
    """Reader of SBD's masks in MATLAB files."""

    def image(self, sample: Sample) -> ImageData:
        """Return the pixels (H, W, 3), uint8, with notices about assumptions."""
        return read_image(sample.image)

    def mask(self, sample: Sample) -> npt.NDArray[np.integer]:
        """Return the mask's values (H, W), uint8.

        Raises:
            DataError: If SciPy is missing or the file can't be read.
        """
        try:
            from scipy.io import loadmat
        except ImportError:
            raise DataError("SBD needs SciPy, which is not installed: pip install 'segnets[regions]'.") from None
        try:
            values = np.asarray(loadmat(sample.mask)["GTcls"][0]["Segmentation"][0])
            if values.ndim != 2 or values.dtype != np.uint8:
                raise ValueError(f"{values.ndim} dimensions of {values.dtype}")
        except Exception as error:  # SciPy raises many exception types for damaged files
            raise DataError(f"{sample.mask}: can't be read as a mask of SBD ({error}). Unpack it again.") from None
        return values

    def stored_palette(self, _sample: Sample) -> Sequence[Colour]:
        """Return no colours."""
        return ()


def _sbd_splits(folder: Path) -> dict[str, tuple[Sample, ...]]:
    splits = {}
    for split, lists in _SBD_LISTS.items():
        path = next((folder / name for name in lists if (folder / name).is_file()), None)
        if path is not None:
            names = sorted({parts[0] for parts in read_lines(path) if parts})
            splits[split] = tuple(Sample(n, folder / "img" / f"{n}.jpg", folder / "cls" / f"{n}.mat") for n in names)
    if not splits:
        raise DataError(f"{folder}: has none of the lists train_noval.txt, train.txt and val.txt. Add one.")
    return splits
