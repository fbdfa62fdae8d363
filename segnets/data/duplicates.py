"""Pictures that occur twice in a data set: with the same pixels, or resized or compressed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from segnets.data.dataset import Problem
from segnets.data.facts import SampleFacts

# Differences of thumbnails, of 255. Of CamVid's pictures, compressed with a quality of 60 or reduced to a quarter, they
# are below 0.5 on average and 5 at most; of frames of its videos 1/15 s apart, above 1.0 and 8.
_MEAN_DIFFERENCE, _LARGEST_DIFFERENCE = 0.7, 6
_LEAST_CONTRAST = 4.0  # standard deviation of a thumbnail; below it is an empty picture, like any other empty one
_MOST_COMPARED = 20_000  # pictures, as the time grows with the square


def find_duplicates(gathered: Mapping[str, Sequence[SampleFacts]]) -> Iterator[Problem]:
    """Find pictures that occur twice, in one split or in two.

    Of more than 20,000 pictures only those with exactly the same pixels are found.

    Args:
        gathered: Facts of all samples of each split.

    Yields:
        A problem for each picture that occurred before.
    """
    first: dict[bytes, SampleFacts] = {}
    for facts in gathered.values():
        for each in facts:
            if not each.digest:
                continue
            other = first.setdefault(each.digest, each)
            if other is not each:
                masks = "" if other.mask_digest == each.mask_digest else ", with another mask"
                yield _problem(each, other, "is the same picture as", masks)
    for each, other in _similar(list(first.values())):
        yield _problem(each, other, "is nearly the same picture as", " (resized or compressed again)")


def _problem(each: SampleFacts, other: SampleFacts, what: str, remark: str) -> Problem:
    if other.split == each.split:
        text = f"{what} {other.sample.image.name}{remark}"
        return Problem("duplicate", each.sample.image, text, "Remove one of the two.")
    text = f"{what} {other.sample.image} in the split {other.split!r}{remark}"
    fix = f"Remove one of the two: scores on {each.split!r} would be too high."
    return Problem("in two splits", each.sample.image, text, fix)


def _similar(facts: list[SampleFacts]) -> Iterator[tuple[SampleFacts, SampleFacts]]:
    """Yield each picture that looks like an earlier one, and that one."""
    facts = [each for each in facts if each.thumbnail.std() >= _LEAST_CONTRAST]
    if not 1 < len(facts) <= _MOST_COMPARED:
        return
    thumbnails = np.stack([each.thumbnail.ravel() for each in facts]).astype(np.int16)
    means = thumbnails.mean(axis=1)
    # The means of two thumbnails differ by no more than their values do on average.
    order = np.argsort(means, kind="stable")
    ends = np.searchsorted(means[order], means[order] + _MEAN_DIFFERENCE, side="right")
    found: dict[int, int] = {}
    for place, end in enumerate(ends):
        near = order[place + 1 : end]
        here = int(order[place])
        for other in near[_alike(thumbnails[here], thumbnails[near])]:
            later, earlier = max(here, int(other)), min(here, int(other))
            found[later] = min(earlier, found.get(later, earlier))
    for later in sorted(found):
        yield facts[later], facts[found[later]]


def _alike(one: npt.NDArray[np.int16], others: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    """Return which thumbnails (N, values) look like one (values,)."""
    differences = np.abs(others - one)
    alike: npt.NDArray[np.bool_] = (differences.max(axis=1, initial=0) <= _LARGEST_DIFFERENCE) & (
        differences.mean(axis=1) <= _MEAN_DIFFERENCE
    )
    return alike
