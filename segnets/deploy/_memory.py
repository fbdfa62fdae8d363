"""Keep the memory that a call frees for the next call.

Feature maps are large, and the C library returns such memory to the system as soon as it is freed. The next call then
gets new pages, which the system first fills with zeros: up to half of a call's time. Other runtimes keep their own
arena for this reason.
"""

from __future__ import annotations

import ctypes
import sys

# The parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc to keep memory that is freed from now on, for the whole process.

    `ctypes.CDLL(None).malloc_trim(0)` returns it to the system.

    Returns:
        False if the C library is not glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_MMAP_MAX, 0))
