"""Manifest of a job: one JSON line per image, in order, written while the job runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from segnets.errors import OutputError
from segnets.files import cannot_write, check_writable_target
from segnets.inference.journal import Entry

_START = b'{"source": '


class Manifest:
    """File with one JSON line per image: source, state, reason, notices, outputs, size, networks, seconds.

    Args:
        path: File to write, or None for no manifest.
        networks: Description of each network: form, precision and device.
        overwrite: Whether an earlier manifest may be replaced. Other files are never replaced.

    Raises:
        OutputError: If the file can't be written.
    """

    def __init__(self, path: Path | None, networks: Sequence[str], *, overwrite: bool) -> None:
        self._path = path
        self._networks = list(networks)
        self._file: IO[str] | None = None
        if path is not None:
            check_writable_target(path, overwrite=overwrite)
            try:
                if not _is_manifest(path):
                    raise OutputError(f"{path}: exists, but is not a manifest; choose another name (--manifest)")
                self._file = path.open("w", encoding="ascii")
            except OutputError:
                raise
            except OSError as error:
                raise cannot_write(path, error) from None

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, entry: Entry) -> None:
        """Write the line of one image.

        Raises:
            OutputError: If the line can't be written.
        """
        if self._file is None or self._path is None:
            return
        line = {
            "source": entry.source,
            "state": entry.state,
            "reason": entry.reason,
            "notices": list(entry.notices),
            "outputs": sorted(entry.outputs),
            "height": entry.size[0] if entry.size else None,
            "width": entry.size[1] if entry.size else None,
            "frames": entry.frames,
            "networks": self._networks,
            "seconds": {step: round(seconds, 6) for step, seconds in entry.seconds.items()},
        }
        try:
            self._file.write(f"{json.dumps(line)}\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from None


def _is_manifest(path: Path) -> bool:
    """Return whether a file may be replaced by a manifest: it is missing, empty, or a manifest itself."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_START))
    except FileNotFoundError:
        return True
    return start in (b"", _START)
