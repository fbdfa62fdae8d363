"""Keep the memory that a call frees for the next call.

Feature maps are large, and the C library returns such memory to the system as soon as it is freed. The next call then
gets new pages, which the system first fills with zeros. This takes up to a third of the time of a batch. Other runtimes
keep an arena of their own for this reason.
"""

from __future__ import annotations

import ctypes
import logging
import sys

# The parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_LARGEST = 2**31 - 1
_logger = logging.getLogger("segnets")
_keeps = False


def keep_freed_memory() -> bool:
    """Ask glibc to keep memory that is freed from now on, for the whole process.

    The first call logs this to "segnets" at level INFO. `ctypes.CDLL(None).malloc_trim(0)` returns the memory to the
    system.

    Returns:
        False if the C library is not glibc.
    """
    global _keeps
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not (mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_MMAP_MAX, 0)):
        return False
    if not _keeps:
        _keeps = True
        _logger.info(
            "from now on, this whole process keeps the memory that it frees (mallopt), so calls of exports don't wait "
            "for new pages; load_exported(..., keep_memory=False) leaves malloc as it is"
        )
    return True
