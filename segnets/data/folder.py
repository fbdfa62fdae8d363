"""Data sets in folders: images and masks with matching names, with one folder or one file list per split.

    DATA/dataset.toml                 classes, palette, ignore, ... (see `segnets.data.description`)
    DATA/train/images/a.jpg           a folder per split, any names
    DATA/train/masks/a.png

    DATA/images/a.jpg                 or all images together,
    DATA/masks/a.png
    DATA/train.txt                    and a list per split: a name per line (a), or the paths of an image and its mask

Images may be in subfolders of `images`, with masks in the same subfolders of `masks`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.data import bands
from segnets.data.dataset import WHOLE, DataSet, Problem, Reader, Sample
from segnets.data.description import Description, read_description
from segnets.data.masks import file_palette, read_mask
from segnets.errors import DataError
from segnets.images import ImageData, read_image

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".jp2"))
USUAL_SPLITS = ("train", "val", "test")
_WITHOUT_BANDS = (1, 3)  # numbers of channels that every image can be converted to


@dataclass(frozen=True)
class FileReader:
    """Reader of image and mask files.

    Attributes:
        channels: Number of image channels.
        palette: One RGB colour per mask value, for colour-coded masks.
        by_colour: Whether gray and palette images are colour-coded masks too.
        planes: Number of planes of a mask, or 0 for masks of ids or colours.
    """

    channels: int = 3
    palette: tuple[Colour, ...] = ()
    by_colour: bool = False
    planes: int = 0

    def image(self, sample: Sample) -> ImageData:
        """Return the pixels (H, W, K), uint8, with notices about assumptions."""
        if self.channels not in _WITHOUT_BANDS and sample.image.suffix.lower() in bands.SUFFIXES:
            return bands.read_bands(sample.image, self.channels)
        return read_image(sample.image, self.channels)

    def mask(self, sample: Sample) -> npt.NDArray[np.integer]:
        """Return the mask's values (H, W), uint8 or uint16, or its planes (C, H, W), uint8."""
        assert sample.mask is not None
        if self.planes:
            return bands.read_planes(sample.mask, self.planes)
        return read_mask(sample.mask, self.palette, by_colour=self.by_colour)

    def stored_palette(self, sample: Sample) -> Sequence[Colour]:
        """Return the palette stored in the mask file, or nothing if colours are looked up or there is none."""
        return () if self.by_colour or self.planes or sample.mask is None else file_palette(sample.mask)


def open_folder(folder: Path, classes: Sequence[str] | None, ignore: Sequence[int] | None) -> DataSet:
    """Open a data set in a folder.

    Args:
        folder: Folder of the data set.
        classes: Class names that replace those in `dataset.toml`, or None.
        ignore: Ignored mask values that replace those in `dataset.toml`, or None.

    Returns:
        The data set. A folder without splits has one split, "all".

    Raises:
        DataError: If the layout is not recognised, or a list or `dataset.toml` is malformed.
    """
    description = read_description(folder).overridden(classes, ignore)
    problems: list[Problem] = []
    return described(folder, description, _splits(folder, problems), problems)


def described(
    path: Path,
    description: Description,
    splits: dict[str, tuple[Sample, ...]],
    problems: Sequence[Problem] = (),
    *,
    reader: Reader | None = None,
) -> DataSet:
    """Build a data set from its description and samples.

    Args:
        path: Path of the data set.
        description: Classes and mask encoding.
        splits: Samples of each split.
        problems: Problems with the file list.
        reader: Reader of the samples. None reads files.

    Raises:
        DataError: If the description contradicts itself.
    """
    if reader is None:
        reader = FileReader(
            description.channels,
            description.palette,
            description.masks == "colours",
            len(description.classes) if description.masks == "planes" else 0,
        )
    return DataSet(
        path=path,
        classes=description.classes,
        palette=description.class_palette,
        ignore=description.ignore,
        splits=splits,
        reader=reader,
        ids=description.ids,
        channels=description.channels,
        planes=description.masks == "planes",
        problems=tuple(problems),
        licence=description.licence,
    )


def _splits(folder: Path, problems: list[Problem]) -> dict[str, tuple[Sample, ...]]:
    names = [path.name for path in _entries(folder) if (path / "images").is_dir() or (path / "masks").is_dir()]
    lists = [path for path in _entries(folder) if path.suffix == ".txt" and path.stem in USUAL_SPLITS]
    if names:
        ordered = [name for name in USUAL_SPLITS if name in names]
        ordered += [name for name in names if name not in USUAL_SPLITS]
        return {name: _paired(folder / name, problems, may_lack_masks=name == "test") for name in ordered}
    if lists:
        by_name = {path.stem: path for path in lists}
        return {name: _listed(folder, by_name[name], problems) for name in USUAL_SPLITS if name in by_name}
    if (folder / "images").is_dir():
        return {WHOLE: _paired(folder, problems, may_lack_masks=False)}
    raise DataError(
        f"{folder}: is not a data set. Expected the folders train/images and train/masks (also val and test), or "
        "images and masks with the lists train.txt and val.txt."
    )


