"""Frames from one process to another through shared memory; `cpp/include/segnets/frame_ring.h` has the bytes."""

from segnets.frame_ring._layout import FrameLayout
from segnets.frame_ring._ring import FrameRing
from segnets.frame_ring._views import Frame, Slot

__all__ = ["Frame", "FrameLayout", "FrameRing", "Slot"]
