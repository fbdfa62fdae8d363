"""Opening of data sets in any supported format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from segnets.data.cityscapes import is_cityscapes, open_cityscapes
from segnets.data.coco import is_coco, open_coco
from segnets.data.dataset import DataSet
from segnets.data.description import ADVICE, is_address, read_description, scheme_of
from segnets.data.folder import open_folder
from segnets.data.shards import has_shards, open_shards
from segnets.data.voc import find_voc, is_sbd, open_voc
from segnets.errors import DataError
from segnets.web import redact_url

Opener = Callable[[Path, Sequence[str] | None, Sequence[int] | None], DataSet]
FORMATS: dict[str, Opener] = {
    "folder": open_folder,
    "voc": open_voc,
    "coco": open_coco,
    "cityscapes": open_cityscapes,
    "shards": open_shards,
}


def open_data(
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    ignore: Sequence[int] | None = None,
    format: str = "auto",  # noqa: A002  # as in segnets.export
    progress: Callable[[int, int], None] | None = None,
) -> DataSet:
    """Open a data set. File names are listed; no image is read.

    Args:
        path: Folder of the data set.
        classes: One name per class id, instead of the data set's own.
        ignore: Values in masks that are ignored, instead of the data set's own. 255 is always ignored.
        format: "folder", "voc", "coco", "cityscapes" or "shards", each described in the module of its name in
            `segnets.data`; or "auto" to recognise it by its folders.
        progress: Callback (done, total) that receives numbers of shards on servers whose index was read.

    Returns:
        The data set.

    Raises:
        DataError: If there is no data set of this format, or its description contradicts itself.

    Example:
        >>> data = open_data("camvid", classes=["sky", "building", "road"], ignore=[3])
        >>> pair = data.read(data.samples("train")[0])
    """
    if format != "auto" and format not in FORMATS:
        raise DataError(f"format={format!r}: expected 'auto', {', '.join(map(repr, FORMATS))}.")
    folder = Path(path)
    if not folder.is_dir() and scheme_of(str(path)):
        how = (
            "List the shards in the dataset.toml of a folder ([shards]), and pass that folder."
            if is_address(str(path))
            else ADVICE
        )
        raise DataError(f"{redact_url(str(path))}: can't be opened as a URL. {how}")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}. Pass the folder that contains the data set.")
    if format == "auto":
        format = _recognised(folder)  # noqa: A001  # as above
    if format == "shards":
        return open_shards(folder, classes, ignore, progress)
    return FORMATS[format](folder, classes, ignore)


def _recognised(folder: Path) -> str:
    if read_description(folder).shards:
        return "shards"
    if is_cityscapes(folder):
        return "cityscapes"
    if find_voc(folder) is not None or is_sbd(folder):
        return "voc"
    if is_coco(folder):
        return "coco"
    return "shards" if has_shards(folder) else "folder"
