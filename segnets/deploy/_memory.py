"""Whether the process keeps the memory that a call frees, for the next call.

A network's maps are large, and the C library gives such memory back to the system as soon as it is free. The next call
gets other pages, which the system first fills with zeros: up to half of a call's time. Other runtimes keep an arena of
their own for that.
"""

from __future__ import annotations

import ctypes
import sys

# The parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed from now on, for the whole process; False where the C library is another one.

    `ctypes.CDLL(None).malloc_trim(0)` gives it back when wanted.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_MMAP_MAX, 0))
