"""Data sets of images with masks, independent of the file format.

Shapes: H W image size, K image channels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from segnets.card import Colour, is_class_name, is_colour
from segnets.errors import DataError, ImageError
from segnets.images import ImageData
from segnets.palettes import default_palette

WHOLE = "all"  # the split of data without splits
HOW_TO_SPLIT = (
    "Divide the images into train and val, or use all of them: segnets train --set train_split=all, segnets evaluate "
    "--split all."
)
VOID = 255  # id of ignored pixels
MOST_CLASSES = 255
MOST_CHANNELS = 16
_VALUES = 1 << 16
UNKNOWN = -1  # id in `DataSet.table` of a value without a class


@dataclass(frozen=True, slots=True)
class Sample:
    """Image and mask files of one sample, not read yet.

    Attributes:
        name: Name that is unique in its split: the path of the image below its folder, without suffix.
        image: Path of the image file. For an image in an archive, the path of the archive followed by its name there.
        mask: Path of the file that holds the mask, or None if there is none.
    """

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True, eq=False)
class Pair:
    """Pixels of an image and its mask.

    Attributes:
        image: Pixels of shape (H, W, K), uint8; RGB for three channels.
        mask: Class ids of shape (H, W), uint8: 0..C-1, and 255 for pixels that are ignored. If the data set has planes,
            planes of 0 and 1 of shape (C, H, W), with 255 for ignored pixels.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Problem:
    """Problem with a file of a data set.

    Attributes:
        kind: Short name of the kind of problem, the same for all files that have it.
        path: Path of the file.
        what: Description of the problem, without the file name.
        fix: What to do, as a sentence, or "" if `what` already includes it.
    """

    kind: str
    path: Path
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. {self.fix}" if self.fix else f"{self.path}: {self.what}"


class Reader(Protocol):
    """Reader of samples in one format. It must be usable from several threads and processes."""

    def image(self, sample: Sample) -> ImageData:
        """Return the pixels (H, W, K), uint8, with notices about assumptions.

        Raises:
            DataError: If the sample can't be read.
            ImageError: If its image can't be read.
        """

    def mask(self, sample: Sample) -> npt.NDArray[np.integer]:
        """Return the values (H, W) or (C, H, W), uint8 or uint16, before `ids` and `ignore`.

        Raises:
            DataError: If the mask can't be read.
        """

    def stored_palette(self, sample: Sample) -> Sequence[Colour]:
        """Return the palette stored in a mask file, or nothing.

        Raises:
            DataError: If the file can't be read.
        """


