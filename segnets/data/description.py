"""`dataset.toml`: classes of a data set, their colours, and the encoding of its masks."""

from __future__ import annotations

import difflib
import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from segnets.card import Colour
from segnets.data.braces import MOST, expand_braces
from segnets.errors import DataError

FILE_NAME = "dataset.toml"
_SCHEME = re.compile(r"([A-Za-z][\w+.-]*):(?=/)|(pipe|file):")


@dataclass(frozen=True)
class Description:
    """Contents of `dataset.toml`. Each attribute is a key. All keys are optional.

    Attributes:
        classes: One name per class.
        palette: One RGB colour per class. Further colours belong to the next values, which must be in `ignore`.
        ignore: Mask values that are ignored.
        ids: Mask value of each class. Default: 0, 1, 2, ...
        channels: Number of image channels. Default: 3, RGB.
        masks: "ids" takes the values of gray and palette images. "colours" looks up all colours in the palette.
            "planes" reads TIFF files with a band of 0 and 1 per class, for classes that overlap (decoding
            "multilabel").
        licence: Licence of the data, recorded in trained weights files, for example "CC BY-NC 4.0".
        shards: Shards of each split, for `segnets.data.shards`: paths below the folder, and http(s) addresses. In the
            file, braces may number them ("train-{000000..000099}.tar"); here they are expanded.
    """

    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    ignore: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    channels: int = 3
    masks: str = "ids"
    licence: str = ""
    shards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def overridden(self, classes: Sequence[str] | None, ignore: Sequence[int] | None) -> Description:
        """Return a copy with the caller's classes and ignored values, where they are not None."""
        changed = self
        if classes is not None and tuple(classes) != self.classes:
            kept = self.palette if len(classes) == len(self.classes) else ()
            changed = replace(changed, classes=tuple(classes), palette=kept if self.classes else self.palette)
        return changed if ignore is None else replace(changed, ignore=tuple(ignore))

    @property
    def class_palette(self) -> tuple[Colour, ...]:
        """Colours of the classes, without those of ignored values."""
        return self.palette[: len(self.classes)] if self.classes else self.palette


def is_address(text: str) -> bool:
    """Return whether a text is an http(s) address rather than a path."""
    return scheme_of(text) in ("http", "https")


def scheme_of(text: str) -> str:
    """Return the scheme of an address ("https", "s3", "pipe") in lower case, or "" for a path."""
    found = _SCHEME.match(text)
    return "" if found is None else (found[1] or found[2]).lower()


def read_description(folder: Path) -> Description:
    """Read the `dataset.toml` of a folder.

    Args:
        folder: Folder of the data set.

    Returns:
        Contents of the file, or an empty description if it does not exist.

    Raises:
        DataError: If the file can't be read, or has an unknown key or a value of the wrong type.
    """
    path = folder / FILE_NAME
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return Description()
    except (OSError, ValueError, RecursionError) as error:  # also for numbers and nesting beyond Python's limits
        raise DataError(f"{path}: can't be read: {str(error).splitlines()[0]}. Correct the file.") from None
    known = [each.name for each in fields(Description)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise DataError(f"{path}: unknown key {key!r}.{meant} Allowed: {', '.join(known)}.")
    description = Description(**{key: _checked(path, key, value) for key, value in values.items()})
    _check_palette(path, description)
    return description


def _checked(path: Path, key: str, value: Any) -> Any:
    """Return the value of a key, with lists converted to tuples. DataSet checks the elements."""
    if key == "channels":
        return value
    if key == "shards":
        return _checked_shards(path, value)
    if key == "licence":
        if not isinstance(value, str):
            raise DataError(f'{path}: licence = {value!r}. Expected text: licence = "CC BY 4.0".')
        return value
    if key == "masks":
        if value not in _KINDS:
            raise DataError(f"{path}: masks = {value!r}. Allowed: {', '.join(map(json.dumps, _KINDS))}.")
        return value
    if not isinstance(value, list):
        raise DataError(f"{path}: {key} = {value!r}. Expected a list: {key} = [{_EXAMPLES[key]}].")
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)


def _checked_shards(path: Path, value: object) -> dict[str, tuple[str, ...]]:
    """Return the shards of each split, with braces expanded. Messages don't quote addresses, which may be secret."""
    if not isinstance(value, dict) or not value:
        raise DataError(f'{path}: shards: expected a table of splits: [shards] and train = "train-{{000..099}}.tar".')
    expanded: dict[str, tuple[str, ...]] = {}
    for split, texts in value.items():
        listed = texts if isinstance(texts, list) else [texts]
        if not split.strip() or not split.isprintable():
            raise DataError(f"{path}: shards: {split!r} is not a split name.")
        if not listed or not all(isinstance(text, str) and text.strip() and text.isprintable() for text in listed):
            raise DataError(f"{path}: shards: {split}: expected a path or address of shards, or a list of these.")
        for text in listed:
            scheme = scheme_of(text)
            if scheme not in ("", "http", "https"):
                raise DataError(f"{path}: shards: {split}: {scheme}: addresses are not supported. {ADVICE}")
        try:
            names = (name for text in listed for name in expand_braces(text))
            expanded[split] = tuple(itertools.islice(names, MOST + 1))
        except ValueError as error:
            raise DataError(f"{path}: shards: {split}: a name {error}.") from None
        if len(expanded[split]) > MOST:
            raise DataError(f"{path}: shards: {split}: more than {MOST:,} shards. Make larger ones.")
    return expanded


ADVICE = "Use an https address, for example a presigned one, or mount the storage as a folder."
_KINDS = ("ids", "colours", "planes")
_EXAMPLES = {"classes": '"road", "car"', "palette": "[128, 64, 128], [0, 0, 142]", "ignore": "255", "ids": "7, 26"}


def _check_palette(path: Path, description: Description) -> None:
    extra = range(len(description.classes), len(description.palette))
    for value in extra if description.classes else ():
        if value not in description.ignore:
            raise DataError(
                f"{path}: palette: {len(description.palette)} colours for {len(description.classes)} classes, and the "
                f"colour number {value} is not ignored. Give one colour per class, or add {value} to ignore."
            )
    if description.masks == "colours" and not description.palette:
        raise DataError(f'{path}: masks = "colours" needs palette, one colour per class.')
    if description.masks == "planes" and not description.classes:
        raise DataError(f'{path}: masks = "planes" needs classes, a name per plane.')
    if description.ids and description.masks == "planes":
        raise DataError(f'{path}: ids and masks = "planes" are mutually exclusive. Planes have the values 0 and 1.')
    if description.ids and description.masks == "colours":
        raise DataError(
            f'{path}: ids and masks = "colours" are mutually exclusive. The palette maps colours to classes.'
        )
