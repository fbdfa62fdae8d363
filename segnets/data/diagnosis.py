"""Errors and warnings about a data set, found in the facts of its samples, each with a cause and a fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import gcd

from segnets.card import Colour
from segnets.data.dataset import UNKNOWN, VOID, DataSet, Problem
from segnets.data.description import FILE_NAME
from segnets.data.duplicates import find_duplicates
from segnets.data.facts import SampleFacts
from segnets.palettes import voc_palette

Gathered = Mapping[str, Sequence[SampleFacts]]
_NAMES_OF_VOID = frozenset(
    (
        "void",
        "ignore",
        "ignored",
        "unlabelled",
        "unlabeled",
        "unknown",
        "undefined",
        "unclassified",
        "dontcare",
        "nolabel",
    )
)
_MOST_COLOURS = 24
_MOST_NAMES = 12  # class names listed in a line
_ID_SCALE = 257  # factor that widens 8-bit values to 16 bits


def diagnose(data: DataSet, gathered: Gathered) -> tuple[list[Problem], list[Problem]]:
    """Find errors and likely mistakes in a data set.

    Args:
        data: Data set.
        gathered: Facts of all samples of each split.

    Returns:
        Errors and warnings.
    """
    facts = [each for split in gathered.values() for each in split]
    errors = [*data.problems, *(problem for each in facts for problem in each.problems)]
    errors += _empty_splits(data, gathered)
    errors += _without_classes(data, facts)
    errors += _colours(data, facts)
    errors += _palettes(data, facts)
    errors += _values(data, facts)
    warnings = [*_never_seen(data, gathered), *_void(data, facts), *find_duplicates(gathered), *_sixteen_bits(facts)]
    return errors, [*warnings, *_notices(facts)]


def _empty_splits(data: DataSet, gathered: Gathered) -> Iterator[Problem]:
    for name, facts in gathered.items():
        if not facts:
            yield Problem(
                "empty split", data.path, f"the split {name!r} has no images", "Add images, or remove the split."
            )
    if not gathered:
        yield Problem("empty split", data.path, "has no split", "Add the folders train/images and train/masks.")


def _without_classes(data: DataSet, facts: Sequence[SampleFacts]) -> Iterator[Problem]:
    if data.classes:
        return
    found = sorted({value for each in facts for value in each.values})
    what = (
        f"the classes have no names. The masks have the values {_listed(found)}"
        if found
        else "the classes have no names"
    )
    yield Problem(
        "no classes",
        data.path,
        what,
        f'Write classes = ["first", "second", ...] and ignore = [...] to {data.path / FILE_NAME}, or pass them '
        "(--classes, --ignore).",
    )


def _colours(data: DataSet, facts: Sequence[SampleFacts]) -> Iterator[Problem]:
    """Find masks with colours that are not in the palette, and list these colours."""
    total: Counter[Colour] = Counter()
    for each in facts:
        total.update(each.unknown_colours)
    if not total:
        return
    toml = data.path / FILE_NAME
    shown = ", ".join(str(list(colour)) for colour, _ in total.most_common(_MOST_COLOURS))
    shown += ", ..." if len(total) > _MOST_COLOURS else ""
    if data.palette:
        what = f"has colours that are not in the palette; together the masks have {len(total)}: {shown}"
        fix = f"Add them to palette in {toml}, those of ignored pixels at the end, or correct the mask."
    else:
        what = f"has colours, but the data set has no palette; together the masks have {len(total)}: {shown}"
        fix = f"Write palette = [[red, green, blue], ...] to {toml}, one colour per class in the order of classes."
    if len(total) > max(64, 4 * len(data.classes)):
        fix = (
            "This many colours usually come from smoothing or compression, or from a photograph. Save the mask as PNG."
        )
    for each in facts:
        if each.unknown_colours and each.sample.mask is not None:
            yield Problem("colours", each.sample.mask, what, fix)


def _palettes(data: DataSet, facts: Sequence[SampleFacts]) -> Iterator[Problem]:
    """Find palette images whose indices are not class ids, by comparing their stored colours."""
    toml = data.path / FILE_NAME
    seen: dict[int, tuple[Colour, SampleFacts]] = {}
    place = {colour: number for number, colour in enumerate(data.palette)}
    for each in facts:
        if each.sample.mask is None:
            continue
        for value, colour in each.colours.items():
            class_id = int(data.table[value])
            if class_id == VOID:
                continue
            if colour in place and (class_id == UNKNOWN or data.palette[class_id] != colour):
                yield Problem(
                    "palette",
                    each.sample.mask,
                    f"its index {value} has the colour {list(colour)}, which palette gives to class {place[colour]}, "
                    "so its indices are not class ids",
                    f'Write masks = "colours" to {toml}.',
                )
                break
            first_colour, first = seen.setdefault(value, (colour, each))
            if first_colour != colour:
                yield Problem(
                    "palette",
                    each.sample.mask,
                    f"its index {value} has the colour {list(colour)}, but in {first.sample.mask} the colour "
                    f"{list(first_colour)}, so the indices are not class ids",
                    f'Write palette = [[red, green, blue], ...] and masks = "colours" to {toml}.',
                )
                break


def _values(data: DataSet, facts: Sequence[SampleFacts]) -> Iterator[Problem]:
    """Find mask values without a class, and the likely cause."""
    if not data.classes:
        return
    total: Counter[int] = Counter()
    for each in facts:
        total.update(each.values)
    unknown = sorted(value for value in total if data.table[value] == UNKNOWN)
    known_toml = data.path / FILE_NAME
    if not unknown:
        yield from _binary(data, facts, total)
        return
    labelled = sorted(value for value in total if data.table[value] != VOID)
    cause, fix = _cause(data, labelled, unknown, str(known_toml))
    for each in facts:
        here = [value for value in each.values if data.table[value] == UNKNOWN]
        if here and each.sample.mask is not None:
            yield Problem("ids out of range", each.sample.mask, cause, fix)


def _binary(data: DataSet, facts: Sequence[SampleFacts], total: Counter[int]) -> Iterator[Problem]:
    of_two = len(data.classes) == 2 and not data.ids and not data.planes
    if of_two and {*total} == {0, VOID} and VOID not in data.ignore:
        for each in facts:
            if VOID in each.values and each.sample.mask is not None:
                yield Problem(
                    "ids out of range",
                    each.sample.mask,
                    f"the values are 0 and 255 only, and 255 is ignored, so {data.classes[1]!r} has no pixels",
                    f"If 255 is that class, write ids = [0, 255] to {data.path / FILE_NAME}.",
                )


def _cause(data: DataSet, labelled: list[int], unknown: list[int], toml: str) -> tuple[str, str]:
    """Return the likely cause of values without a class, and the fix."""
    count, expected = len(data.classes), data.describe_ids()
    if data.planes:
        return f"the planes have the values {_listed(unknown)}. Expected {expected}", "Save 0, 1, and 255 for ignored."
    if luma := _grey_levels(data, labelled):
        return (
            f"the values {_listed(unknown)} are the gray levels of {'the palette' if data.palette else 'PASCAL VOC'}'s "
            "colours, which were converted to gray",
            f"Save the masks in colours or as ids, or write ids = {luma} to {toml}.",
        )
    if all(value % _ID_SCALE == 0 for value in labelled) and max(labelled) // _ID_SCALE < 256:
        smaller = [value // _ID_SCALE for value in labelled]
        return (
            f"the values {_listed(unknown)} are multiples of 257: 8-bit ids that were scaled to 16 bits",
            f"Divide the masks by 257; they then have the ids {_listed(smaller)}.",
        )
    if not data.ids and labelled[0] == 1 and labelled[-1] == count:
        return (
            f"the values are 1..{count}, off by one: class ids are 0..{count - 1}",
            f"Write ids = {_progression(1, 1, count)} to {toml}, or subtract 1 from the masks.",
        )
    if not data.ids and unknown == [count]:
        return (
            f"value {count} has no class ({count} classes have the ids {expected})",
            f"If it marks pixels without a class, pass --ignore {count}, or write ignore = [{count}] to {toml}. If 0 "
            f"marks them, the ids are off by one: write ids = {_progression(1, 1, count)} and ignore = [0] there. "
            "Otherwise a name is missing from classes.",
        )
    step = gcd(*labelled)
    if not data.ids and step > 1 and len(labelled) > 2 and labelled[-1] // step < count:
        return (
            f"the values {_listed(unknown)} are multiples of {step}: ids that were scaled to be visible",
            f"Divide the masks by {step}, or write ids = {_progression(0, step, count)} to {toml}.",
        )
    several = "values" if len(unknown) > 1 else "value"
    advice = f"Correct the masks, or ignore values: ignore = [{_listed(unknown)}] in {toml} (--ignore)."
    if len(labelled) > 2 * count and len(unknown) > 8:
        advice = "They look like colours or a photograph, or were resized with smoothing. Save class ids, as PNG."
    return f"{several} {_listed(unknown)} {'have' if len(unknown) > 1 else 'has'} no class. Expected {expected}", advice


def _grey_levels(data: DataSet, labelled: list[int]) -> list[int]:
    """Return the gray level of each class if the values of masks are gray levels of the palette, else an empty list.

    If the data set has no palette, PASCAL VOC's is used.
    """
    if data.ids:
        return []
    palette = data.palette or voc_palette(len(data.classes))
    # The weights with which Pillow and OpenCV convert RGB to gray.
    levels = [(red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16 for red, green, blue in palette]
    return levels if {*labelled} <= {*levels} and len({*levels}) == len(levels) else []


def _never_seen(data: DataSet, gathered: Gathered) -> Iterator[Problem]:
    ignored_classes = _ignored_classes(data)
    for class_id in ignored_classes:
        yield Problem(
            "ignored class",
            data.path,
            f"class {data.classes[class_id]!r} is ignored, so one output of the network is never trained",
            "Remove it from classes, unless a model has this output.",
        )
    for name, facts in gathered.items():
        seen = {class_id for each in facts for class_id in each.pixels}
        missing = [
            number for number in range(len(data.classes)) if number not in seen and number not in ignored_classes
        ]
        if not missing or not any(each.values for each in facts):
            continue
        names = ", ".join(f"{data.classes[number]!r} ({number})" for number in missing[:_MOST_NAMES])
        names += f" and {len(missing) - _MOST_NAMES} more" if len(missing) > _MOST_NAMES else ""
        where = f"the {len(facts):,} checked images of the" if len(facts) < len(data.splits[name]) else "the"
        what = (
            f"{_classes(missing)} {names} {'has' if len(missing) == 1 else 'have'} no pixel in {where} split {name!r}"
        )
        fix = "Correct classes or masks, or add images of these classes."
        if missing == [0] and not data.ids:
            fix = "If the masks count classes from 1, they are off by one. Otherwise add images of this class."
        yield Problem("class never seen", data.path, what, fix)


def _ignored_classes(data: DataSet) -> list[int]:
    if data.planes:
        return []
    values = data.ids or range(len(data.classes))
    return [number for number, value in enumerate(values[: len(data.classes)]) if value in data.ignore]


def _classes(numbers: list[int]) -> str:
    return "class" if len(numbers) == 1 else "classes"


def _void(data: DataSet, facts: Sequence[SampleFacts]) -> Iterator[Problem]:
    toml = data.path / FILE_NAME
    ignored_classes = _ignored_classes(data)
    for number, name in enumerate(data.classes):
        plain = "".join(letter for letter in name.lower() if letter.isalpha())
        if plain in _NAMES_OF_VOID and number not in ignored_classes and not data.planes:
            value = data.ids[number] if data.ids else number
            yield Problem(
                "void",
                data.path,
                f"class {name!r} ({number}) is trained like any other class",
                f"If it marks pixels without a class, remove the name and write ignore = [{value}] to {toml}.",
            )
    seen = {value for each in facts for value in each.values}
    for value in data.ignore:
        if value not in seen and value != VOID and seen:
            which = "no mask" if len(facts) == sum(map(len, data.splits.values())) else "no checked mask"
            yield Problem("void", data.path, f"the ignored value {value} is in {which}", "Correct ignore (--ignore).")
    for each in facts:
        if each.pixels and {*each.pixels} == {VOID} and each.sample.mask is not None:
            yield Problem("void", each.sample.mask, "every pixel is ignored", "Correct the mask, or remove the image.")


def _sixteen_bits(facts: Sequence[SampleFacts]) -> Iterator[Problem]:
    for each in facts:
        if each.wide and each.sample.mask is not None:
            yield Problem("16 bits", each.sample.mask, "has 16 bits; its values are used as class ids", "Save 8 bits.")


def _notices(facts: Sequence[SampleFacts]) -> Iterator[Problem]:
    for each in facts:
        for notice in each.notices:
            yield Problem("image", each.sample.image, notice)


def _listed(values: Sequence[int]) -> str:
    """Join numbers with commas. If there are more than 12, show the first eight and the last."""
    if len(values) <= 12:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[:8]))}, ..., {values[-1]}"


def _progression(first: int, step: int, count: int) -> str:
    """Return the ids of `count` classes as a TOML list, shortened if there are more than 40."""
    numbers = [first + step * number for number in range(count)]
    if count <= 40:
        return str(numbers)
    return f"[{numbers[0]}, {numbers[1]}, ..., {numbers[-1]}]"