@dataclass(frozen=True)
class DataSet:
    """Splits of images with masks, and the classes of the masks.

    Attributes:
        path: Folder or file of the data set.
        classes: One name per class id, or empty if the data set has no class names. Ids are then used unchanged.
        palette: One RGB colour per class id, or empty if the data set has no palette; see `colours`.
        ignore: Mask values that become 255, which is ignored. 255 itself is ignored unless it is one of `ids`.
        splits: Samples of each split ("train", "val", "test", ...), sorted by name.
        reader: Reader of the samples.
        ids: Mask value of each class, or empty for 0, 1, 2, ...
        channels: Number of image channels, 1..16.
        planes: Whether masks have one plane of 0 and 1 per class, so that classes may overlap.
        problems: Problems with the file list: images without a mask, masks without an image.
        licence: Licence of the data, or "" if unknown.
        remote: Whether samples are read from a server, so that checks don't read them all.

    Raises:
        DataError: If the classes, colours or ids contradict each other.
    """

    path: Path
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore: tuple[int, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    reader: Reader
    ids: tuple[int, ...] = ()
    channels: int = 3
    planes: bool = False
    problems: tuple[Problem, ...] = field(default=(), compare=False)
    licence: str = ""
    remote: bool = False

    def __post_init__(self) -> None:
        _check_classes(self)
        _check_numbers(self)

    @property
    def colours(self) -> tuple[Colour, ...]:
        """One RGB colour per class: the palette, or if it is empty, distinct default colours chosen by class name."""
        return self.palette or default_palette(self.classes)

    def samples(self, split: str) -> tuple[Sample, ...]:
        """Return the samples of a split.

        Raises:
            DataError: If there is no such split, or it is empty.
        """
        if not self.splits.get(split):
            there = ", ".join(name for name, samples in self.splits.items() if samples) or "none"
            what = "is empty" if split in self.splits else "does not exist"
            fix = f" {HOW_TO_SPLIT}" if self.splits.keys() == {WHOLE} else ""
            raise DataError(f"{self.path}: the split {split!r} {what}. Splits with images: {there}.{fix}")
        return self.splits[split]

    def read(self, sample: Sample) -> Pair:
        """Read an image and its mask.

        Args:
            sample: Sample of any split.

        Returns:
            Pixels and class ids of the same height and width.

        Raises:
            DataError: If a file can't be read or is missing, the sizes differ, or the mask has a value without a class.
        """
        image, values = self.read_image(sample).pixels, self.read_values(sample)
        check_sizes(sample, image, values)
        return Pair(image, self.ids_of(values, sample))

    def read_image(self, sample: Sample) -> ImageData:
        """Read the image of a sample, (H, W, K), uint8, without its mask.

        Raises:
            DataError: If the image can't be read.
        """
        try:
            return self.reader.image(sample)
        except ImageError as error:
            text, limit, _ = str(error).partition(" If you trust the file")  # it suggests an option of other commands
            raise DataError(f"{text} Save it smaller, or remove the sample." if limit else text) from None

    def read_values(self, sample: Sample) -> npt.NDArray[np.integer]:
        """Read the values of a mask as stored, before they become class ids.

        Returns:
            Values (H, W), or planes (C, H, W), uint8 or uint16.

        Raises:
            DataError: If the sample has no mask, or the mask can't be read.
        """
        if sample.mask is None:
            raise DataError(f"{sample.image}: has no mask. Add one with the same name, or remove the image.")
        return self.reader.mask(sample)

    def ids_of(self, values: npt.NDArray[np.integer], sample: Sample) -> npt.NDArray[np.uint8]:
        """Convert the values of a mask to class ids.

        Args:
            values: Values of shape (H, W), or planes of shape (C, H, W), 0..65535.
            sample: Sample to name in messages.

        Returns:
            Ids of the same shape, uint8: 0..C-1, or 0 and 1 for planes, with 255 for ignored pixels.

        Raises:
            DataError: If a value has no class and is not ignored.
        """
        ids: npt.NDArray[np.int16] = self.table[values]
        unknown = ids == UNKNOWN
        if unknown.any():
            found = ", ".join(map(str, np.unique(values[unknown])[:5]))
            raise DataError(
                f"{sample.mask}: value {found} is neither a class id ({self.describe_ids()}) nor ignored. Correct the "
                "mask, or add the value to ignore (--ignore). `segnets check-data` finds all such masks."
            )
        return ids.astype(np.uint8)

    @cached_property
    def table(self) -> npt.NDArray[np.int16]:
        """Class id of each mask value, (65536,): 0..C-1, 255 for ignored values, -1 for values without a class.

        For planes, the ids are 0 and 1.
        """
        table = np.full(_VALUES, UNKNOWN, dtype=np.int16)
        table[VOID] = VOID
        known = range(2) if self.planes else self.ids or range(len(self.classes) or MOST_CLASSES)
        for class_id, value in enumerate(known):
            table[value] = class_id
        table[list(self.ignore)] = VOID
        return table

    def describe_ids(self) -> str:
        """Describe the mask values that stand for classes, for messages."""
        if self.planes:
            return "0 and 1"
        if self.ids:
            return ", ".join(map(str, self.ids))
        return f"0..{(len(self.classes) or MOST_CLASSES) - 1}"

    def with_classes(self, classes: tuple[str, ...], palette: tuple[Colour, ...] = ()) -> DataSet:
        """Return a copy with different class names, for example a model's if the data set has none.

        Args:
            classes: One name per class id.
            palette: One RGB colour per class id, or empty to keep the current palette.

        Raises:
            DataError: If the number of names contradicts the ids or colours of the data set.
        """
        return replace(self, classes=tuple(classes), palette=tuple(palette) or self.palette)


def check_sizes(sample: Sample, image: npt.NDArray[np.uint8], values: npt.NDArray[np.integer]) -> None:
    """Check that an image and its mask have the same height and width.

    Raises:
        DataError: If the sizes differ.
    """
    (height, width), (rows, columns) = image.shape[:2], values.shape[-2:]
    if (height, width) == (rows, columns):
        return
    turned = (height, width) == (columns, rows)
    advice = (
        "The image is rotated by its EXIF orientation: rotate the mask in the same way, or store the image upright."
        if turned
        else "Resize the mask to the size of the image, with nearest-neighbour interpolation."
    )
    raise DataError(f"{sample.mask}: has {columns}x{rows} pixels, but its image has {width}x{height}. {advice}")


def _check_classes(data: DataSet) -> None:
    for name in data.classes:
        if not is_class_name(name) or not name:
            raise DataError(f"{data.path}: classes: {name!r} is not a printable name.")
    repeated = {name for name in data.classes if data.classes.count(name) > 1}
    if repeated:
        raise DataError(f"{data.path}: classes: {sorted(repeated)[0]!r} occurs twice. Give each class its own name.")
    if len(data.classes) > MOST_CLASSES:
        raise DataError(
            f"{data.path}: has {len(data.classes)} classes; at most {MOST_CLASSES} are supported, as 255 is ignored. "
            "Merge some, or leave out rare ones (ignore)."
        )
    for colour in data.palette:
        if not is_colour(colour):
            raise DataError(f"{data.path}: palette: {colour!r} is not a colour. Give [red, green, blue], each 0..255.")
    if data.classes and data.palette and len(data.palette) != len(data.classes):
        raise DataError(
            f"{data.path}: palette: {len(data.palette)} colours for {len(data.classes)} classes. Give one per class."
        )


def _check_numbers(data: DataSet) -> None:
    for what, values in (("ids", data.ids), ("ignore", data.ignore)):
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _VALUES:
                raise DataError(f"{data.path}: {what}: {value!r} is not a mask value. Expected whole numbers 0..65535.")
    if len({*data.ids}) < len(data.ids):
        raise DataError(f"{data.path}: ids: a value occurs twice. Give each class its own value.")
    if data.ids and len(data.ids) != len(data.classes):
        raise DataError(
            f"{data.path}: ids: {len(data.ids)} values for {len(data.classes)} classes. Give one per class."
        )
    channels = data.channels
    if not isinstance(channels, int) or isinstance(channels, bool) or not 1 <= channels <= MOST_CHANNELS:
        raise DataError(f"{data.path}: channels: {channels!r}. Expected a whole number 1..{MOST_CHANNELS}.")
