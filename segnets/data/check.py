"""Checks of a whole data set before training.

Every image and mask is read once, in threads; of a data set on a server, some of each split. Problems are grouped: the
same mistake in a thousand masks becomes one line that lists the first few files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from segnets.card import JSON
from segnets.console import counted
from segnets.data.dataset import DataSet, Problem, Sample
from segnets.data.diagnosis import diagnose
from segnets.data.facts import SampleFacts, facts_of
from segnets.data.threads import Readers

MOST_REMOTE = 200  # samples per split that are read from a server by default
_MOST_THREADS = 8
_MOST_NAMES = 3  # more files named in a line
_MOST_LINES = 5  # lines of one kind of problem
_T = TypeVar("_T")


@dataclass(frozen=True)
class SplitReport:
    """Contents of one split.

    Attributes:
        images: Number of images.
        checked: Number of images that were read. The numbers below are about these.
        without_mask: Number of images that have no mask, of all images.
        pixels: Number of pixels of each class, one per class id.
        labelled: Number of pixels that are not ignored. If classes overlap in planes, less than the sum of `pixels`.
        ignored: Number of pixels that are ignored.
        sizes: Number of images of each (height, width).
    """

    images: int
    checked: int
    without_mask: int
    pixels: tuple[int, ...]
    labelled: int
    ignored: int
    sizes: Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class DataReport:
    """Result of `check_data`.

    Attributes:
        path: Path of the data set.
        classes: Names of the classes.
        splits: Contents of each split.
        errors: Problems to correct before training. Each is one line with the file, the problem and the fix.
        warnings: Problems that may be intended, in the same form.
    """

    path: Path
    classes: tuple[str, ...]
    splits: Mapping[str, SplitReport]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if there are no errors."""
        return not self.errors

    def lines(self) -> list[str]:
        """Format the report as lines of text: a table of the splits, one of the classes, then errors and warnings."""
        lines = [*_split_table(self), "", *_class_table(self)]
        if self.note:
            lines += ["", self.note]
        for kind, messages in (("error", self.errors), ("warning", self.warnings)):
            lines += ["", *(f"{kind}: {message}" for message in messages)] if messages else []
        return [*lines, "", self.summary()]

    def summary(self) -> str:
        """Return one line: the number of images, errors and warnings."""
        images = counted(sum(split.images for split in self.splits.values()), "image")
        read = sum(split.checked for split in self.splits.values())
        errors = counted(len(self.errors), "error") if self.errors else "no errors"
        warnings = counted(len(self.warnings), "warning") if self.warnings else "no warnings"
        some = f" ({read:,} read)" if self.note else ""
        return f"{self.path}: {images}{some}, {errors}, {warnings}"

    @property
    def note(self) -> str:
        """One line about the samples that were not read, or "" if all were."""
        parts = [
            f"{split.checked:,} of {split.images:,} ({name})"
            for name, split in self.splits.items()
            if split.checked < split.images
        ]
        if not parts:
            return ""
        return (
            f"{self.path}: the shards are on a server, so only some images were read, evenly spread: "
            f"{', '.join(parts)}. `segnets check-data {self.path} --all` reads all"
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the report as JSON values. Sizes are written as "480x360", width first."""
        splits: dict[str, JSON] = {}
        for name, split in self.splits.items():
            splits[name] = {
                "images": split.images,
                "checked": split.checked,
                "without_mask": split.without_mask,
                "pixels": dict(zip(self.class_names, split.pixels, strict=False)),
                "labelled": split.labelled,
                "ignored": split.ignored,
                "sizes": {f"{width}x{height}": count for (height, width), count in split.sizes.items()},
            }
        return {
            "path": str(self.path),
            "ok": self.ok,
            "classes": list(self.classes),
            "splits": splits,
            "errors": list(self.errors),
            "warnings": list(self.warnings),
        }

    @property
    def class_names(self) -> list[str]:
        """Class names, or ids as text if the data set has no class names."""
        count = max((len(split.pixels) for split in self.splits.values()), default=0)
        return list(self.classes) or [str(number) for number in range(count)]


def check_data(
    data: DataSet, *, all_samples: bool = False, progress: Callable[[int, int], None] | None = None
) -> DataReport:
    """Read the images and masks of a data set, and report problems.

    Args:
        data: Data set to check.
        all_samples: Whether to read all samples of a data set on a server too, instead of 200 per split.
        progress: Callback (done, total) that receives numbers of samples.

    Returns:
        The report. Bad files are reported, not raised.

    Example:
        >>> report = check_data(open_data("camvid"))
        >>> for line in report.lines():
        ...     print(line)
    """
    gathered: dict[str, list[SampleFacts]] = {name: [] for name in data.splits}
    most = None if all_samples or not data.remote else MOST_REMOTE
    chosen = {name: evenly_spread(samples, most) for name, samples in data.splits.items()}
    total = sum(map(len, chosen.values()))
    for done, facts in enumerate(_read_all(data, chosen), 1):
        gathered[facts.split].append(facts)
        if progress is not None:
            progress(done, total)
    errors, warnings = diagnose(data, gathered)
    return DataReport(
        path=data.path,
        classes=data.classes,
        splits={name: _split_report(data, data.splits[name], facts) for name, facts in gathered.items()},
        errors=tuple(grouped(errors)),
        warnings=tuple(grouped(warnings)),
    )


def evenly_spread(samples: Sequence[_T], most: int | None) -> Sequence[_T]:
    """Return at most `most` items at equal distances, or all items for None."""
    if most is None or len(samples) <= most:
        return samples
    return [samples[(2 * number + 1) * len(samples) // (2 * most)] for number in range(most)]


def _read_all(data: DataSet, chosen: Mapping[str, Sequence[Sample]]) -> Iterator[SampleFacts]:
    """Yield the facts of samples, in split order. The threads stop when the caller does."""
    work = [(split, sample) for split, samples in chosen.items() for sample in samples]
    # Threads wait for a server much longer than they compute.
    with Readers(_MOST_THREADS if data.remote else min(_MOST_THREADS, os.cpu_count() or 1)) as readers:
        yield from readers.map(lambda each: facts_of(data, *each), work)


def grouped(problems: list[Problem]) -> list[str]:
    """Group files with the same problem into one line each.

    Args:
        problems: Problems in any order.

    Returns:
        Lines in order of first occurrence, at most five per kind. One more line per kind counts the remaining files.
    """
    groups: dict[tuple[str, str, str], list[Path]] = {}
    for problem in problems:
        groups.setdefault((problem.kind, problem.what, problem.fix), []).append(problem.path)
    shown: Counter[str] = Counter()
    more: dict[str, int] = {}
    lines = []
    for (kind, what, fix), paths in groups.items():
        shown[kind] += 1
        if shown[kind] > _MOST_LINES:
            more[kind] = more.get(kind, 0) + len(paths)
            continue
        others = [path.name if path.parent == paths[0].parent else str(path) for path in paths[1 : _MOST_NAMES + 1]]
        rest = "" if len(paths) <= _MOST_NAMES + 1 else ", ..."
        files = f" (and {counted(len(paths) - 1, 'more file')}: {', '.join(others)}{rest})" if others else ""
        lines.append(f"{paths[0]}{files}: {what}{f'. {fix}' if fix else ''}")
    return lines + [f"{kind}: {counted(count, 'more file')} like these" for kind, count in more.items()]


def _split_report(data: DataSet, samples: Sequence[Sample], facts: list[SampleFacts]) -> SplitReport:
    pixels: Counter[int] = Counter()
    for each in facts:
        pixels.update(each.pixels)
    count = len(data.classes) or 1 + max((number for number in pixels if number >= 0 and number != 255), default=-1)
    return SplitReport(
        images=len(samples),
        checked=len(facts),
        without_mask=sum(sample.mask is None for sample in samples),
        pixels=tuple(pixels[number] for number in range(count)),
        labelled=sum(each.labelled for each in facts),
        ignored=pixels[255],
        sizes=dict(Counter(each.size for each in facts if each.size is not None).most_common()),
    )


def _split_table(report: DataReport) -> list[str]:
    rows: list[tuple[str, ...]] = [("split", "images", "masks", "width x height", "pixels", "ignored")]
    for name, split in report.splits.items():
        known = split.labelled + split.ignored
        rows.append(
            (
                name,
                f"{split.images:,}",
                f"{split.images - split.without_mask:,}",
                _sizes(split.sizes),
                f"{known:,}",
                _percent(split.ignored, known),
            )
        )
    return _table(rows, left=(0, 3))


def _sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    if len(sizes) <= 1:
        return "".join(f"{width}x{height}" for height, width in sizes) or "-"
    heights, widths = zip(*sizes, strict=True)
    return f"{min(widths)}..{max(widths)} x {min(heights)}..{max(heights)}"


def _class_table(report: DataReport) -> list[str]:
    rows: list[tuple[str, ...]] = [("id", "class", *report.splits)]
    for number, name in enumerate(report.class_names):
        shares = []
        for split in report.splits.values():
            count = split.pixels[number] if number < len(split.pixels) else 0
            shares.append(_percent(count, split.labelled))
        rows.append((str(number), name if report.classes else "?", *shares))
    return _table(rows, left=(1,))


def _percent(part: int, whole: int) -> str:
    if not part:
        return "-"
    share = 100 * part / whole
    return f"{share:.1f} %" if share >= 0.05 else "<0.1 %"


def _table(rows: list[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
