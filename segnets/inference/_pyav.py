"""Import of PyAV, and constants shared by the video reader and writer."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from segnets.errors import ImageError

# Threads per decoder or encoder. Each thread holds one frame.
THREADS = min(4, os.cpu_count() or 1)

BT709 = 1  # in ITU-T H.273, for the matrix, the primaries and the transfer curve


def load_pyav() -> ModuleType:
    """Import PyAV.

    Raises:
        ImageError: If PyAV is not installed.
    """
    try:
        return import_module("av")
    except ImportError:
        raise ImageError("video needs PyAV, which is not installed: pip install 'segnets[video]'") from None
