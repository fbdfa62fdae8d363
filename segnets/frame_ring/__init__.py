"""Transfer of frames between two processes through shared memory.

The header `cpp/include/segnets/frame_ring.h` documents the file format.
"""

from segnets.frame_ring._layout import FrameLayout
from segnets.frame_ring._ring import FrameRing
from segnets.frame_ring._views import Frame, Slot

__all__ = ["Frame", "FrameLayout", "FrameRing", "Slot"]
