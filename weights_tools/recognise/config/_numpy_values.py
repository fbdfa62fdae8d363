"""Read small NumPy arrays and numbers from the calls recorded in a pickle, without executing the calls.

Format: numpy 2 `ndarray.__reduce__` and `generic.__reduce__`; torch.save writes protocol 2, whose bytes are Latin-1.
"""

from __future__ import annotations

from typing import Literal, TypeGuard

from segnets.card import Colour
from weights_tools.reader.values import Foreign, Value

_MAX_NUMBERS = 1 << 16
_DTYPES = {"u1": (1, False), "i1": (1, True), "i2": (2, True), "u2": (2, False), "i4": (4, True), "i8": (8, True)}
_CORE = ("numpy.core.multiarray", "numpy._core.multiarray")


def read_palette(value: Value, classes: int) -> tuple[Colour, ...]:
    """Return one RGB colour for each of `classes` classes, or () if the value is anything else."""
    rows = _plain(value)
    if not isinstance(rows, list | tuple) or len(rows) != classes:
        return ()
    colours: list[Colour] = []
    for row in rows:
        numbers = _plain(row)
        if not isinstance(numbers, list | tuple) or len(numbers) != 3:
            return ()
        r, g, b = (_plain(number) for number in numbers)
        if not (_is_shade(r) and _is_shade(g) and _is_shade(b)):
            return ()
        colours.append((r, g, b))
    return tuple(colours)


def _is_shade(value: Value) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= 255


def _plain(value: Value) -> Value:
    """Convert a numpy integer to int, and an integer array of one or two dimensions to lists.

    Any other value is returned unchanged.
    """
    if not isinstance(value, Foreign) or value.origin is None:
        return value
    module, name = value.origin.module, value.origin.name
    if module not in _CORE:
        return value
    if name == "scalar" and isinstance(value.args, tuple) and len(value.args) == 2:
        numbers = _numbers(*value.args)
        return numbers[0] if len(numbers) == 1 else value
    state = value.state
    if name != "_reconstruct" or not isinstance(state, tuple) or len(state) != 5:
        return value
    shape, fortran = state[1], state[3]
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 < size <= _MAX_NUMBERS for size in shape):
        return value
    numbers = _numbers(state[2], state[4])
    if len(shape) == 1 and len(numbers) == shape[0]:
        return numbers
    if len(shape) != 2 or len(numbers) != shape[0] * shape[1]:
        return value
    rows, columns = shape
    if fortran is True:
        return [numbers[row::rows] for row in range(rows)]
    return [numbers[row * columns : (row + 1) * columns] for row in range(rows)]


def _numbers(dtype: Value, data: Value) -> list[int]:
    """Return the integers in the data of a small array, or [] if the data is anything else."""
    kind = dtype.args[0] if isinstance(dtype, Foreign) and isinstance(dtype.args, tuple) and dtype.args else None
    raw = _raw(data)
    if not isinstance(dtype, Foreign) or dtype.kind != "numpy.dtype" or not isinstance(kind, str):
        return []
    if kind not in _DTYPES or raw is None:
        return []
    width, signed = _DTYPES[kind]
    if len(raw) % width or len(raw) > _MAX_NUMBERS * width:
        return []
    swapped = isinstance(dtype.state, tuple) and len(dtype.state) > 1 and dtype.state[1] == ">"
    order: Literal["big", "little"] = "big" if swapped else "little"
    return [int.from_bytes(raw[at : at + width], order, signed=signed) for at in range(0, len(raw), width)]


def _raw(data: Value) -> bytes | None:
    if isinstance(data, bytes):
        return data
    if not isinstance(data, Foreign) or data.kind != "_codecs.encode" or not isinstance(data.args, tuple):
        return None
    text = data.args[0] if len(data.args) == 2 and data.args[1] == "latin1" else None
    if not isinstance(text, str) or len(text) > 8 * _MAX_NUMBERS:
        return None
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return None
