"""Reading checkpoints of any container format without running anything of them.

`open_content` opens a file, or an index and the files that it lists; `read_container` looks at the content, not at
names, and gives a tree of inert values (`reader.values`); `TensorReader` makes tensors of the described ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from weights_tools.reader.container import Container
from weights_tools.reader.shards import Shards, open_shards, read_shards
from weights_tools.reader.single import kind_of_file, read_file
from weights_tools.reader.source import Content, Source

__all__ = ["Container", "Content", "Source", "open_content", "read_container"]


@contextlib.contextmanager
def open_content(path: str | os.PathLike[str]) -> Iterator[Source | Shards]:
    """Open a checkpoint: one file, or the index of a checkpoint in several files, with all of them.

    Raises WeightsError with a reason that has the file for its subject.
    """
    with Source(path) as source:
        if kind_of_file(source) != "index":
            yield source
            return
        with open_shards(source) as shards:
            yield shards


def read_container(content: Source | Shards, *, data: bool = True) -> Container:
    """Read the structure of a checkpoint.

    data: bring everything into memory, compute its hash, and check what checksums it has. Without it only the
    directories and the pickles are read.

    Raises WeightsError with a reason that has the file for its subject ("it is empty"); the caller names the file.
    """
    if isinstance(content, Shards):
        return read_shards(content, data=data)
    return read_file(content, data=data)
