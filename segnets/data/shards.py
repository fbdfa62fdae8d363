"""WebDataset shards: samples in tar archives, for data sets with too many files for a fast file system.

    DATA/train-000000.tar      members KEY.jpg and KEY.png; or KEY.jpg and KEY.mask.png, KEY.seg.png
    DATA/train-000001.tar
    DATA/val-000000.tar
    DATA/dataset.toml          classes, palette, ignore

The shards are indexed when they are opened, which reads the headers of the members. Samples are then read by
offset, so sample order and resuming work as for every other data set. Shards may be on a network file system; URLs are
not supported.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.data.dataset import DataSet, Problem, Sample
from segnets.data.description import read_description
from segnets.data.folder import SUFFIXES, USUAL_SPLITS, WHOLE, described
from segnets.data.masks import mask_values, opened_mask, palette_of
from segnets.errors import DataError
from segnets.images import ImageData, read_image

_MASKS = ("mask.png", "seg.png", "png", "mask.tif", "seg.tif")
_SPLIT = re.compile(rf"({'|'.join(USUAL_SPLITS)})\b|({'|'.join(USUAL_SPLITS)})[-_]")
Place = tuple[Path, int, int]  # archive, offset, size


@dataclass(frozen=True)
class ShardReader:
    """Reader of members of tar archives.

    Attributes:
        places: Position of each member, by archive path followed by member name.
        channels: Number of image channels.
        palette: One RGB colour per mask value, for colour-coded masks.
        by_colour: Whether gray and palette images are colour-coded masks too.
    """

    places: Mapping[Path, Place] = field(repr=False)
    channels: int = 3
    palette: tuple[Colour, ...] = ()
    by_colour: bool = False

    def image(self, sample: Sample) -> ImageData:
        """Return the pixels (H, W, K), uint8, with notices about assumptions."""
        return read_image(self._opened(sample.image), self.channels)

    def mask(self, sample: Sample) -> npt.NDArray[np.integer]:
        """Return the mask's values (H, W), uint8 or uint16."""
        assert sample.mask is not None
        with opened_mask(self._opened(sample.mask), str(sample.mask)) as image:
            return mask_values(image, str(sample.mask), self.palette, by_colour=self.by_colour)

    def stored_palette(self, sample: Sample) -> Sequence[Colour]:
        """Return the palette stored in the mask file, or nothing if colours are looked up or there is none."""
        if self.by_colour or sample.mask is None:
            return ()
        with opened_mask(self._opened(sample.mask), str(sample.mask)) as image:
            return palette_of(image)

    def _opened(self, member: Path) -> io.BytesIO:
        archive, offset, size = self.places[member]
        try:
            with archive.open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise DataError(
                f"{archive}: can't be read: {error.strerror}. Check that the shard is still there."
            ) from None
        if len(content) < size:
            raise DataError(f"{archive}: is truncated. Copy the shard again.")
        return _Member(content, str(member))


class _Member(io.BytesIO):
    """Contents of a member, with its name for messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def has_shards(folder: Path) -> bool:
    """Return whether a folder or its split folders contain tar archives."""
    return bool(_archives(folder))


def open_shards(folder: Path, classes: Sequence[str] | None, ignore: Sequence[int] | None) -> DataSet:
    """Open a data set in WebDataset shards.

    Args:
        folder: Folder of the shards, or of one subfolder of shards per split.
        classes: Class names that replace those in `dataset.toml`, or None.
        ignore: Ignored mask values that replace those in `dataset.toml`, or None.

    Returns:
        The data set. Shards whose names do not begin with a split form the split "all".

    Raises:
        DataError: If there are no shards, or one can't be read.
    """
    description = read_description(folder).overridden(classes, ignore)
    archives = _archives(folder)
    if not archives:
        raise DataError(f"{folder}: has no shards (*.tar).")
    places: dict[Path, Place] = {}
    problems: list[Problem] = []
    splits: dict[str, dict[str, Sample]] = {}
    for archive in archives:
        samples = splits.setdefault(_split_of(archive, folder), {})
        for sample in _indexed(archive, places, problems):
            if sample.name in samples:
                what, fix = f"has the key {sample.name!r} again", "Give each sample its own key."
                problems.append(Problem("same name", archive, what, fix))
            else:
                samples[sample.name] = sample
    order = sorted(splits, key=lambda name: ((*USUAL_SPLITS, name).index(name), name))
    return described(
        folder,
        description,
        {split: tuple(splits[split][name] for name in sorted(splits[split])) for split in order},
        problems,
        reader=ShardReader(places, description.channels, description.palette, description.masks == "colours"),
    )


def _archives(folder: Path) -> list[Path]:
    return [
        *sorted(folder.glob("*.tar")),
        *(path for split in USUAL_SPLITS for path in sorted(folder.glob(f"{split}/*.tar"))),
    ]


def _split_of(archive: Path, folder: Path) -> str:
    if archive.parent != folder:
        return archive.parent.name
    found = _SPLIT.match(archive.name)
    return WHOLE if found is None else found[1] or found[2]


def _indexed(archive: Path, places: dict[Path, Place], problems: list[Problem]) -> list[Sample]:
    """Return the samples of an archive, and record the positions of its members in `places`."""
    members: dict[str, dict[str, Path]] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, file = member.name.rpartition("/")
                key, _, kind = file.partition(".")
                path = archive / member.name
                members.setdefault(f"{folder}/{key}".lstrip("/"), {})[kind.lower()] = path
                places[path] = (archive, member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{archive}: can't be read as a tar archive ({error}). Copy it again; compressed shards must be unpacked."
        ) from None
    samples = []
    for key, kinds in members.items():
        mask = next((kinds[kind] for kind in _MASKS if kind in kinds), None)
        images = [path for kind, path in kinds.items() if f".{kind}" in SUFFIXES and path != mask]
        if not images:
            what = f"has no image for the key {key!r}"
            problems.append(Problem("missing image", archive, what, f"Add {key}.jpg, or remove the key."))
            continue
        if mask is None:
            what = f"has no mask for the key {key!r}"
            problems.append(Problem("missing mask", archive, what, f"Add {key}.png, or remove the key."))
        samples.append(Sample(key, images[0], mask))
    return samples
