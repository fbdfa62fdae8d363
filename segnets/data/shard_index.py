"""Positions of the members of tar archives, on disk and on servers.

For an archive on a server, they come from the first of these:

- the cache folder of torch.hub, if the archive's size and version (ETag or Last-Modified) have not changed,
- the file NAME.idx next to NAME.tar, in the format v1.2 of NVIDIA DALI's wds2idx, if it fits the archive,
- the headers in the archive, read by range requests that skip the contents.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit, urlunsplit

from segnets.data.remote import HEADER, RemoteFile, RemoteStream, open_remote, read_small
from segnets.data.threads import Readers
from segnets.errors import DataError, OutputError
from segnets.files import atomic_write

Members = list[tuple[str, int, int]]  # name, offset and size of each file in an archive
_THREADS = 16
_IDX_VERSION = "v1.2"
_INVALID = [("", "0", "0", "")]
_MOST_VERIFIED = 50  # members per index, each with a request
# Extension, offset, size and name. The name may contain spaces; it ends where the next extension and numbers follow.
_IDX_MEMBER = re.compile(r"(\S*+) ([0-9]{1,18}) ([0-9]{1,18}) (.+?)(?: (?=\S*+ [0-9]{1,18} [0-9]{1,18} )|$)")


def list_members(path: Path, file: IO[bytes] | None = None) -> Members:
    """List the files in a tar archive by reading their headers.

    Args:
        path: Path of the archive.
        file: The archive, opened for reading, or None to open `path`.

    Raises:
        DataError: If the archive can't be read.
    """
    try:
        if file is None and not path.is_file():
            if not path.exists():
                braces = " Wildcards are not expanded; write {000000..000099}." if "*" in path.name else ""
                raise DataError(f"{path}: does not exist. Correct [shards] in dataset.toml.{braces}")
            raise OSError("not a file")  # a pipe would be waited for
        with tarfile.open(None if file else path, "r:", fileobj=file) as tar:
            return [(member.name, member.offset_data, member.size) for member in _checked(path, tar)]
    except DataError:  # also a ValueError
        raise
    except (OSError, tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{path}: can't be read as a tar archive ({error}). Copy it again; compressed shards must be unpacked."
        ) from None


def _checked(path: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files in an archive."""
    for member in tar:
        if member.size < 0:  # tarfile would go back, and perhaps never end
            raise tarfile.ReadError(f"the size of {member.name!r} is negative")
        if member.issparse():
            raise DataError(
                f"{path}: {member.name!r} is stored as a sparse file, without its zeros. Pack the shard again, without "
                "--sparse."
            )
        if member.isfile():
            yield member


def open_archives(
    urls: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> Generator[tuple[RemoteFile, Members]]:
    """Open archives on servers and list their members, several archives at a time.

    Args:
        urls: Addresses of the archives.
        progress: Callback (done, total) that receives numbers of archives.

    Yields:
        Each archive with its members, in the order of `urls`.

    Raises:
        DataError: If an archive or its index can't be read.
    """
    with Readers(min(_THREADS, len(urls))) as readers:
        for done, each in enumerate(readers.map(_open, urls), 1):
            if progress is not None:
                progress(done, len(urls))
            yield each


def _open(url: str) -> tuple[RemoteFile, Members]:
    file = open_remote(url)
    path = _cache_file(file)
    if path is None:
        return file, _members(file)
    file = replace(file, index=path)
    members = _from_cache(path, file)
    if members is None:
        members = _members(file)
        with contextlib.suppress(OutputError, OSError):  # a cache that can't be written only costs time
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, durable=False) as target:
                target.write(json.dumps({"address": str(file.address), "members": members}).encode())
    return file, members


def _members(file: RemoteFile) -> Members:
    members = _from_idx(file)
    if members is None:
        members = list_members(file.address, cast(IO[bytes], RemoteStream(file)))
    return members


def _cache_file(file: RemoteFile) -> Path | None:
    """Return the path of an archive's index in the cache, or None if the home folder is unknown."""
    import torch

    hub = str(torch.hub.get_dir())
    # The query is often a signature that changes. Without a version, it must be the same.
    key = json.dumps([str(file.address) if file.version else file.url, file.size, file.version])
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    return None if hub.startswith("~") else Path(hub) / "segnets" / "shards" / name


def _from_cache(path: Path, file: RemoteFile) -> Members | None:
    try:
        members = [(name, offset, size) for name, offset, size in json.loads(path.read_bytes())["members"]]
        return members if all(_is_inside(file, *member) for member in members) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _from_idx(file: RemoteFile) -> Members | None:
    """Read the index next to an archive. Return None if there is none, or it doesn't fit the archive.

    wds2idx gives wrong positions to members in front of pax headers, which Python's tarfile writes.
    """
    parts = urlsplit(file.url)
    if not parts.path.endswith(".tar"):
        return None
    content = read_small(
        urlunsplit(parts._replace(path=f"{parts.path.removesuffix('.tar')}.idx")), file, most=file.size
    )
    lines = (content or b"").decode("utf-8", "replace").splitlines()
    # Older versions have no names. wds2idx writes names that are not ASCII as escapes of tar.
    if not lines or lines[0].split() != [_IDX_VERSION, str(len(lines) - 1)] or b"\\" in (content or b""):
        return None
    members = [(name, int(offset), int(size)) for line in lines[1:] for _, offset, size, name in _parsed(line)]
    if not all(_is_inside(file, *member) for member in members) or not _are_all(file, members):
        return None
    doubtful = _doubtful(members)
    return members if len(doubtful) <= _MOST_VERIFIED and all(file.has(*member) for member in doubtful) else None


def _are_all(file: RemoteFile, members: Members) -> bool:
    """Return whether the archive ends after its last member, so that none was added after an index was made."""
    end = max((offset + size for _, offset, size in members), default=0)
    end += -end % HEADER
    return end >= file.size or not any(file.read(end, min(end + HEADER, file.size)))


def _doubtful(members: Members) -> Members:
    """Return the first and the last member, and those that don't follow directly on the one before."""
    ordered = sorted(members, key=lambda member: member[1])
    doubtful, expected = [*ordered[-1:]], HEADER
    for member in ordered:
        _, offset, size = member
        if offset != expected or expected == HEADER:
            doubtful.append(member)
        expected = offset + -(-size // HEADER) * HEADER + HEADER
    return doubtful


def _parsed(line: str) -> list[tuple[str, str, str, str]]:
    """Return extension, offset, size and name of each member in a line of an index, or one invalid member."""
    found: list[tuple[str, str, str, str]] = []
    place = 0
    while place < len(line):
        match = _IDX_MEMBER.match(line, place)
        if match is None:
            return _INVALID
        extension, offset, size, name = match.groups()
        if name.rpartition("/")[2].partition(".")[2] != extension:
            return _INVALID
        found.append((extension, offset, size, name))
        place = match.end()
    return found or _INVALID


def _is_inside(file: RemoteFile, name: object, offset: object, size: object) -> bool:
    """Return whether a member's place is possible in an archive."""
    if not isinstance(name, str) or not isinstance(offset, int) or not isinstance(size, int):
        return False
    return bool(name) and offset >= HEADER and offset % HEADER == 0 and 0 <= size <= file.size - offset
