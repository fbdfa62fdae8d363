"""Names of output files: unique, below the output folder, and the same in every run over the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from pathlib import PurePath, PurePosixPath


def output_names(
    images: Sequence[PurePath], endings: Sequence[str], videos: Collection[int] = ()
) -> list[PurePosixPath]:
    """Choose a name without suffix for the outputs of each image.

    The name is the image's path below its source, without its suffix. If two images would share an output, they keep
    their suffixes (`a.jpg` and `a.png` give `a.jpg.png` and `a.png.png`), and if that is not enough, later ones get a
    number. Names that differ only in case count as equal, because some file systems don't distinguish them.

    No output has the name of a folder that holds others. The folder with a video's frames holds nothing else.

    Args:
        images: Paths of the images below their sources.
        endings: Suffixes of the outputs of one image, such as ".png".
        videos: Indices of the videos, whose frames get a folder of the video's name.

    Returns:
        One relative name for each image, without "..".
    """
    stems = [_inside(path.with_suffix("")) for path in images]
    shared = Counter(_folded(stem) for stem in stems)
    taken = {_folded(parent) for stem in stems for parent in stem.parents}
    names = []
    for index, (path, stem) in enumerate(zip(images, stems, strict=True)):
        for name in _candidates(path, stem, shared[_folded(stem)] > 1):
            outputs = {_folded(name) + ending.casefold() for ending in endings}
            if index in videos:
                outputs.add(_folded(name))
            if outputs.isdisjoint(taken):
                break
        taken |= outputs
        names.append(name)
    return names


def _candidates(path: PurePath, stem: PurePosixPath, shared: bool) -> Iterator[PurePosixPath]:
    if not shared:
        yield stem
    full = _inside(path)
    yield full
    for number in count(2):
        yield full.with_name(f"{full.name}-{number}")


def _inside(path: PurePath) -> PurePosixPath:
    """Return a relative path that can't leave its folder."""
    return PurePosixPath(*("__" if part == ".." else part for part in path.parts if part != path.anchor))


def _folded(name: PurePosixPath) -> str:
    return str(name).casefold()