def _paired(folder: Path, problems: list[Problem], *, may_lack_masks: bool) -> tuple[Sample, ...]:
    """Pair the images of a split with the masks that have the same names."""
    images = _by_name(folder / "images", problems)
    masks = _by_name(folder / "masks", problems)
    samples = tuple(Sample(name, images[name], masks.get(name)) for name in sorted(images))
    if images and masks and not images.keys() & masks.keys():
        image, mask = images[min(images)], masks[min(masks)]
        what = f"no mask has the name of an image: the first are {mask.name} and {image.name}"
        fix = f"Name each mask like its image: {image.stem}{mask.suffix}."
        problems.append(Problem("missing mask", folder, what, fix))
        return samples
    if masks or not may_lack_masks:
        lonely = [sample.image for sample in samples if sample.mask is None]
        for path in lonely:
            problems.append(_without_mask(path, folder))
    for name in sorted(masks.keys() - images.keys()):
        what = f"has no image with the same name in {folder / 'images'}"
        problems.append(Problem("missing image", masks[name], what, "Add the image, or remove the mask."))
    return samples


def _without_mask(image: Path, folder: Path) -> Problem:
    what = f"has no mask with the same name in {folder / 'masks'}"
    return Problem("missing mask", image, what, "Add the mask, or remove the image.")


def _by_name(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """Return the image files below a folder, by relative path without suffix."""
    found: dict[str, Path] = {}
    for path in _walk(folder) if folder.is_dir() else ():
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            what = f"has the same name as {found[name].name}"
            problems.append(Problem("same name", path, what, "Remove or rename one of the two."))
            continue
        found[name] = path
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for path in _entries(folder):
        if path.is_dir():
            if not (path.is_symlink() and folder.resolve().is_relative_to(path.resolve())):  # a loop
                yield from _walk(path)
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(Path(each.path) for each in os.scandir(folder) if not each.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: can't be read: {error.strerror}. Check the permissions of the folder.") from None


def _listed(folder: Path, path: Path, problems: list[Problem]) -> tuple[Sample, ...]:
    """Read the samples of a list: one name per line, or the paths of an image and its mask."""
    images, masks = _by_name(folder / "images", problems), _by_name(folder / "masks", problems)
    samples: dict[str, Sample] = {}
    for number, parts in enumerate(read_lines(path), 1):
        if not parts:
            continue
        if _sample_of_name(name := " ".join(parts), images, masks) is not None:
            parts = [name]  # an image whose name has spaces
        if len(parts) > 2:
            raise DataError(f"{path}, line {number}: expected a name, or the paths of an image and its mask.")
        sample = _sample_of_paths(folder, *parts) if len(parts) == 2 else _sample_of_name(parts[0], images, masks)
        if sample is None:
            what = f"line {number} names {parts[0]}, which is not in {folder / 'images'}"
            problems.append(Problem("missing image", path, what, "Add the image, or correct the list."))
        elif sample.name in samples:
            problems.append(Problem("same name", path, f"line {number} names {parts[0]} again", "Remove the line."))
        else:
            samples[sample.name] = sample
            if sample.mask is None:
                problems.append(_without_mask(sample.image, folder))
    return tuple(samples[name] for name in sorted(samples))


def read_lines(path: Path) -> list[list[str]]:
    """Split each line of a sample list into words.

    Raises:
        DataError: If the file can't be read as UTF-8 text.
    """
    try:
        return [line.split() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read: {error}. Save the list as UTF-8 text.") from None


def _sample_of_name(name: str, images: dict[str, Path], masks: dict[str, Path]) -> Sample | None:
    key = name if name in images else Path(name).with_suffix("").as_posix()
    return Sample(key, images[key], masks.get(key)) if key in images else None


def _sample_of_paths(folder: Path, image: str, mask: str) -> Sample:
    path = _below(folder, image)
    named = path.relative_to(folder) if path.is_relative_to(folder) else Path(image.lstrip("/"))
    return Sample(named.with_suffix("").as_posix(), path, _below(folder, mask))


def _below(folder: Path, path: str) -> Path:
    """Resolve a path in a list.

    Published lists contain paths from another machine, such as /SegNet/CamVid/train/a.png. If the file does not exist,
    the longest trailing part of the path that exists below the folder is used.
    """
    whole = folder / path
    parts = Path(path).parts
    if whole.exists() or parts[0] != "/":
        return whole
    ends = (folder.joinpath(*parts[start:]) for start in range(1, len(parts)))
    return next((end for end in ends if end.exists()), whole)
