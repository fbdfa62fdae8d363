"""Detection of duplicate images in a data set: identical, resized or recompressed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from segnets.data.dataset import Problem
from segnets.data.facts import SampleFacts

# Differences between thumbnails, 0..255. For CamVid images recompressed at quality 60 or reduced to a quarter, the mean
# is below 0.5 and the maximum 5. For video frames 1/15 s apart, they are above 1.0 and 8.
_MEAN_DIFFERENCE, _LARGEST_DIFFERENCE = 0.7, 6
_LEAST_CONTRAST = 4.0  # standard deviation of a thumbnail; below it, the image is blank
# Maximum number of images of similar brightness to compare with each image: by quarter means, then by pixels. Without a
# limit, the time would grow with the square of the number of images.
_MOST_NEAR, _MOST_COMPARED = 4000, 100


def find_duplicates(gathered: Mapping[str, Sequence[SampleFacts]]) -> Iterator[Problem]:
    """Find duplicate images, within one split or across splits.

    In very large data sets, or with thousands of similar images, some resized or recompressed duplicates are missed.

    Args:
        gathered: Facts of all samples of each split.

    Yields:
        A problem for each image that duplicates an earlier one.
    """
    first: dict[bytes, SampleFacts] = {}
    for facts in gathered.values():
        for each in facts:
            if not each.digest:
                continue
            other = first.setdefault(each.digest, each)
            if other is not each:
                masks = "" if other.mask_digest == each.mask_digest else ", with a different mask"
                yield _problem(each, other, "is the same picture as", masks)
    for each, other in _similar(list(first.values())):
        yield _problem(each, other, "is nearly the same picture as", " (resized or compressed again)")


def _problem(each: SampleFacts, other: SampleFacts, what: str, remark: str) -> Problem:
    if other.sample.image == each.sample.image:  # one file, in two lists
        text = f"is listed in the split {other.split!r} too"
        fix = f"Remove it from one of the lists: scores on {each.split!r} would be too high."
        return Problem("in two splits", each.sample.image, text, fix)
    if other.split == each.split:
        text = f"{what} {other.sample.image.name}{remark}"
        return Problem("duplicate", each.sample.image, text, "Remove one of the two.")
    text = f"{what} {other.sample.image} in the split {other.split!r}{remark}"
    fix = f"Remove one of the two: scores on {each.split!r} would be too high."
    return Problem("in two splits", each.sample.image, text, fix)


def _similar(facts: list[SampleFacts]) -> Iterator[tuple[SampleFacts, SampleFacts]]:
    """Yield each image that resembles an earlier one, together with the earlier one."""
    facts = [each for each in facts if each.thumbnail.std() >= _LEAST_CONTRAST]
    if len(facts) < 2:
        return
    thumbnails = np.stack([each.thumbnail for each in facts])
    quarters = _quarters(thumbnails)
    means = quarters.mean(axis=1)
    # The difference of two thumbnails' means, or quarter means, is at most their mean pixel difference.
    order = np.argsort(means, kind="stable")
    quarters, means = quarters[order], means[order]
    ends = np.searchsorted(means, means + _MEAN_DIFFERENCE, side="right")
    found: dict[int, int] = {}
    for place, end in enumerate(ends):
        near = slice(place + 1, min(int(end), place + 1 + _MOST_NEAR))
        distances = np.abs(quarters[near] - quarters[place]).mean(axis=1)
        close = np.flatnonzero(distances <= _MEAN_DIFFERENCE)
        if len(close) > _MOST_COMPARED:
            close = close[np.argpartition(distances[close], _MOST_COMPARED)[:_MOST_COMPARED]]
        others, here = order[near][close], int(order[place])
        for other in others[_alike(thumbnails[here], thumbnails[others])] if len(others) else ():
            later, earlier = max(here, int(other)), min(here, int(other))
            found[later] = min(earlier, found.get(later, earlier))
    for later in sorted(found):
        yield facts[later], facts[found[later]]


def _quarters(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the mean of each quarter, (N, 4), of thumbnails (N, side, side, channels)."""
    count, side, _, channels = thumbnails.shape
    parts = thumbnails.reshape(count, 2, side // 2, 2, side // 2, channels)
    means: npt.NDArray[np.float64] = parts.mean(axis=(2, 4, 5)).reshape(count, 4)
    return means


def _alike(one: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return a mask (N,) of the thumbnails (N, side, side, channels) that resemble one thumbnail."""
    differences = np.abs(others.astype(np.int16) - one.astype(np.int16)).reshape(len(others), -1)
    alike: npt.NDArray[np.bool_] = (differences.max(axis=1, initial=0) <= _LARGEST_DIFFERENCE) & (
        differences.mean(axis=1) <= _MEAN_DIFFERENCE
    )
    return alike
