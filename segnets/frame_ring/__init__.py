"""Frames from one process to another through shared memory; `cpp/include/segnets/frame_ring.h` has the bytes."""

from segnets.frame_ring.layout import FrameLayout
from segnets.frame_ring.ring import FrameRing
from segnets.frame_ring.views import Frame, Slot

__all__ = ["Frame", "FrameLayout", "FrameRing", "Slot"]
