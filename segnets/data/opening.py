"""Opening of a data set in any format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from segnets.data.dataset import DataSet
from segnets.data.folder import open_folder
from segnets.errors import DataError

Opener = Callable[[Path, Sequence[str] | None, Sequence[int] | None], DataSet]
FORMATS: dict[str, Opener] = {"folder": open_folder}


def open_data(
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    ignore: Sequence[int] | None = None,
    format: str = "auto",  # noqa: A002  # as in segnets.export
) -> DataSet:
    """Open a data set. File names are listed; no image is read.

    Args:
        path: Folder of the data set.
        classes: One name per class id, instead of those that the data set states.
        ignore: Values in masks that are ignored, instead of those that the data set states. 255 is always ignored.
        format: "folder" (`DATA/{train,val,test}/{images,masks}` or file lists, see `segnets.data.folder`), or "auto" to
            recognise it.

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
    if not folder.exists():
        raise DataError(f"{folder}: no such folder. Name the folder that holds the data set.")
    return FORMATS["folder" if format == "auto" else format](folder, classes, ignore)
