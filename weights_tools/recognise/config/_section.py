"""Read a dictionary of a config key by key, with the defaults of its project.

A value that is present but unreadable (a call, an object, a number out of bounds) is not replaced by the default. It
becomes a note, and the caller gets None.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from segnets.preprocessing import Preprocessing
from weights_tools._text import printable
from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings

_MAX_NUMBER = 1 << 20
_MAX_LIST = 64  # maximum length of a list: strides, rates, blocks of a stage
_MAX_TEXT = 200
_MAX_CLASSES = 100_000


class Section:
    """Dictionary of a config.

    Values are never compared or printed whole, because they may contain themselves.

    Attributes:
        name: Name of the section in messages, or "".
        values: The dictionary; empty if the config has a value of a different type there.
        findings: Receives the notes about unreadable values.
    """

    def __init__(self, name: str, values: Value, findings: Findings) -> None:
        self.name = name
        self.values: dict[Value, Value] = values if isinstance(values, dict) else {}
        self.findings = findings

    def get(self, key: str) -> Value:
        """Return the raw value of a key, or None."""
        return self.values.get(key)

    def has(self, key: str) -> bool:
        """Return whether the key is present and not None."""
        return self.values.get(key) is not None

    def part(self, key: str) -> Section:
        """Return the dictionary under a key as a section, empty if there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self._unreadable(key)
        return Section(f"{self.name} {key}".strip(), value, self.findings)

    def flag(self, key: str, default: bool) -> bool | None:
        """Return a boolean."""
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        self._unreadable(key)
        return None

    def count(self, key: str, default: int | None = None) -> int | None:
        """Return an integer, or None if the key is missing without a default or the value is unreadable."""
        value = self.values.get(key, default)
        if is_count(value):
            return value
        if value is not None or default is not None:
            self._unreadable(key)
        return None

    def number(self, key: str, default: float) -> float | None:
        """Return a number."""
        value = self.values.get(key, default)
        if _is_number(value):
            return float(value)
        self._unreadable(key)
        return None

    def word(self, key: str, default: str) -> str | None:
        """Return a short string."""
        value = self.values.get(key, default)
        if isinstance(value, str) and len(value) <= _MAX_TEXT:
            return value
        self._unreadable(key)
        return None

    def counts(self, key: str, default: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return a short list of integers."""
        value = self.values.get(key, default)
        if isinstance(value, list | tuple) and len(value) <= _MAX_LIST:
            numbers = tuple(item for item in value if is_count(item))
            if len(numbers) == len(value):
                return numbers
        self._unreadable(key)
        return None

    def triple(self, key: str) -> tuple[float, float, float] | None:
        """Return one number per channel, or None if the key is missing or the value is unreadable."""
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
        self.findings.note(f"ignored {f'{self.name} {key}'.strip()}: unreadable")


def is_count(value: Value) -> TypeGuard[int]:
    """Return whether a value is an integer in the range of network sizes."""
    return type(value) is int and 0 <= value <= _MAX_NUMBER


def _is_number(value: Value) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MAX_NUMBER <= value <= _MAX_NUMBER


def parse_class_names(value: Value, findings: Findings) -> tuple[str, ...]:
    """Return the names of classes in the order of their ids.

    If they are not a list of short, printable strings, add a note and return ().
    """
    if not isinstance(value, list | tuple) or not value:
        return ()
    names = tuple(name for name in value[:_MAX_CLASSES] if isinstance(name, str) and _is_class_name(name))
    if len(names) != len(value):
        findings.note("ignored class names: empty, too long or not printable")
        return ()
    return names


def _is_class_name(name: str) -> bool:
    return len(name) <= _MAX_TEXT and bool(name.strip()) and name.isprintable()


def set_preprocessing(
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    findings: Findings,
    *,
    scale: float = 1.0,
    channel_order: str = "RGB",
) -> None:
    """Record mean, standard deviation and channel order, if the config has the first two.

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        findings: Receives the preprocessing.
        scale: Value of white in the units of `mean` and `std`: 1 or 255.
        channel_order: "RGB" or "BGR".
    """
    if mean is None or std is None:
        return
    stated: dict[str, Any] = {"mean": _scaled(mean, scale), "std": _scaled(std, scale), "channel_order": channel_order}
    try:
        Preprocessing(**stated)
    except ValueError as error:
        findings.note(f"ignored mean and standard deviation: {error}")
    else:
        findings.preprocessing.update(stated)


def set_resize(stated: dict[str, Any], findings: Findings) -> None:
    """Record the resize rule: `resize`, `size` and whatever else of the preprocessing belongs to it."""
    try:
        Preprocessing(**stated)
    except ValueError as error:
        findings.note(f"ignored the size of images: {error}")
    else:
        findings.preprocessing.update(stated)


def _scaled(values: tuple[float, float, float], scale: float) -> tuple[float, float, float]:
    """Scale and round, so that 57.12 / 255 gives the intended 0.224."""
    a, b, c = (round(value / scale, 10) for value in values)
    return a, b, c


def quote(value: Value) -> str:
    """Quote and shorten a string for messages. Other values are not printed."""
    return printable(value) if isinstance(value, str) else "something other than a name"
