"""Exceptions and warnings raised by segnets.

Every message names the file or argument, what is wrong, what is allowed, and what to do.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType


class SegnetsError(Exception):
    """Base class for errors caused by bad input. Commands print the message and exit with status 1."""


class WeightsError(SegnetsError, ValueError):
    """Weights that can't be found, read or trusted, or that don't fit the model."""


class UnsupportedOptionError(ValueError, NotImplementedError):
    """A builder option that this network does not support.

    Also a NotImplementedError, because torchvision's builders raise that, and a ValueError like all other rejected
    options.
    """


class OutputError(SegnetsError, OSError):
    """A file that can't be written to the requested path. An existing file there is left untouched."""


class ExportError(SegnetsError, RuntimeError):
    """An export that fails, or whose reloaded file disagrees with the model."""


class ImageError(SegnetsError, ValueError):
    """An image that can't be read, or a tensor with the wrong shape or dtype for an image."""


class DataError(SegnetsError, ValueError):
    """A data set that can't be read, or whose images, masks and classes contradict each other."""


class PredictError(SegnetsError, ValueError):
    """Arguments of a prediction that contradict each other or the model, or that this machine can't fulfil."""


class ForkError(SegnetsError, RuntimeError):
    """A call in a process that was forked after a network had run in several threads, which would never return."""


class TrainingError(SegnetsError, ValueError):
    """Training options that are unknown, not allowed, or contradict each other, the data or the model."""


class FrameRingError(SegnetsError, RuntimeError):
    """A frame ring that can't be created, opened or trusted, or a call that is invalid in its state."""


class PeerGoneError(FrameRingError):
    """Waiting for the other side of a frame ring that has ended and would never respond.

    Attributes:
        state: "closed" if the peer closed the ring, "died" if its process ended without closing it.
    """

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


def warn_caller(message: str) -> None:
    """Issue a UserWarning that points to the caller's line outside segnets and weights_tools."""
    depth = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("segnets.", "weights_tools.")):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, stacklevel=depth)
