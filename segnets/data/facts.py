"""Facts about one sample for checks: counts and fingerprints, no pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.data.dataset import UNKNOWN, VOID, DataSet, Problem, Sample, check_sizes
from segnets.data.masks import UnknownColoursError
from segnets.errors import DataError

_THUMBNAIL = 16  # pixels
_AT_ONCE = 1 << 20
_MOST_COLOURS = 256  # per mask; a smoothed mask has thousands


@dataclass(frozen=True, eq=False)
class SampleFacts:
    """Counts, fingerprints and problems of one sample.

    Attributes:
        split: Name of the split.
        sample: Sample that was read.
        size: (height, width) of the image, or None if it can't be read.
        values: Number of pixels of each value in the mask, as stored.
        pixels: Number of pixels of each class id; 255 for ignored ones, -1 for values without a class. With planes, a
            pixel counts as ignored if all planes ignore it.
        labelled: Number of mask pixels that are not ignored.
        colours: RGB colour of each value in the mask, if the file has a palette.
        unknown_colours: Number of pixels of each colour that is not in the palette, at most the 256 most frequent.
        wide: Whether the mask has 16 bits.
        notices: Assumptions about the image, one phrase each.
        digest: Fingerprint of the image's pixels, or b"" if it can't be read.
        mask_digest: Fingerprint of the mask's values, or b"" if it can't be read.
        thumbnail: The image at 16x16 pixels, (16, 16, 1 or 3), uint8; empty if it can't be read.
        problems: Problems with the files themselves.
    """

    split: str
    sample: Sample
    size: tuple[int, int] | None = None
    values: Mapping[int, int] = field(default_factory=dict)
    pixels: Mapping[int, int] = field(default_factory=dict)
    labelled: int = 0
    colours: Mapping[int, Colour] = field(default_factory=dict)
    unknown_colours: Mapping[Colour, int] = field(default_factory=dict)
    wide: bool = False
    notices: tuple[str, ...] = ()
    digest: bytes = b""
    mask_digest: bytes = b""
    thumbnail: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 1), dtype=np.uint8), repr=False)
    problems: tuple[Problem, ...] = ()


def facts_of(data: DataSet, split: str, sample: Sample) -> SampleFacts:
    """Read one sample. Unreadable files become problems in the result."""
    problems: list[Problem] = []
    image = values = None
    colours: dict[int, Colour] = {}
    unknown: dict[Colour, int] = {}
    try:
        image = data.read_image(sample)
    except DataError as error:
        problems.append(_problem("unreadable", sample.image, error))
    if sample.mask is not None:
        try:
            values = data.read_values(sample)
            colours = dict(enumerate(data.reader.stored_palette(sample)))
        except UnknownColoursError as error:
            unknown = dict(sorted(error.counts.items(), key=lambda item: -item[1])[:_MOST_COLOURS])
        except DataError as error:
            problems.append(_problem("unreadable", sample.mask, error))
        if image is not None and values is not None:
            try:
                check_sizes(sample, image.pixels, values)
            except DataError as error:
                problems.append(_problem("wrong size", sample.mask, error))
    counts = {} if values is None else _counts(values)
    pixels = {} if values is None else _pixels(data, values, counts)
    return SampleFacts(
        split=split,
        sample=sample,
        size=None if image is None else (image.pixels.shape[0], image.pixels.shape[1]),
        values=counts,
        pixels=pixels,
        labelled=0 if values is None else values.shape[-1] * values.shape[-2] - pixels.get(VOID, 0),
        colours={value: colours[value] for value in counts if value in colours},
        unknown_colours=unknown,
        wide=values is not None and values.dtype.itemsize > 1,
        notices=() if image is None else image.notices,
        digest=b"" if image is None else _digest(image.pixels),
        mask_digest=b"" if values is None else _digest(values),
        thumbnail=np.zeros((0, 0, 1), dtype=np.uint8) if image is None else _thumbnail(image.pixels),
        problems=tuple(problems),
    )


def _counts(values: npt.NDArray[np.integer]) -> dict[int, int]:
    flat = values.ravel()
    counts = np.zeros(np.iinfo(values.dtype).max + 1, dtype=np.int64)
    for start in range(0, len(flat), _AT_ONCE):  # bincount makes a copy of eight times the size
        counts += np.bincount(flat[start : start + _AT_ONCE], minlength=len(counts))
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _pixels(data: DataSet, values: npt.NDArray[np.integer], counts: Mapping[int, int]) -> dict[int, int]:
    """Return the number of pixels of each class id."""
    if not data.planes:
        pixels: dict[int, int] = {}
        for value, count in counts.items():
            class_id = int(data.table[value])
            pixels[class_id] = pixels.get(class_id, 0) + count
        return pixels
    planes = data.table[values]
    found = {class_id: int((plane == 1).sum()) for class_id, plane in enumerate(planes)}
    found |= {VOID: int((planes == VOID).all(axis=0).sum()), UNKNOWN: int((planes == UNKNOWN).any(axis=0).sum())}
    return {class_id: count for class_id, count in found.items() if count}


def _digest(pixels: npt.NDArray[np.integer]) -> bytes:
    shape = np.array(pixels.shape, dtype=np.int64).tobytes()
    return hashlib.blake2b(shape + np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def _thumbnail(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    image = Image.fromarray(pixels[:, :, :3] if pixels.shape[2] == 3 else np.ascontiguousarray(pixels[:, :, 0]))
    small = np.asarray(image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR))
    return small.reshape(_THUMBNAIL, _THUMBNAIL, -1)


def _problem(kind: str, path: Path, error: DataError) -> Problem:
    """Convert an error about a file to a problem."""
    text = str(error).removeprefix(f"{path}: ")
    return Problem(kind, path, text, "" if text.endswith(".") else "Replace the file, or remove the sample.")
