"""Whether the process keeps the memory that a call frees, for the next call, and in pages of which size.

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
# The advice of madvise(2), from Linux's mman.h.
_HUGEPAGE = 14
# How much of what the process allocates next may come in large pages: the maps of large calls. Addresses, no memory.
_IN_LARGE_PAGES = 1 << 30
_LARGE_PAGE = 1 << 21


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed from now on, for the whole process, and the system to back it by large pages.

    False where the C library is another one. `ctypes.CDLL(None).malloc_trim(0)` gives the memory back when wanted.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is None or not (mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_MMAP_MAX, 0)):
        return False
    _ask_for_large_pages(library)
    return True


def _ask_for_large_pages(library: ctypes.CDLL) -> None:
    """For the heap's next _IN_LARGE_PAGES: grown by as much, it keeps the addresses when they are free again.

    A processor keeps the addresses of so few pages at hand that maps in pages of 4 KiB make it look them up all the
    time. A system may refuse.
    """
    library.malloc.restype = ctypes.c_void_p
    start = library.malloc(ctypes.c_size_t(_IN_LARGE_PAGES))
    if start is None:  # a limit on addresses
        return
    first = -(-start // _LARGE_PAGE) * _LARGE_PAGE
    length = (start + _IN_LARGE_PAGES - first) // _LARGE_PAGE * _LARGE_PAGE
    library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _HUGEPAGE)
    library.free(ctypes.c_void_p(start))
