"""Find the catalog row for a name, its address, and the cache folder."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from segnets import catalog
from segnets.catalog import Published
from segnets.errors import OutputError, WeightsError
from segnets.files import cannot_write
from segnets.web import check_url
from weights_tools._text import printable

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_ELSEWHERE = "Set TORCH_HOME, or choose a folder with --to."


def find_row(name: str) -> Published:
    """Find a published file in the catalog.

    Args:
        name: A model ("fcn_resnet50", meaning its newest file), model and weights
            ("fcn_resnet50:COCO_WITH_VOC_LABELS_V1"), or a file name.

    Raises:
        WeightsError: If there is none; the message suggests the nearest name.
    """
    if not isinstance(name, str):
        raise WeightsError(f"name has type {type(name).__name__}: expected a string such as 'fcn_resnet50'")
    for row in catalog.CATALOG:
        if row.file == name:
            return row
    model, colon, weights = name.partition(":")
    rows = catalog.published_for(model)
    row_ = catalog.find_published(weights if colon else "DEFAULT", model)
    if row_ is not None:
        return row_
    if rows:
        names = ", ".join(full_name(row) for row in rows)
        raise WeightsError(f"no published file {printable(name)}. {model} has {names}")
    known = [*(row.model for row in catalog.CATALOG), *(row.file for row in catalog.CATALOG)]
    near = get_close_matches(name if name.endswith(".pth") else model, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise WeightsError(f"no published file {printable(name)}. {hint}`weights-tools fetch --list` lists all")


def full_name(row: Published) -> str:
    """Return the full name of published weights, for example "fcn_resnet50:COCO_WITH_VOC_LABELS_V1"."""
    return f"{row.model}:{row.name}"


def choose_url(row: Published, url: str | None) -> str:
    """Return the address to request.

    Args:
        row: The published file.
        url: Address of a mirror: the file itself if the path ends like a weights file or has a query, else a folder
            that holds it under the catalog's name. None means the publisher's address.

    Raises:
        WeightsError: If `url` is not an http or https address.
    """
    if url is None:
        return check_url(row.url)
    parts = urlsplit(check_url(url))
    if parts.query or parts.path.lower().endswith(_SUFFIXES):
        return urlunsplit(parts)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{row.file}"))


def cache_folder() -> Path:
    """Return torch's hub cache, where `weights=` looks for published files. The folder need not exist.

    Raises:
        OutputError: If the home folder is unknown.
    """
    import torch

    hub = str(torch.hub.get_dir())
    if hub.startswith("~"):  # torch leaves it there if the home folder is unknown
        raise OutputError(f"torch's cache folder is unknown, because the home folder (HOME) is. {_ELSEWHERE}")
    return Path(hub) / "checkpoints"


def make_cache_folder() -> Path:
    """Return `cache_folder()`, created if missing.

    Raises:
        OutputError: If the folder can't be created.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{cannot_write(folder, error)}. {_ELSEWHERE}") from None
    return folder
