"""`fetch`: a published weights file into torch's cache, resumed where it broke off, kept only if its hash is right."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from segnets.card import JSON
from segnets.catalog import Published
from segnets.errors import WeightsError
from segnets.files import check_writable_target
from weights_tools.fetching.bar import Bar
from weights_tools.fetching.download import download
from weights_tools.fetching.find import cache_folder, choose_url, find_row, full_name, make_cache_folder
from weights_tools.fetching.partial import Partial, open_partial, sha256
from weights_tools.fetching.web import shown_url


@dataclass(frozen=True)
class FetchReport:
    """A published file that is there now, with the right hash.

    name: model and weights, "fcn_resnet50:COCO_WITH_VOC_LABELS_V1"; path: where it lies; sha256: of the whole file;
    known_digits: how many of its 64 hex digits the catalog knows, and so were compared; bytes: its size.
    already_there: nothing was fetched. Otherwise url: where it came from; resumed_from: how many bytes an earlier call
    had left; retries: how often the connection broke in this one. next_steps: what to do with it.
    """

    name: str
    path: str
    sha256: str
    known_digits: int
    bytes: int
    url: str
    already_there: bool = False
    resumed_from: int = 0
    retries: int = 0
    next_steps: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Plain lists, numbers and strings."""
        return {**asdict(self), "next_steps": list(self.next_steps)}

    def __str__(self) -> str:
        how = f"from {self.url}" if not self.already_there else "was there already; nothing was fetched"
        if self.resumed_from:
            how += f", resumed after {self.resumed_from:,} bytes"
        if self.retries:
            how += f", {self.retries} more {'try' if self.retries == 1 else 'tries'}"
        checked = "right" if self.known_digits == 64 else f"right in the {self.known_digits} digits that are published"
        rows = [
            ("fetched" if not self.already_there else "found", self.name),
            ("at", f"{self.path}, {self.bytes:,} bytes"),
            ("how", how),
            ("sha256", f"{self.sha256}, {checked}"),
        ]
        rows += [("next", step) for step in self.next_steps]
        return "\n".join(f"{title:<11}{text}" for title, text in rows)


def fetch(
    name: str,
    *,
    url: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    force: bool = False,
    timeout: float = 30.0,
) -> FetchReport:
    """Fetch a published weights file; nothing in it is executed, or even looked at beyond its first bytes.

    name: "fcn_resnet50" (the newest), "fcn_resnet50:COCO_WITH_VOC_LABELS_V1" or a file name of `segnets.catalog`.
    url: of a mirror, http or https: a folder with files of the same names, or the file itself. folder: an existing one,
    instead of torch's hub cache, where `weights=` looks. progress: a bar on stderr; None: if that is a terminal.
    force: replace a file of this name that is another one. timeout: seconds to wait for a connection, and for the next
    bytes; a slow server is no error.

    What came before a failure stays in NAME.part, and the next call goes on from there. A second process that fetches
    the same file waits for the first. Raises WeightsError if the file can't be had, is another one, or its hash is
    wrong; OutputError if it can't be written.
    """
    if not timeout > 0:
        raise WeightsError(f"timeout={timeout}: expected seconds, more than 0")
    row = find_row(name)
    source = choose_url(row, url)
    target = (make_cache_folder() if folder is None else Path(folder)) / row.file
    there = _already_there(row, target, force=force)
    if there is not None:
        return there
    bar = Bar(row.file, progress)
    with open_partial(target, lambda: bar.note(f"{target}: another process fetches it; waiting")) as part:
        try:
            there = _already_there(row, target, force=force)  # the process that we waited for had it
            if there is not None:
                part.remove()
                return there
            return _fetched(row, source, target, part, bar, timeout=timeout, force=force)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted{part.advice()}") from None
        finally:
            bar.close()


def _already_there(row: Published, target: Path, *, force: bool) -> FetchReport | None:
    """Look at what has the name already. Raises WeightsError if it is another file, and may not be replaced."""
    try:
        status = target.stat()
    except (OSError, ValueError):
        check_writable_target(target)
        return None
    if not stat.S_ISREG(status.st_mode):
        check_writable_target(target)  # says what it is instead
    try:
        digest = sha256(target)
    except OSError as error:
        raise WeightsError(f"{target}: is there already and can't be read ({error.strerror})") from None
    if digest.startswith(_expected(row)):
        return _report(row, target, digest, url=row.url, already_there=True)
    if not force:
        raise WeightsError(
            f"{target}: is there already, and is not the published file: its sha256 is {digest}, not "
            f"{_expected_shown(row)}; remove it, or replace it with --force"
        )
    check_writable_target(target)
    return None


def _fetched(
    row: Published, source: str, target: Path, part: Partial, bar: Bar, *, timeout: float, force: bool
) -> FetchReport:
    retries = 0
    digest = part.sha256() if part.size else ""
    if not digest.startswith(_expected(row)):  # else a call was killed between the last byte and the renaming
        retries = download(row, source, part, bar, timeout)
        digest = part.sha256()
    if not digest.startswith(_expected(row)) and (part.kept or retries):  # pieces of two versions, perhaps
        bar.note(f"{part.path}: the pieces do not fit together; from zero")
        part.clear()
        retries += download(row, source, part, bar, timeout)
        digest = part.sha256()
    if not digest.startswith(_expected(row)):
        part.clear()
        raise WeightsError(
            f"{shown_url(source)}: is not the published file: its sha256 is {digest}, not {_expected_shown(row)}; "
            "nothing was kept; fetch it from another place with --from URL"
        )
    kept = part.kept
    part.publish(overwrite=force)
    return _report(row, target, digest, url=shown_url(source), resumed_from=kept, retries=retries)


def _expected(row: Published) -> str:
    return row.sha256 or row.hash_prefix


def _expected_shown(row: Published) -> str:
    return row.sha256 or f"{row.hash_prefix}..."


def _report(
    row: Published,
    target: Path,
    digest: str,
    *,
    url: str,
    already_there: bool = False,
    resumed_from: int = 0,
    retries: int = 0,
) -> FetchReport:
    return FetchReport(
        name=full_name(row),
        path=str(target),
        sha256=digest,
        known_digits=len(_expected(row)),
        bytes=target.stat().st_size,
        url=url,
        already_there=already_there,
        resumed_from=resumed_from,
        retries=retries,
        next_steps=_next_steps(row, target),
    )


def _next_steps(row: Published, target: Path) -> tuple[str, ...]:
    """How to use the file: by its name where `weights=` looks for it, else by its path."""
    in_cache = target.parent == _cache_folder_if_any()
    weights = repr(row.name if in_cache else str(target))
    if not row.classes:
        return (f"segnets.create_model('fcn_{row.model}', weights_backbone={weights})",)
    convert = f"weights-tools convert {shlex.quote(str(target))} {row.model}.safetensors"
    return (f"segnets.create_model('{row.model}', weights={weights})", convert)


def _cache_folder_if_any() -> Path | None:
    try:
        return cache_folder()
    except OSError:
        return None
