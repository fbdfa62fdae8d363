"""WebDataset shards: samples in tar archives, for data sets with too many files for a fast file system.

    DATA/train-000000.tar      members KEY.jpg and KEY.png; or KEY.jpg and KEY.mask.png, KEY.seg.png
    DATA/train-000001.tar
    DATA/val-000000.tar
    DATA/dataset.toml          classes, palette, ignore

The shards are indexed when they are opened, which reads the headers of the members. Samples are then read by
offset, so sample order and resuming work as for every other data set.

Shards of a set that outgrows the disk stay on an http(s) server, and dataset.toml lists them:

    [shards]
    train = "https://host/set/train-{000000..000099}.tar"
    val = ["https://host/set/val-000000.tar", "val-000001.tar"]     # paths are relative to DATA

Nothing is copied: range requests read the samples (`segnets.data.remote`), and an index next to a shard replaces the
headers (`segnets.data.shard_index`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.data.dataset import WHOLE, DataSet, Problem, Sample
from segnets.data.description import Description, is_address, read_description
from segnets.data.folder import SUFFIXES, USUAL_SPLITS, described
from segnets.data.masks import mask_values, opened_mask, palette_of
from segnets.data.remote import RemoteFile
from segnets.data.shard_index import Members, list_members, open_archives
from segnets.errors import DataError
from segnets.images import ImageData, read_image

_MASKS = ("mask.png", "seg.png", "png", "mask.tif", "seg.tif")
_SPLIT = re.compile(rf"({'|'.join(USUAL_SPLITS)})\b|({'|'.join(USUAL_SPLITS)})[-_]")
Archive = Path | RemoteFile


class Part(NamedTuple):
    """File of a sample in a shard.

    Attributes:
        suffix: Suffix that follows the name of the sample.
        offset: Position in the archive.
        size: Size in bytes.
    """

    suffix: str
    offset: int
    size: int


class ShardSample(Sample):
    """Sample in a shard. Its paths are created on access: for millions of samples, they would take gigabytes.

    Args:
        name: Name of the sample.
        archive: The shard.
        image_part: The image.
        mask_part: The mask, or None if there is none.
    """

    __slots__ = ("archive", "image_part", "mask_part")

    archive: Archive
    image_part: Part
    mask_part: Part | None

    def __init__(self, name: str, archive: Archive, image_part: Part, mask_part: Part | None) -> None:
        for key, value in zip(("name", *self.__slots__), (name, archive, image_part, mask_part), strict=True):
            object.__setattr__(self, key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardSample, (self.name, self.archive, self.image_part, self.mask_part)

    @property
    def image(self) -> Path:
        """Path of the shard followed by the name of the image."""
        return self._path(self.image_part)

    @property
    def mask(self) -> Path | None:
        """Path of the shard followed by the name of the mask, or None."""
        return None if self.mask_part is None else self._path(self.mask_part)

    def _path(self, part: Part) -> Path:
        return _path_of(self.archive) / f"{self.name}{part.suffix}"


def _path_of(archive: Archive) -> Path:
    return archive if isinstance(archive, Path) else archive.address


@dataclass(frozen=True)
class ShardReader:
    """Reader of samples in tar archives.

    Attributes:
        channels: Number of image channels.
        palette: One RGB colour per mask value, for colour-coded masks.
        by_colour: Whether gray and palette images are colour-coded masks too.
    """

    channels: int = 3
    palette: tuple[Colour, ...] = ()
    by_colour: bool = False

    def image(self, sample: Sample) -> ImageData:
        """Return the pixels (H, W, K), uint8, with notices about assumptions."""
        assert isinstance(sample, ShardSample)
        return read_image(_opened(sample, sample.image_part, sample.mask_part), self.channels)

    def mask(self, sample: Sample) -> npt.NDArray[np.integer]:
        """Return the mask's values (H, W), uint8 or uint16."""
        assert isinstance(sample, ShardSample)
        assert sample.mask_part is not None
        with opened_mask(_opened(sample, sample.mask_part), str(sample.mask)) as image:
            return mask_values(image, str(sample.mask), self.palette, by_colour=self.by_colour)

    def stored_palette(self, sample: Sample) -> Sequence[Colour]:
        """Return the palette stored in the mask file, or nothing if colours are looked up or there is none."""
        assert isinstance(sample, ShardSample)
        if self.by_colour or sample.mask_part is None:
            return ()
        with opened_mask(_opened(sample, sample.mask_part), str(sample.mask)) as image:
            return palette_of(image)


def _opened(sample: ShardSample, part: Part, next_part: Part | None = None) -> _Member:
    """Read a part of a sample. If the next one is named, one request may read both."""
    name = f"{sample.name}{part.suffix}"
    if isinstance(sample.archive, Path):
        content = _read(sample.archive, part.offset, part.size)
    else:
        content = sample.archive.member(name, *part[1:], None if next_part is None else next_part[1:])
    return _Member(content, str(_path_of(sample.archive) / name))


