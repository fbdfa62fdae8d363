"""The errors and warnings that a user of segnets meets.

Each message is meant to be read by a person: what is wrong, where, what is allowed, what to do.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType


class SegnetsError(Exception):
    """Bad input of any kind; a command prints its message as one line and exits with 1."""


class WeightsError(SegnetsError, ValueError):
    """Weights that can't be found, read or trusted, or that don't fit the model."""


class UnsupportedOptionError(ValueError, NotImplementedError):
    """A builder's option that this network can't have.

    torchvision's builders raise NotImplementedError for it, and programs that change their import may catch that; other
    options that can't be had are a ValueError, and so is this one.
    """


class OutputError(SegnetsError, OSError):
    """A file that can't be written where it was asked for. What was there before is untouched."""


class ExportError(SegnetsError, RuntimeError):
    """An export that can't be made, or whose reloaded file disagrees with the model."""


class ImageError(SegnetsError, ValueError):
    """An image that can't be read, or a tensor that is not the image it should be."""


class FrameRingError(SegnetsError, RuntimeError):
    """A ring of frames that can't be made, opened or trusted, or a call that doesn't fit its state."""


class PeerGoneError(FrameRingError):
    """Nothing is left to wait for: the other side of the ring has gone.

    state: "closed" when it said that it was done, "died" when its process ended without saying so.
    """

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


def warn_caller(message: str) -> None:
    """Warn (UserWarning) at the line outside this package that called into it."""
    depth = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("segnets.", "weights_tools.")):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, stacklevel=depth)
