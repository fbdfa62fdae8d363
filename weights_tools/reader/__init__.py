"""Read checkpoints of any container format without executing anything in them.

`open_checkpoint` opens a file, or an index and the files that it lists. It recognises the format by content, not by
name, and returns a tree of inert values (`reader.values`). `TensorReader` turns described tensors into real ones.
"""

from weights_tools.reader.container import Container
from weights_tools.reader.session import open_checkpoint, open_content, prefix_errors, read_container
from weights_tools.reader.source import Content, Source
from weights_tools.reader.tensors import TensorReader, check_bounds

__all__ = [
    "Container",
    "Content",
    "Source",
    "TensorReader",
    "check_bounds",
    "open_checkpoint",
    "open_content",
    "prefix_errors",
    "read_container",
]
