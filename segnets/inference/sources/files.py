"""Image files: single files, folders in natural order, glob patterns, and lists of these."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from segnets.errors import ImageError
from segnets.inference.sources.base import Item

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".dib"),
        *(".gif", ".tif", ".tiff", ".webp", ".jp2", ".j2k", ".avif", ".tga"),
    )
)
_NUMBERS = re.compile(r"(\d+)")
_WILDCARDS = re.compile(r"[*?\[]")


@dataclass
class FileSource:
    """Files, folders and glob patterns.

    A folder yields its files with an image suffix in natural order: `2.jpg` comes before `10.jpg`. Hidden files are
    skipped, and links to folders are not followed. A file that is named directly is read as an image, whatever its
    suffix.

    Attributes:
        names: Paths of files or folders, or patterns such as `photos/*.jpg`.
        recursive: Whether to search subfolders too.
        without: Folder to skip, for example the output folder.
        skipped: Number of files in folders that were skipped because of their suffix, counted while iterating.
    """

    names: Iterable[str | os.PathLike[str]]
    recursive: bool = False
    without: Path | None = None
    skipped: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Item]:
        """Yield the files in order.

        Raises:
            ImageError: If a folder can't be read, or a folder or a pattern has no images.
        """
        for name in self.names:
            yield from self._named(os.fspath(name))

    def _named(self, name: str) -> Iterator[Item]:
        if not name:
            raise ImageError("'': empty name; pass a file, a folder or a pattern")
        if "://" in name:
            raise ImageError(f"{name}: URLs are not supported; download the image first, and pass the file")
        path = Path(name)
        if path.is_dir():
            yield from self._in_folder(path)
        elif _WILDCARDS.search(name) and not os.path.lexists(path):
            yield from self._matching(name)
        else:  # a missing file fails when it is read, like any other bad image
            yield Item(name, name, Path(path.name))

    def _in_folder(self, folder: Path) -> Iterator[Item]:
        found = False
        for path in self._walk(folder):
            found = True
            yield Item(str(path), str(path), path.relative_to(folder))
        if not found:
            deeper = "" if self.recursive else "; --recursive (recursive=True) also searches the folders in it"
            raise ImageError(f"{str(folder)!r}: has no images (.jpg, .png, .tif, .webp, ...){deeper}")

    def _walk(self, folder: Path) -> Iterator[Path]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: natural_order(entry.name))
        except OSError as error:
            raise ImageError(f"{str(folder)!r}: can't be read: {error.strerror}") from None
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if self.recursive and not (self.without and _same(path, self.without)):
                    yield from self._walk(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                yield path
            else:
                self.skipped += 1

    def _matching(self, pattern: str) -> Iterator[Item]:
        fixed = Path(*_fixed_parts(Path(pattern)))
        matches = sorted(glob.iglob(pattern, recursive=True), key=natural_order)  # noqa: PTH207  # Path.glob is relative
        found = [Path(match) for match in matches if not Path(match).is_dir()]
        files = found
        if self.without is not None:
            files = [path for path in found if not any(_same(parent, self.without) for parent in path.parents)]
        if found and not files:
            raise ImageError(f"{pattern!r}: all matching files are in the output folder. Choose another --out")
        if not files:
            raise ImageError(f"{pattern!r}: no file matches this pattern")
        for path in files:
            yield Item(str(path), str(path), path.relative_to(fixed))


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a key that sorts numbers in names by their value, and is the same on every system.

    Equal numbers such as 1 and 01 are sorted as text.
    """
    parts = _NUMBERS.split(name)
    key = [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts if part]
    return key, name


def _fixed_parts(pattern: Path) -> Iterator[str]:
    """Yield the folders of a pattern before the first wildcard."""
    for part in pattern.parts[:-1]:
        if _WILDCARDS.search(part):
            return
        yield part


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
