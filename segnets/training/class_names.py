"""Checks that a data set and a model have the same classes."""

from __future__ import annotations

from collections.abc import Sequence

from segnets.data import DataSet
from segnets.errors import DataError


def agree_on_classes(data: DataSet, names: Sequence[str], ids: int, model: str) -> DataSet:
    """Check that a data set and a model have the same classes, and name the data set's classes if it has no names.

    Args:
        data: Data set. If it has no class names, it takes the model's.
        names: Class names of the model, or empty if it has none.
        ids: Number of class ids of the model.
        model: Name of the model, for messages.

    Returns:
        The data set, with class names.

    Raises:
        DataError: If the number of classes, their names or their order differ.
    """
    if not data.classes:
        return data.with_classes(tuple(names) or tuple(map(str, range(ids))))
    if len(data.classes) != ids:
        raise DataError(
            f"{data.path}: has {len(data.classes)} classes ({listed(data.classes)}), but {model} has {ids}"
            f"{f' ({listed(names)})' if names else ''}. Use a data set and a model with the same classes."
        )
    if not names or data.classes == tuple(names):
        return data
    if sorted(data.classes) == sorted(names):
        number = next(i for i, (ours, its) in enumerate(zip(data.classes, names, strict=True)) if ours != its)
        raise DataError(
            f"{data.path}: its classes are in a different order from {model}'s: class {number} is "
            f"{data.classes[number]!r} and {names[number]!r}. List the data set's classes in the order of its ids; if "
            f"they already are, the model was trained with different ids: {listed(names)}."
        )
    differing = [
        f"{number} is {ours!r} and {its!r}"
        for number, (ours, its) in enumerate(zip(data.classes, names, strict=True))
        if ours != its
    ]
    more = f" ({len(differing) - 1} more)" if len(differing) > 1 else ""
    raise DataError(
        f"{data.path}: its classes differ from {model}'s: class {differing[0]}{more}. If they mean the same, give them "
        f"the same names, for example --classes {','.join(names)}"
    )


def listed(names: Sequence[str], most: int = 12) -> str:
    """Join names with commas, and shorten a list of more than `most` names."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])