def _read(archive: Path, offset: int, size: int) -> bytes:
    """Read a part of a file."""
    try:
        with archive.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise DataError(f"{archive}: can't be read: {error.strerror}. Check that the shard still exists.") from None
    if len(content) < size:
        raise DataError(f"{archive}: is truncated. Copy the shard again.")
    return content


class _Member(io.BytesIO):
    """Contents of a member, with its name for messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def has_shards(folder: Path) -> bool:
    """Return whether a folder or its split folders contain tar archives."""
    return any(True for _ in _found(folder))


def open_shards(
    folder: Path,
    classes: Sequence[str] | None,
    ignore: Sequence[int] | None,
    progress: Callable[[int, int], None] | None = None,
) -> DataSet:
    """Open a data set in WebDataset shards.

    Args:
        folder: Folder of the shards, or of one subfolder of shards per split, or of a `dataset.toml` that lists them.
        classes: Class names that replace those in `dataset.toml`, or None.
        ignore: Ignored mask values that replace those in `dataset.toml`, or None.
        progress: Callback (done, total) that receives numbers of shards on servers whose index was read.

    Returns:
        The data set. Shards whose names do not begin with a split form the split "all".

    Raises:
        DataError: If there are no shards, or one can't be read.
    """
    description = read_description(folder).overridden(classes, ignore)
    archives = _listed(folder, description, progress) if description.shards else _found(folder)
    problems: list[Problem] = []
    splits: dict[str, dict[str, Sample]] = {}
    for split, archive, members in archives:
        samples = splits.setdefault(split, {})
        path = _path_of(archive)
        for sample in _paired(archive, list_members(path) if members is None else members, problems):
            if sample.name in samples:
                what, fix = f"has the key {sample.name!r} again", "Give each sample its own key."
                problems.append(Problem("same name", path, what, fix))
            else:
                samples[sample.name] = sample
    if not splits:
        raise DataError(f"{folder}: has no shards (*.tar).")
    order = sorted(splits, key=lambda name: ((*USUAL_SPLITS, name).index(name), name))
    data = described(
        folder,
        description,
        {split: tuple(splits[split][name] for name in sorted(splits[split])) for split in order},
        problems,
        reader=ShardReader(description.channels, description.palette, description.masks == "colours"),
    )
    return replace(data, remote=any(map(is_address, itertools.chain(*description.shards.values()))))


def _found(folder: Path) -> Iterator[tuple[str, Archive, Members | None]]:
    """Yield the split and path of each shard in a folder."""
    for pattern in ("*.tar", *(f"{split}/*.tar" for split in USUAL_SPLITS)):
        for path in sorted(folder.glob(pattern)):
            yield _split_of(path, folder), path, None


def _listed(
    folder: Path, description: Description, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, Archive, Members | None]]:
    """Yield the split and path of each shard that `dataset.toml` lists. Open those on servers."""
    listed = [(split, text) for split, texts in description.shards.items() for text in texts]
    with contextlib.closing(open_archives([text for _, text in listed if is_address(text)], progress)) as opened:
        for split, text in listed:
            yield split, *(next(opened) if is_address(text) else (folder / text, None))


def _split_of(archive: Path, folder: Path) -> str:
    if archive.parent != folder:
        return archive.parent.name
    found = _SPLIT.match(archive.name)
    return WHOLE if found is None else found[1] or found[2]


def _paired(archive: Archive, members: Members, problems: list[Problem]) -> list[ShardSample]:
    """Return the samples of a shard."""
    shard, keys = _path_of(archive), dict[str, dict[str, Part]]()
    for name, offset, size in members:
        path = name.lstrip("/")
        stem, dot, kind = path[path.rfind("/") + 1 :].partition(".")
        if not stem:  # a hidden file
            continue
        suffix = sys.intern(dot + kind)
        key = path.removesuffix(suffix) if suffix else path
        parts = keys.setdefault(key, {})
        if kind.lower() in parts:
            problems.append(Problem("same name", shard, f"has {path!r} again", "Give each file its own name."))
        parts[kind.lower()] = Part(suffix, offset, size)
    samples = []
    for key, kinds in keys.items():
        mask = next((kind for kind in _MASKS if kind in kinds), None)
        image = next((kind for kind in kinds if f".{kind}" in SUFFIXES and kind != mask), None)
        if image is None:
            what = f"has no image for the key {key!r}"
            problems.append(Problem("missing image", shard, what, f"Add {key}.jpg, or remove the key."))
            continue
        if mask is None:
            what = f"has no mask for the key {key!r}"
            problems.append(Problem("missing mask", shard, what, f"Add {key}.png, or remove the key."))
        samples.append(ShardSample(key, archive, kinds[image], None if mask is None else kinds[mask]))
    return samples
