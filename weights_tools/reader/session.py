"""Open a checkpoint, read its structure, and name the file in every error raised meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from segnets.errors import WeightsError
from weights_tools.reader._single_file import kind_of_file, read_file
from weights_tools.reader.container import Container
from weights_tools.reader.shards import Shards, open_shards, part_of_several, read_shards
from weights_tools.reader.source import Content, Source


@contextlib.contextmanager
def prefix_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Prefix the message of every WeightsError raised inside the `with` with the file's name."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except MemoryError:
        raise WeightsError(f"{path}: there is not enough memory to read the file") from None


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str], *, data: bool = True) -> Iterator[tuple[Content, Container]]:
    """Open a checkpoint and read its structure; errors raised inside the `with` name the file.

    Args:
        path: A checkpoint file, or the index of a checkpoint in several files.
        data: Whether to read all bytes into memory, as in `read_container`.

    Yields:
        The bytes of the checkpoint and its structure.

    Raises:
        WeightsError: If the file can't be read, is not a checkpoint, or is damaged.
    """
    with prefix_errors(path), _append_hint(part_of_several(Path(path))) as hint, open_content(path) as content:
        container = read_container(content, data=data)
        container.notes += hint
        yield content, container


@contextlib.contextmanager
def _append_hint(hint: str | None) -> Iterator[list[str]]:
    """Append `hint` as a sentence to the first line of every WeightsError raised inside the `with`."""
    try:
        yield [hint] if hint is not None else []
    except WeightsError as error:
        first, newline, rest = str(error).partition("\n")
        if hint is None:
            raise
        sentence = f"{hint[0].upper()}{hint[1:]}."
        raise WeightsError(f"{first.removesuffix('.')}. {sentence}{newline}{rest}") from None


@contextlib.contextmanager
def open_content(path: str | os.PathLike[str]) -> Iterator[Source | Shards]:
    """Open a checkpoint: one file, or an index together with the files that it lists.

    Raises:
        WeightsError: If the file can't be opened. The message lacks the file's name; see `prefix_errors`.
    """
    with Source(path) as source:
        if kind_of_file(source) != "index":
            yield source
            return
        with open_shards(source) as shards:
            yield shards


def read_container(content: Source | Shards, *, data: bool = True) -> Container:
    """Read the structure of a checkpoint.

    Args:
        content: The checkpoint's bytes, from `open_content`.
        data: Whether to read all bytes into memory, compute their hash and verify the format's checksums, if any.
            Otherwise only directories and pickles are read.

    Raises:
        WeightsError: If the content is not a checkpoint or is damaged. The message lacks the file's name; see
            `prefix_errors`.
    """
    if isinstance(content, Shards):
        return read_shards(content, data=data)
    return read_file(content, data=data)
