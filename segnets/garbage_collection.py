"""Pause Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable the cyclic garbage collector inside a `with` block.

    Building thousands of objects makes Python scan all of torch's objects for cycles repeatedly, which takes more than
    half of the time to load a network. Reference counting still frees objects as usual.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
