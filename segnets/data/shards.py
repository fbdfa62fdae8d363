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

Nothing is copied: range requests read the samples (`segnets.data.remote`), and an index beside a shard replaces the
headers (`segnets.data.shard_index`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.data.dataset import DataSet, Problem, Sample
from segnets.data.description import Description, is_address, read_description
from segnets.data.folder import SUFFIXES, USUAL_SPLITS, WHOLE, described
from segnets.data.masks import mask_values, opened_mask, palette_of
from segnets.data.remote import RemoteFile
from segnets.data.shard_index import Members, list_members, open_archives
from segnets.errors import DataError
from segnets.images import ImageData, read_image

_MASKS = ("mask.png", "seg.png", "png", "mask.tif", "seg.tif")
_SPLIT = re.compile(rf"({'|'.join(USUAL_SPLITS)})\b|({'|'.join(USUAL_SPLITS)})[-_]")
Archive = Path | RemoteFile
Place = tuple[Archive, int, int]  # archive, offset, size


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
        return read_image(self._opened(sample.image, sample.mask), self.channels)

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

    def _opened(self, member: Path, next_member: Path | None = None) -> io.BytesIO:
        archive, offset, size = self.places[member]
        if isinstance(archive, Path):
            return _Member(_read(archive, offset, size), str(member))
        neighbour = None if next_member is None else self.places[next_member][1:]
        name = "/".join(member.relative_to(archive.address).parts)
        return _Member(archive.member(name, offset, size, neighbour), str(member))


def _read(archive: Path, offset: int, size: int) -> bytes:
    """Read a part of a file."""
    try:
        with archive.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise DataError(f"{archive}: can't be read: {error.strerror}. Check that the shard is still there.") from None
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
    return bool(_found(folder))


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
    if not archives:
        raise DataError(f"{folder}: has no shards (*.tar).")
    places: dict[Path, Place] = {}
    problems: list[Problem] = []
    splits: dict[str, dict[str, Sample]] = {}
    for split, archive, members in archives:
        samples = splits.setdefault(split, {})
        path = archive if isinstance(archive, Path) else archive.address
        for sample in _paired(path, archive, list_members(path) if members is None else members, places, problems):
            if sample.name in samples:
                what, fix = f"has the key {sample.name!r} again", "Give each sample its own key."
                problems.append(Problem("same name", path, what, fix))
            else:
                samples[sample.name] = sample
    order = sorted(splits, key=lambda name: ((*USUAL_SPLITS, name).index(name), name))
    data = described(
        folder,
        description,
        {split: tuple(splits[split][name] for name in sorted(splits[split])) for split in order},
        problems,
        reader=ShardReader(places, description.channels, description.palette, description.masks == "colours"),
    )
    return replace(data, remote=any(isinstance(archive, RemoteFile) for _, archive, _ in archives))


def _found(folder: Path) -> list[tuple[str, Archive, Members | None]]:
    """Return the split and path of each shard in a folder."""
    paths = [
        *sorted(folder.glob("*.tar")),
        *(path for split in USUAL_SPLITS for path in sorted(folder.glob(f"{split}/*.tar"))),
    ]
    return [(_split_of(path, folder), path, None) for path in paths]


def _listed(
    folder: Path, description: Description, progress: Callable[[int, int], None] | None
) -> list[tuple[str, Archive, Members | None]]:
    """Return the split and path of each shard that `dataset.toml` lists. Open those on servers."""
    listed = [(split, text) for split, texts in description.shards.items() for text in texts]
    opened = iter(open_archives([text for _, text in listed if is_address(text)], progress))
    return [(split, *(next(opened) if is_address(text) else (folder / text, None))) for split, text in listed]


def _split_of(archive: Path, folder: Path) -> str:
    if archive.parent != folder:
        return archive.parent.name
    found = _SPLIT.match(archive.name)
    return WHOLE if found is None else found[1] or found[2]


def _paired(
    shard: Path, archive: Archive, members: Members, places: dict[Path, Place], problems: list[Problem]
) -> list[Sample]:
    """Return the samples of a shard, and record the positions of their files in `places`."""
    keys: dict[str, dict[str, Path]] = {}
    for name, offset, size in members:
        folder, _, file = name.rpartition("/")
        key, _, kind = file.partition(".")
        if not key:  # a hidden file
            continue
        path = shard / name.lstrip("/")
        keys.setdefault(f"{folder}/{key}".lstrip("/"), {})[kind.lower()] = path
        places[path] = (archive, offset, size)
    samples = []
    for key, kinds in keys.items():
        mask = next((kinds[kind] for kind in _MASKS if kind in kinds), None)
        images = [path for kind, path in kinds.items() if f".{kind}" in SUFFIXES and path != mask]
        if not images:
            what = f"has no image for the key {key!r}"
            problems.append(Problem("missing image", shard, what, f"Add {key}.jpg, or remove the key."))
            continue
        if mask is None:
            what = f"has no mask for the key {key!r}"
            problems.append(Problem("missing mask", shard, what, f"Add {key}.png, or remove the key."))
        samples.append(Sample(key, images[0], mask))
    return samples
