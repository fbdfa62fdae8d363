"""Compare the tensors that a network needs with the given ones by name, shape and dtype."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

COUNTER = "num_batches_tracked"
AUXILIARY = "aux_classifier."


class _Shaped(Protocol):
    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Mismatch:
    """Differences between needed and given tensors. False in a boolean context if there are none.

    Attributes:
        missing: Names of tensors that are needed and not given.
        unexpected: Names of tensors that are given and not needed.
        misshapen: Name -> both shapes, where they differ.
        mistyped: Name -> both dtypes, where one can't be cast to the other.
    """

    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    misshapen: Mapping[str, str] = field(default_factory=dict)
    mistyped: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen or self.mistyped)

    def kinds(self) -> dict[str, list[str]]:
        """Return the names by kind of difference, without empty kinds."""
        every = {
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "of a different shape": list(self.misshapen),
            "of a different dtype": list(self.mistyped),
        }
        return {kind: names for kind, names in every.items() if names}

    def summary(self) -> str:
        """Return the counts, for example "2 missing, 1 of a different shape"."""
        return ", ".join(f"{len(names)} {kind}" for kind, names in self.kinds().items())

    def lines(self, most: int | None = None, show: Callable[[str], str] = str) -> list[str]:
        """Return one line per tensor: "-" missing, "+" unexpected, "~" of a different shape, "!" of a different dtype.

        Args:
            most: Largest number of lines per kind; the rest are counted. None for all.
            show: Function that makes a name or a line printable.
        """
        lines = []
        for sign, found in (
            ("-", list(self.missing)),
            ("+", list(self.unexpected)),
            ("~", [f"{name}: {shapes}" for name, shapes in self.misshapen.items()]),
            ("!", [f"{name}: {dtypes}" for name, dtypes in self.mistyped.items()]),
        ):
            lines += [f"  {sign} {show(each)}" for each in found[:most]]
            if most is not None and len(found) > most:
                lines.append(f"  {sign} and {len(found) - most} more")
        return lines


def find_mismatch(
    needed: Mapping[str, _Shaped],
    given: Mapping[str, _Shaped],
    *,
    any_shape: Collection[str] = (),
    compare_dtypes: Callable[[str], str] | None = None,
) -> Mismatch:
    """Compare tensors by name and shape, and their dtypes with `compare_dtypes`.

    Args:
        needed: Tensors of the network.
        given: Tensors for it, by the network's names.
        any_shape: Names whose shapes are not compared.
        compare_dtypes: Function that describes both dtypes of a name if they do not fit, and returns "" if they do.
    """
    misshapen, mistyped = {}, {}
    for name, tensor in needed.items():
        if name not in given:
            continue
        if given[name].shape != tensor.shape and name not in any_shape:
            misshapen[name] = f"file {tuple(given[name].shape)}, model {tuple(tensor.shape)}"
        elif compare_dtypes is not None and (dtypes := compare_dtypes(name)):
            mistyped[name] = dtypes
    return Mismatch(
        missing=[name for name in needed if name not in given],
        unexpected=[name for name in given if name not in needed],
        misshapen=misshapen,
        mistyped=mistyped,
    )


def absent_counters(needed: Collection[str], given: Collection[str]) -> list[str]:
    """Return the batch norm counters that are needed and not given, as in old files.

    Only counters whose running statistics are given: a network with group normalisation has neither.
    """
    return [
        name
        for name in needed
        if name.endswith(COUNTER) and name not in given and name.removesuffix(COUNTER) + "running_mean" in given
    ]
