"""A dictionary of a configuration, read key by key with the defaults of the project whose it is.

A value that is there and can't be read (a call, an object, a number out of all bounds) is not replaced by the default:
it becomes a note, and None to the caller, who then says nothing of it.
"""

from __future__ import annotations

from typing import TypeGuard

from segnets.preprocessing import Preprocessing
from weights_tools._text import printable
from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings

_LARGEST = 1 << 20
_LONGEST = 64  # of a list of numbers: strides, rates, the blocks of a stage
_LONGEST_TEXT = 200
_MOST_CLASSES = 100_000


class Section:
    """name: what messages call it, or nothing. Values are never compared or shown whole: they may be endless."""

    def __init__(self, name: str, values: Value, findings: Findings) -> None:
        self.name = name
        self.values: dict[Value, Value] = values if isinstance(values, dict) else {}
        self.findings = findings

    def get(self, key: str) -> Value:
        return self.values.get(key)

    def gives(self, key: str) -> bool:
        """Whether the key is there, and not None."""
        return self.values.get(key) is not None

    def part(self, key: str) -> Section:
        """The dictionary under a key; an empty one where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self._unreadable(key)
        return Section(f"{self.name} {key}".strip(), value, self.findings)

    def flag(self, key: str, default: bool) -> bool | None:
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        self._unreadable(key)
        return None

    def count(self, key: str, default: int | None = None) -> int | None:
        """A whole number; None also where it is missing and has no default."""
        value = self.values.get(key, default)
        if is_count(value):
            return value
        if value is not None or default is not None:
            self._unreadable(key)
        return None

    def number(self, key: str, default: float) -> float | None:
        value = self.values.get(key, default)
        if _is_number(value):
            return float(value)
        self._unreadable(key)
        return None

    def word(self, key: str, default: str) -> str | None:
        value = self.values.get(key, default)
        if isinstance(value, str) and len(value) <= _LONGEST_TEXT:
            return value
        self._unreadable(key)
        return None

    def counts(self, key: str, default: tuple[int, ...]) -> tuple[int, ...] | None:
        value = self.values.get(key, default)
        if isinstance(value, list | tuple) and len(value) <= _LONGEST:
            numbers = tuple(item for item in value if is_count(item))
            if len(numbers) == len(value):
                return numbers
        self._unreadable(key)
        return None

    def triple(self, key: str) -> tuple[float, float, float] | None:
        """A number for each of three channels; None also where the key is missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, list | tuple) and len(value) == 3:
            a, b, c = value
            if _is_number(a) and _is_number(b) and _is_number(c):
                return float(a), float(b), float(c)
        self._unreadable(key)
        return None

    def _unreadable(self, key: str) -> None:
        self.findings.note(f"{self.name} {key} can't be read there".strip())


def is_count(value: Value) -> TypeGuard[int]:
    """Whether it is a whole number of a size that a network can have."""
    return type(value) is int and 0 <= value <= _LARGEST


def _is_number(value: Value) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def class_names(value: Value, findings: Findings) -> tuple[str, ...]:
    """The names of classes in the order of their ids; empty, with a note, if they are no list of decent texts."""
    if not isinstance(value, list | tuple) or not value:
        return ()
    names = tuple(name for name in value[:_MOST_CLASSES] if isinstance(name, str) and _is_decent(name))
    if len(names) != len(value):
        findings.note("its class names are empty, too long or not printable, and are left out")
        return ()
    return names


def _is_decent(name: str) -> bool:
    return len(name) <= _LONGEST_TEXT and bool(name.strip()) and name.isprintable()


def input_of(
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    findings: Findings,
    *,
    scale: float = 1.0,
    channel_order: str = "RGB",
) -> None:
    """Find the preprocessing. scale: what white is in the numbers of mean and std, 1 or 255."""
    if mean is None or std is None:
        return
    try:
        findings.preprocessing = Preprocessing(
            resize="none",
            mean=_scaled(mean, scale),
            std=_scaled(std, scale),
            channel_order=channel_order,
        )
    except ValueError as error:
        findings.note(f"its mean and standard deviation are left out: {error}")


def _scaled(values: tuple[float, float, float], scale: float) -> tuple[float, float, float]:
    """Rounded, so that 57.12 / 255 is the 0.224 that was meant."""
    a, b, c = (round(value / scale, 10) for value in values)
    return a, b, c


def named(value: Value) -> str:
    """A short form of a text for messages; of anything else, only that it is something else."""
    return printable(value) if isinstance(value, str) else "something that is no name"
