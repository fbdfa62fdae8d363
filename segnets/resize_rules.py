"""Rules for the size of an image at the network's input: their sizes, their checks, and their form as text.

`segnets.preprocessing` applies them.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeGuard

RESIZE_RULES = ("short_side", "fixed", "scale", "none")
DEFAULT_SHORT_SIDE = 520
MIN_SCALE, MAX_SCALE = 0.1, 10.0
_FACTOR = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def scaled_side(side: int, factor: float) -> int:
    """Return a side of an image multiplied by a factor: max(1, floor(side * factor + 0.5)) in float64. Scriptable.

    Python, TorchScript (also in C++) and ONNX compute the same number. A half is rounded up.
    """
    return max(1, math.floor(float(side) * factor + 0.5))


def parse_resize(text: str) -> dict[str, Any]:
    """Return `resize` and `size` of a Preprocessing for a rule as text.

    Args:
        text: "520" (the short side), "480x640" (height x width), "x2" (2 times the image's height and width) or "none".

    Raises:
        ValueError: If the text is none of these, a side is not 1 to 65536 pixels, or a factor not 0.1 to 10.
    """
    sides = text.split("x")
    if text == "none":
        return {"resize": "none", "size": None}
    if text.startswith("x") and len(text) > 1 and len(sides) == 2:
        factor = float(sides[1]) if _FACTOR.fullmatch(sides[1]) else math.nan
        if not _is_factor(factor):
            raise ValueError("expected a factor from 0.1 to 10 after the x, for example x2 or x0.5")
        return {"resize": "scale", "size": factor}
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() and len(side) < 6 for side in sides):
        raise ValueError("expected 520 (the short side), 480x640 (height x width), x2 (twice the image's size) or none")
    pixels = [int(side) for side in sides]
    if not all(map(_is_pixels, pixels)):
        raise ValueError("expected sides of 1 to 65536 pixels")
    if len(pixels) == 1:
        return {"resize": "short_side", "size": pixels[0]}
    return {"resize": "fixed", "size": (pixels[0], pixels[1])}


def checked_size(resize: str, size: object) -> int | float | tuple[int, int] | None:
    """Return the size of a rule: pixels of the short side, (height, width), a factor, or None to keep the size.

    Args:
        resize: One of `RESIZE_RULES`.
        size: Size as given; None for the default of "short_side".

    Raises:
        ValueError: If the rule has no such size.
    """
    if resize == "none":
        if size is not None:
            raise ValueError(f"size={size!r} with resize='none': expected None, the image keeps its size")
        return None
    if resize == "short_side":
        size = DEFAULT_SHORT_SIDE if size is None else size
        if not isinstance(size, int) or not _is_pixels(size):
            raise ValueError(f"size={size!r} with resize='short_side': expected one whole number of pixels, 1..65536")
        return size
    if resize == "scale":
        if not _is_factor(size):
            raise ValueError(f"size={size!r} with resize='scale': expected a factor from 0.1 to 10")
        return float(size)
    if not isinstance(size, (tuple, list)) or len(size) != 2 or not all(map(_is_pixels, size)):
        raise ValueError(f"size={size!r} with resize='fixed': expected (height, width) in pixels, 1..65536 each")
    return (size[0], size[1])


def _is_pixels(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65536


def _is_factor(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and MIN_SCALE <= value <= MAX_SCALE
