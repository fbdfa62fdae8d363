"""Parts of files on http(s) servers, read by range requests.

A request that fails for a passing reason is repeated after a pause. A response is used only if it states the range,
size and version (ETag or Last-Modified) that were expected, so a file that changes on the server is never mixed with
its old contents.
"""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import re
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PosixPath
from typing import NoReturn, TypeVar
from urllib.parse import unquote

from segnets import web
from segnets.errors import DataError
from segnets.web import BrokenError, UnreachableError, WebError

HEADER = tarfile.BLOCKSIZE  # bytes of a member's header, directly before its contents
_AHEAD = 1 << 16  # bytes read at once while headers are listed: small members share a request
_GAP = 1 << 16  # bytes between an image and its mask that are read, rather than sending a second request
_MOST_HEADER = 1 << 24  # bytes of a header with a long name or other extras
_NAME = 100  # bytes; longer names are stored elsewhere in the archive
_DENIED = (401, 403)
_LOGIN = re.compile(r"(https?://)([^/?#]*)@", re.IGNORECASE)
_WARN_SECONDS = 10.0
_T = TypeVar("_T")

_logger = logging.getLogger("segnets")
_warned = -_WARN_SECONDS  # time of the last warning

_latest = threading.local()  # the range that each thread read last: an image together with its mask
_targets: dict[str, str] = {}  # target of each address that redirects; following it each time would double the requests


class Address(PosixPath):
    """Address of a file on a server as a path, for messages: without user, password and query."""

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


