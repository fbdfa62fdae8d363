"""Download a published weights file to torch's cache, resume an interrupted download, and check the hash."""

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
from segnets.web import TIMEOUT, redact_url
from weights_tools.fetching._bar import Bar
from weights_tools.fetching._download import download
from weights_tools.fetching._partial import Partial, open_partial, sha256
from weights_tools.fetching.find import cache_folder, choose_url, find_row, full_name, make_cache_folder


@dataclass(frozen=True)
class FetchReport:
    """Result of `fetch`: a published file with the correct hash.

    Attributes:
        name: Model and weights, for example "fcn_resnet50:COCO_WITH_VOC_LABELS_V1".
        path: Path of the file.
        sha256: Digest of the whole file, 64 hex digits.
        known_digits: Number of these digits that the catalog has and that were compared.
        bytes: Size of the file.
        url: Address of the download, without query; the publisher's if `already_there`.
        already_there: Whether the file already existed, so nothing was downloaded.
        resumed_from: Number of bytes from an earlier call.
        retries: Number of reconnections during this call.
        next_steps: Python calls and commands that use the file.
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
        """Return the report as a JSON-able dictionary."""
        return {**asdict(self), "next_steps": list(self.next_steps)}

    def __str__(self) -> str:
        how = f"from {self.url}" if not self.already_there else "existed already; nothing was downloaded"
        if self.resumed_from:
            how += f", resumed after {self.resumed_from:,} bytes"
        if self.retries:
            how += f", {self.retries} more {'try' if self.retries == 1 else 'tries'}"
        checked = "correct" if self.known_digits == 64 else f"correct in the {self.known_digits} published digits"
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
    overwrite: bool = False,
    timeout: float = TIMEOUT,
) -> FetchReport:
    """Download a published weights file. Nothing in the file is executed.

    Bytes that arrived before a failure stay in NAME.part, and the next call resumes there. A second process that
    fetches the same file waits for the first.

    Args:
        name: A model ("fcn_resnet50", meaning its newest file), model and weights
            ("fcn_resnet50:COCO_WITH_VOC_LABELS_V1"), or a file name of `segnets.catalog`.
        url: http or https address of a mirror: a folder that contains files with the same names, or the file itself.
        folder: An existing folder. The default is torch's hub cache, where `weights=` looks.
        progress: Whether to show a progress bar on stderr. None shows it if stderr is a terminal.
        overwrite: Whether to replace a file with this name and a different hash.
        timeout: Seconds to wait for a connection, and for the next bytes.

    Raises:
        WeightsError: If the file can't be downloaded, or its hash is wrong.
        OutputError: If the file can't be written.
    """
    if not timeout > 0:
        raise WeightsError(f"timeout={timeout}: expected a positive number of seconds")
    row = find_row(name)
    source = choose_url(row, url)
    target = (make_cache_folder() if folder is None else Path(folder)) / row.file
    found = _find_existing(row, target, overwrite=overwrite)
    if found is not None:
        return found
    bar = Bar(row.file, progress)
    with open_partial(
        target, lambda: bar.note(f"{target}: waiting for another process that downloads this file")
    ) as part:
        try:
            found = _find_existing(row, target, overwrite=overwrite)  # downloaded by the process that held the lock
            if found is not None:
                part.remove()
                return found
            return _fetch_into(row, source, target, part, bar, timeout=timeout, overwrite=overwrite)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted.{part.advice()}" if part.size else "interrupted") from None
        finally:
            bar.close()


def _find_existing(row: Published, target: Path, *, overwrite: bool) -> FetchReport | None:
    """Report the published file if it exists; raise WeightsError if a different file with its name must stay."""
    try:
        status = target.stat()
    except (OSError, ValueError):
        check_writable_target(target)
        return None
    if not stat.S_ISREG(status.st_mode):
        check_writable_target(target)  # raises
    try:
        digest = sha256(target)
    except OSError as error:
        raise WeightsError(f"{target}: the file exists already and can't be read ({error.strerror})") from None
    if digest.startswith(_expected(row)):
        return _report(row, target, digest, url=row.url, already_there=True)
    if not overwrite:
        raise WeightsError(
            f"{target}: the file exists already and is not the published one: its sha256 is {digest}, not "
            f"{_expected_text(row)}. Remove it, or replace it with --force."
        )
    check_writable_target(target)
    return None


def _fetch_into(
    row: Published, source: str, target: Path, part: Partial, bar: Bar, *, timeout: float, overwrite: bool
) -> FetchReport:
    retries = 0
    digest = part.sha256() if part.size else ""
    if not digest.startswith(_expected(row)):  # complete if a call was killed before renaming
        retries = download(row, source, part, bar, timeout)
        digest = part.sha256()
    if not digest.startswith(_expected(row)) and (part.kept or retries):  # it may mix two versions
        bar.note(f"{part.path}: the hash is wrong; starting from zero")
        part.clear()
        retries += download(row, source, part, bar, timeout)
        digest = part.sha256()
    if not digest.startswith(_expected(row)):
        part.clear()
        raise WeightsError(
            f"{redact_url(source)}: the file is not the published one: its sha256 is {digest}, not "
            f"{_expected_text(row)}. Nothing was kept. Try another address with --from URL."
        )
    kept = part.kept
    part.publish(overwrite=overwrite)
    return _report(row, target, digest, url=redact_url(source), resumed_from=kept, retries=retries)


def _expected(row: Published) -> str:
    return row.sha256 or row.hash_prefix


def _expected_text(row: Published) -> str:
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
    """Return calls that use the file: by its name if it is in the cache, else by its path."""
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
