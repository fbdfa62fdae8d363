"""A pause for Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For work that makes thousands of objects, none of them garbage, in a short time.

    They would make Python search all of torch's objects for garbage, again and again: more than half of the time that
    loading a network takes. What is freed by reference counting is freed as ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
