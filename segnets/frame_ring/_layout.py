"""Encode the fixed part of a frame ring's header, and decode it from untrusted bytes.

`cpp/include/segnets/frame_ring.h` documents the format, and `cpp/src/frame_layout.cpp` implements it in C++.
"""

from __future__ import annotations

import math
import operator
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segnets.errors import FrameRingError

HEADER_SIZE = 4096
FIXED_SIZE = 184  # bytes from `encode`; the counters follow at fixed offsets
WRITTEN, PRODUCER_STATE, READ, CONSUMER_STATE = 256, 264, 320, 328  # 8 bytes each
SLOT_HEADER = 64

_MAGIC = b"\x89segring"
_VERSION = 1
_FIXED = struct.Struct("<8sIIII8q8qqQQI")  # without the checksum at the end
_DTYPES = ("uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")  # codes 1..8
_MAX_NDIM, _MAX_FRAME, _MAX_SLOTS = 8, 1 << 40, 1 << 20
_HAS_CHECKSUM, _LATEST = 1, 2  # flags
_ADVICE = "; remove the file and create the ring again"


@dataclass(frozen=True)
class FrameLayout:
    """Layout of all frames of a ring. `make_layout` and `decode` create checked layouts.

    Attributes:
        shape: Shape of a frame, 1 to 8 dimensions.
        dtype: Name of a NumPy dtype.
        slots: Number of frames that the ring holds.
        strides: Bytes from one index to the next, per dimension.
        checksum: Whether frames have a CRC-32.
        latest: Whether the producer overwrites frames that were not read.
    """

    shape: tuple[int, ...]
    dtype: str
    slots: int
    strides: tuple[int, ...]
    checksum: bool
    latest: bool = False

    @property
    def frame_size(self) -> int:
        """Bytes from the first item to the end of the last one, including gaps."""
        item = np.dtype(self.dtype).itemsize
        return item + sum((count - 1) * stride for count, stride in zip(self.shape, self.strides, strict=True))

    @property
    def slot_size(self) -> int:
        """Bytes of a slot: its header and a frame, rounded up to a multiple of 64."""
        return -(-(SLOT_HEADER + self.frame_size) // 64) * 64

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return HEADER_SIZE + self.slots * self.slot_size

    def __str__(self) -> str:
        checksum = "CRC-32" if self.checksum else "no checksum"
        latest = ", latest frame only" if self.latest else ""
        return (
            f"{self.dtype} {_show(self.shape)}, strides {_show(self.strides)}, {self.slots} slots, {checksum}{latest}"
        )


def make_layout(
    path: str,
    shape: Sequence[int],
    dtype: object,
    slots: int,
    strides: Sequence[int] | None,
    checksum: bool,
    latest: bool = False,
) -> FrameLayout:
    """Check the arguments of a new ring and return its layout.

    Args:
        path: Path of the ring, for error messages.
        shape: Shape of a frame.
        dtype: NumPy or torch dtype, or its name.
        slots: Number of frames that the ring holds.
        strides: Bytes from one index to the next, per dimension, or None for C order.
        checksum: Whether frames have a CRC-32.
        latest: Whether the producer overwrites frames that were not read.

    Returns:
        The layout.

    Raises:
        FrameRingError: If an argument is not allowed.
    """
    name = _dtype_name(path, dtype)
    try:  # operator.index accepts NumPy's integers as well
        counts = tuple(map(operator.index, shape))
        steps = None if strides is None else tuple(map(operator.index, strides))
        room = operator.index(slots)
    except TypeError:
        raise FrameRingError(
            f"{path}: shape={shape!r}, slots={slots!r}, strides={strides!r}, expected whole numbers"
        ) from None
    for option, value in (("checksum", checksum), ("latest", latest)):
        if value not in (True, False):
            raise FrameRingError(f"{path}: {option}={value!r}, expected True or False")
    return _checked(path, "", counts, name, room, steps, bool(checksum), bool(latest))


def encode(layout: FrameLayout) -> bytes:
    """Return the first FIXED_SIZE bytes of the ring's file."""
    rest = (0,) * (_MAX_NDIM - len(layout.shape))
    fixed = _FIXED.pack(
        _MAGIC,
        _VERSION,
        HEADER_SIZE,
        _DTYPES.index(layout.dtype) + 1,
        len(layout.shape),
        *layout.shape,
        *rest,
        *layout.strides,
        *rest,
        layout.slots,
        layout.frame_size,
        layout.slot_size,
        layout.checksum * _HAS_CHECKSUM + layout.latest * _LATEST,
    )
    return fixed + struct.pack("<I", zlib.crc32(fixed))


def decode(header: bytes, size: int, path: str) -> FrameLayout:
    """Decode and check the fixed part of a header.

    Args:
        header: The first FIXED_SIZE bytes of the file.
        size: Size of the file in bytes.
        path: Path of the ring, for error messages.

    Returns:
        The layout.

    Raises:
        FrameRingError: If the header is damaged or does not describe a file of this size.
    """

    def refuse(what: str) -> FrameRingError:
        return FrameRingError(f"{path}: {what}{_ADVICE}")

    numbers = _FIXED.unpack_from(header.ljust(FIXED_SIZE, b"\0"))
    magic, version, header_size, code, ndim = numbers[:5]
    slots, frame_size, slot_size, flags = numbers[21:]
    if magic != _MAGIC:
        raise FrameRingError(
            f"{path}: is not a frame ring (wrong magic bytes); pass the file that the other side created"
        )
    if version != _VERSION:
        raise FrameRingError(
            f"{path}: has version {version}, but this program reads {_VERSION}; use one version of segnets on both "
            "sides"
        )
    if size < HEADER_SIZE:
        raise refuse(f"is {size} bytes, but a frame ring has at least {HEADER_SIZE}")
    if zlib.crc32(header[: _FIXED.size]) != struct.unpack_from("<I", header, _FIXED.size)[0]:
        raise refuse("its header is damaged (wrong checksum)")
    if header_size != HEADER_SIZE:
        raise refuse(f"header_size={header_size}, expected {HEADER_SIZE}")
    if not 1 <= ndim <= _MAX_NDIM:
        raise refuse(f"ndim={ndim}, expected 1..{_MAX_NDIM}")
    if any(numbers[5 + ndim : 13] + numbers[13 + ndim : 21]):
        raise refuse(f"its shape or strides continue past ndim={ndim}")
    if not 1 <= code <= len(_DTYPES):
        raise refuse(f"type={code}, expected 1..{len(_DTYPES)}")
    shape, strides = numbers[5 : 5 + ndim], numbers[13 : 13 + ndim]
    has_checksum, latest = bool(flags & _HAS_CHECKSUM), bool(flags & _LATEST)
    layout = _checked(path, _ADVICE, shape, _DTYPES[code - 1], slots, strides, has_checksum, latest)
    if flags > _HAS_CHECKSUM | _LATEST:
        raise refuse(f"flags={flags}, expected 0..3")
    if frame_size != layout.frame_size:
        raise refuse(f"frame_size={frame_size}, but its shape and strides give {layout.frame_size}")
    if slot_size != layout.slot_size:
        raise refuse(f"slot_size={slot_size}, but its frame_size gives {layout.slot_size}")
    if size != layout.file_size:
        raise refuse(f"is {size} bytes, but its header describes {layout.file_size}")
    return layout


def _dtype_name(path: str, dtype: Any) -> str:
    """Return the NumPy name of a NumPy or torch dtype, or of its name."""
    try:
        found = np.dtype(str(dtype).removeprefix("torch.") if "torch." in str(dtype) else dtype)
    except TypeError:
        found = None
    if dtype is None:  # NumPy treats None as float64
        found = None
    if found is None or found.name not in _DTYPES or not found.isnative:
        raise FrameRingError(f"{path}: dtype={dtype!r}, expected one of {', '.join(_DTYPES)}")
    return str(found.name)


def _checked(
    path: str,
    advice: str,
    shape: tuple[int, ...],
    dtype: str,
    slots: int,
    strides: Sequence[int] | None,
    checksum: bool,
    latest: bool,
) -> FrameLayout:
    """Build a layout after checking the values. Python integers can't overflow, so no bounds are needed beforehand."""

    def refuse(what: str) -> FrameRingError:
        return FrameRingError(f"{path}: {what}{advice}")

    item = np.dtype(dtype).itemsize
    if not 1 <= len(shape) <= _MAX_NDIM:
        raise refuse(f"ndim={len(shape)}, expected 1..{_MAX_NDIM}")
    if not all(count >= 1 for count in shape):
        raise refuse(f"shape={_show(shape)}, expected numbers of at least 1")
    if not 1 <= slots <= _MAX_SLOTS:
        raise refuse(f"slots={slots}, expected 1..{_MAX_SLOTS}")
    if latest and slots < 2:
        raise refuse("slots=1, expected at least 2 for a ring of the latest frame")
    if strides is None:
        strides = [item * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    if len(strides) != len(shape):
        raise refuse(f"strides={_show(strides)} for shape={_show(shape)}, expected as many numbers")
    if not all(stride >= 1 and stride % item == 0 for stride in strides):
        raise refuse(f"strides={_show(strides)}, expected multiples of the item size, {item}")
    layout = FrameLayout(shape, dtype, slots, tuple(strides), checksum, latest)
    if layout.frame_size > _MAX_FRAME:
        raise refuse(f"shape={_show(shape)}, expected a frame of at most 1 TiB")
    # In order of the strides, each dimension must step over the extent of all smaller ones.
    extent = item
    for stride, count in sorted(zip(strides, shape, strict=True)):
        if count > 1 and stride < extent:
            raise refuse(f"strides={_show(strides)} for shape={_show(shape)} make items overlap")
        extent += stride * (count - 1)
    return layout


def _show(numbers: Sequence[int]) -> str:
    return f"({', '.join(map(str, numbers))})"
