"""Which file a name means, where it comes from and where it goes."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from segnets import catalog
from segnets.catalog import Published
from segnets.errors import OutputError, WeightsError
from segnets.files import cannot_write
from weights_tools._text import printable
from weights_tools.fetching.web import check_url

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_ELSEWHERE = "set TORCH_HOME, or name a folder with --to"


def find_row(name: str) -> Published:
    """The file called "fcn_resnet50" (the newest one), "fcn_resnet50:COCO_WITH_VOC_LABELS_V1", or by its file name.

    Raises WeightsError, with the nearest name that there is.
    """
    if not isinstance(name, str):
        raise WeightsError(f"a name of type {type(name).__name__}: expected a text such as 'fcn_resnet50'")
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
        raise WeightsError(f"no published file {printable(name)}; for {model} there is {names}")
    known = [*(row.model for row in catalog.CATALOG), *(row.file for row in catalog.CATALOG)]
    near = get_close_matches(name if name.endswith(".pth") else model, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise WeightsError(f"no published file {printable(name)}; {hint}`weights-tools fetch --list` names them all")


def full_name(row: Published) -> str:
    return f"{row.model}:{row.name}"


def choose_url(row: Published, url: str | None) -> str:
    """The address to ask: the publisher's, or `url`, a folder with files of the catalog's names or the file itself.

    It is the file itself if its path ends like a weights file or it has a query. Raises WeightsError.
    """
    if url is None:
        return check_url(row.url)
    parts = urlsplit(check_url(url))
    if parts.query or parts.path.lower().endswith(_SUFFIXES):
        return urlunsplit(parts)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{row.file}"))


def cache_folder() -> Path:
    """Where `weights=` looks for published files: torch's hub cache. It need not exist. Raises OutputError."""
    import torch

    hub = str(torch.hub.get_dir())
    if hub.startswith("~"):  # torch could not replace it, and would make a folder of that name
        raise OutputError(f"torch's cache has no place, because no home folder is known (HOME); {_ELSEWHERE}")
    return Path(hub) / "checkpoints"


def make_cache_folder() -> Path:
    """As `cache_folder`, and it exists then."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{cannot_write(folder, error)}; {_ELSEWHERE}") from None
    return folder