@dataclass(frozen=True)
class RemoteFile:
    """File on a server.

    Attributes:
        address: Address for messages.
        url: Address to request, which may contain a secret query.
        login: Value of the header Authorization, or "".
        size: Size in bytes.
        version: ETag or Last-Modified of the file, or "" if the server sends neither.
        index: File that caches the positions of the members, or None.
    """

    address: Address
    url: str = field(repr=False)
    login: str = field(repr=False)
    size: int = 0
    version: str = ""
    index: Path | None = None

    def member(self, name: str, offset: int, size: int, neighbour: tuple[int, int] | None = None) -> bytes:
        """Read a member of a tar archive.

        Args:
            name: Name of the member, without "/" at its beginning.
            offset: Position of its contents.
            size: Size of its contents in bytes.
            neighbour: Offset and size of a member that the same thread will ask for next. One request reads both if
                they are close together.

        Returns:
            The contents.

        Raises:
            DataError: If the file can't be read, has changed, or has a different member there.
        """
        start, end = offset - HEADER, offset + size
        first, last = start, end
        if neighbour is not None:
            first, last = min(start, neighbour[0] - HEADER), max(end, sum(neighbour))
            if last - first > 2 * HEADER + size + neighbour[1] + _GAP:
                first, last = start, end
        content = self._cached(start, end, first, last)
        if not _begins(content, name, size):
            if self.index is not None:
                with contextlib.suppress(OSError):  # a cache that can't be written
                    self.index.unlink()
            raise DataError(
                f"{self.address}: {name} isn't where the index of the shard puts it. If there is an .idx file next to "
                "the shard, make it again (wds2idx), or remove it."
            )
        return content[HEADER:]

    def has(self, name: str, offset: int, size: int) -> bool:
        """Return whether a tar archive has a member at a position.

        Raises:
            DataError: If the file can't be read, or has changed.
        """
        return _begins(self.read(offset - HEADER, offset), name.lstrip("/"), size)

    def _cached(self, start: int, end: int, first: int, last: int) -> bytes:
        """Return a range. Take it from the range that this thread read last, or read `first` to `last` instead."""
        key = self.url, self.size, self.version
        of, at, block = getattr(_latest, "range", (None, 0, b""))
        if of != key or not at <= start <= end <= at + len(block):
            _latest.range = None, 0, b""  # frees the memory first
            at, block = first, self.read(first, last)
            _latest.range = key, at, block
        return block[start - at : end - at]

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes from `start` to before `end`.

        Raises:
            DataError: If they can't be read, or the file has changed.
        """
        return _repeated(lambda: self._read(start, end))

    def _read(self, start: int, end: int) -> bytes:
        target = _targets.get(self.url)
        if target is not None:
            try:
                return _request(self, target, start, end)[0]
            except WebError:
                _targets.pop(self.url, None)  # signatures of such addresses expire
        content, _, target = _request(self, self.url, start, end)
        if target != self.url:
            _targets[self.url] = target
        return content


def open_remote(url: str) -> RemoteFile:
    """Ask a server for the size and version of a file, with a request for its first bytes.

    HEAD is not sufficient: presigned addresses allow one method only, and its response doesn't show whether ranges are
    supported.

    Args:
        url: Address beginning with http:// or https://, with or without user and password.

    Raises:
        DataError: If the file can't be read, or the server doesn't support range requests.
    """
    found = _LOGIN.match(url)
    login = f"Basic {base64.b64encode(unquote(found[2]).encode()).decode()}" if found else ""
    address = web.check_url(url if found is None else found[1] + url[found.end() :])
    file = RemoteFile(Address(web.redact_url(address)), address, login)
    return _repeated(lambda: _request(file, address, 0, HEADER), opening=True)[1]


def read_small(url: str, like: RemoteFile, most: int) -> bytes | None:
    """Read a whole file that is next to another one.

    Args:
        url: Address of the file.
        like: The other file, whose login is used.
        most: Maximum size in bytes.

    Returns:
        The contents, or None if there is no such file, it is larger, or the server denies access.

    Raises:
        DataError: If the server can't be reached, or reports an error.
    """

    def attempt() -> bytes | None:
        with web.get(url, {}, timeout=web.TIMEOUT, login=like.login) as answer:
            if answer.status != 200:
                error = web.refuse_status(answer)
                if isinstance(error, BrokenError):
                    raise error
                return None
            length, content = answer.length, _body(answer, most)
            if len(content) > most:
                return None
            if length is not None and len(content) < length:
                raise _truncated(answer.where, len(content), length)
            return content

    return _repeated(attempt)


class RemoteStream(io.RawIOBase):
    """File on a server, opened for reading. It reads ahead a little, and skips what is not requested.

    Args:
        file: The file.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._place = file, 0
        self._start, self._block = 0, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, relative to the start, the position or the end, and return it."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer at the end of the file, or all remaining ones.

        Raises:
            DataError: If they can't be read.
        """
        if size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header has {size:,} bytes")
        start, end = self._place, self._file.size if size < 0 else min(self._place + size, self._file.size)
        if start >= end:
            return b""
        if not self._start <= start <= end <= self._start + len(self._block):
            self._block = self._file.read(start, min(max(end, start + _AHEAD), self._file.size))
            self._start = start
        self._place = end
        return self._block[start - self._start : end - self._start]


def _begins(content: bytes, name: str, size: int) -> bool:
    """Return whether bytes of an archive begin with the header of a member."""
    try:
        header = tarfile.TarInfo.frombuf(content[:HEADER], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    same_name = header.name.lstrip("/") == name
    too_long = len(name.encode("utf-8", "surrogateescape")) >= _NAME
    return header.isfile() and header.size == size and (same_name or too_long)


def _request(file: RemoteFile, url: str, start: int, end: int) -> tuple[bytes, RemoteFile, str]:
    """Read a range of a file once.

    Args:
        file: The file. If its size is 0, size and version are not known yet.
        url: Its address, or the address that it redirects to.
        start: First byte.
        end: Byte after the last one.

    Returns:
        The bytes, the file with the size and version of the response, and the address after redirects.

    Raises:
        DataError: If the server sends anything else, or a different version of the file.
    """
    login = file.login if url == file.url else ""
    with web.get(url, {"Range": f"bytes={start}-{end - 1}"}, timeout=web.TIMEOUT, login=login) as answer:
        where = answer.where if url == file.url else str(file.address)
        if answer.status == 416 and file.size:
            raise _changed(file)
        if answer.status == 200:
            raise DataError(
                f"{where}: the server doesn't support range requests (it responded with 200 instead of 206). Use "
                "another server, or copy the shards to a folder."
            )
        if answer.status != 206:
            _refuse(answer)
        found = web.CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        compressed = answer.headers.get("Content-Encoding", "identity").lower() != "identity"
        if found is None or found[3] == "*" or compressed:
            raise DataError(f"{where}: the server's response to a range request is invalid. Use another server.")
        size, version = int(found[3]), answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if file.size and (size, version) != (file.size, file.version):
            raise _changed(file)
        last = min(end, size)
        if (int(found[1]), int(found[2]) + 1) != (start, last):
            raise DataError(f"{where}: the server sent a different range than was requested. Use another server.")
        content = _body(answer, last - start)
        if len(content) > last - start:
            raise DataError(f"{where}: the server sent more than was asked for. Use another server.")
        if len(content) < last - start:
            raise _truncated(where, len(content), last - start)
        return content, RemoteFile(file.address, file.url, file.login, size, version), answer.url


def _body(answer: web.Answer, most: int) -> bytes:
    """Return the body of a response. Of a body longer than `most`, return a beginning that is longer too."""
    blocks = []
    for block in answer.blocks():
        blocks.append(block)
        most -= len(block)
        if most < 0:
            break
    return b"".join(blocks)


def _refuse(answer: web.Answer) -> NoReturn:
    error = web.refuse_status(answer)
    if answer.status in _DENIED:
        raise WebError(f"{error} If its signature or token has expired, renew it in dataset.toml.")
    raise error


def _changed(file: RemoteFile) -> DataError:
    return DataError(
        f"{file.address}: has changed on the server since it was opened. Restore it, or start again with the new shard."
    )


def _truncated(where: str, count: int, expected: int) -> BrokenError:
    return BrokenError(f"{where}: the body ended after {count:,} of {expected:,} bytes")


def _repeated(action: Callable[[], _T], *, opening: bool = False) -> _T:
    """Call a function again after a pause if it failed for a passing reason.

    Args:
        action: The function.
        opening: Whether the server was not reached before. If it can't be reached, the address may be wrong.
    """
    for tries, pause in enumerate((*web.PAUSES, None), 1):
        try:
            return action()
        except (BrokenError, UnreachableError) as error:
            if pause is None or (opening and isinstance(error, UnreachableError)):
                times = f", {tries} times" if tries > 1 else ""
                raise DataError(f"{str(error).rstrip('.')}{times}. Check the network and the server.") from None
            if tries > 1:
                _warn(f"{str(error).rstrip('.')}; trying again")
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _warn(message: str) -> None:
    """Log a warning, unless the last one is recent: all threads meet the same fault."""
    global _warned
    now = time.monotonic()
    if now - _warned > _WARN_SECONDS:
        _warned = now
        _logger.warning("%s", message)
