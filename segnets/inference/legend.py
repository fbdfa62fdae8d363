"""Legends of masks: names, colours and shares of the classes.

Pillow is imported when first used. Text is drawn with the font that Pillow includes (Aileron, ASCII letters).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.inference.areas import class_areas

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

BLACK: Colour = (0, 0, 0)
PAPER: Colour = (255, 255, 255)
_INK: Colour = (32, 32, 32)
_FAINT: Colour = (120, 120, 120)
# Latin letters that Unicode does not decompose into a letter and an accent.
_LATIN = str.maketrans(
    {
        "ß": "ss",
        "æ": "ae",
        "Æ": "Ae",
        "œ": "oe",
        "Œ": "Oe",
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "đ": "d",
        "\u0131": "i",
    }
)
_PALE = 208  # a colour whose channels are all at least this needs a border on white
SMALLEST_TEXT = 12  # pixels


@dataclass(frozen=True)
class Entry:
    """One line of a legend.

    Attributes:
        class_id: Id of the class.
        name: Name of the class.
        colour: RGB colour, 0..255; black for a class that is not coloured.
        share: Share of the image's pixels, 0..1.
    """

    class_id: int
    name: str
    colour: Colour
    share: float


def legend_entries(mask: npt.NDArray[np.integer], classes: Sequence[str], palette: Sequence[Colour]) -> list[Entry]:
    """List the classes in a mask, largest first.

    Args:
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W).
        classes: One name per class id.
        palette: One RGB colour per class id.

    Returns:
        One entry per class that has pixels.

    Raises:
        ImageError: If the mask has the wrong shape, or an id without a class.
    """
    areas = class_areas(mask, len(classes))
    pixels = max(1, mask.shape[-2] * mask.shape[-1])
    present = [int(each) for each in np.argsort(-areas, kind="stable") if areas[each]]
    return [Entry(each, classes[each], palette[each], int(areas[each]) / pixels) for each in present]


def draw_legend(
    entries: Sequence[Entry], width: int = 480, text_size: int = 16, max_height: int | None = None
) -> npt.NDArray[np.uint8]:
    """Draw a legend: swatches, names and shares in columns, on white.

    The swatch of a black class is crossed out, because an overlay leaves its pixels unchanged. A name that is too long
    is cut. The font has no accents, so accented letters are drawn without them. A bare id, or a name with
    non-Latin letters, is replaced by "class" and the id.

    Args:
        entries: Lines of the legend, in their order.
        width: Width of the picture, in pixels.
        text_size: Size of the text, in pixels.
        max_height: Largest height, in pixels. Entries that don't fit are counted in a last line. At least two lines
            are drawn.

    Returns:
        Picture of shape (h, width, 3), uint8, RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(text_size)
    line, margin = round(text_size * 1.5), round(text_size * 0.75)
    swatch, space = round(text_size * 0.8), round(text_size * 0.45)
    table = _Table(entries, font, text_size, width - 2 * margin)
    most_rows = len(entries) if max_height is None else max(2, (max_height - 2 * margin) // line)
    rows = table.arrange(most_rows)
    shown = len(entries) if rows * len(table.lefts) >= len(entries) else rows * len(table.lefts) - 1

    picture = Image.new("RGB", (width, max(1, rows) * line + 2 * margin - (line - text_size)), PAPER)
    draw = ImageDraw.Draw(picture)
    for index, entry in enumerate(entries[:shown]):
        column, row = divmod(index, rows)
        left, middle = margin + table.lefts[column], margin + row * line + text_size / 2
        _draw_swatch(draw, left, round(middle - swatch / 2), swatch, entry.colour)
        draw.text((left + swatch + space, middle), table.names[index], _INK, font, anchor="lm")
        draw.text((left + table.widths[column], middle), percent(entry.share), _FAINT, font, anchor="rm")
    if shown < len(entries):
        column, row = divmod(shown, rows)
        left, middle = margin + table.lefts[column], margin + row * line + text_size / 2
        rest = percent(sum(entry.share for entry in entries[shown:]))
        text = _shortened(f"and {len(entries) - shown} more  {rest}", font, width - left)
        draw.text((left, middle), text, _FAINT, font, anchor="lm")
    return np.asarray(picture)


class _Table:
    """Columns of a legend, each as wide as its longest name.

    Attributes:
        names: Names as drawn.
        lefts: Left end of each column.
        widths: Width of each column.
    """

    # Longest names to try, in multiples of the text size: names are cut further before entries are left out.
    _LONGEST = (24, 14, 9)

    def __init__(
        self, entries: Sequence[Entry], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text_size: int, room: int
    ) -> None:
        self._all_names = [shown_name(entry) for entry in entries]
        self._font, self._text_size, self._room = font, text_size, room
        self._gap = round(text_size * 1.6)
        # The swatch and a space before the name; a space and the share after it.
        share = max((font.getlength(percent(entry.share)) for entry in entries), default=0)
        self._beside = round(text_size * 0.8) + round(text_size * 1.05) + round(share)
        self.names: list[str] = []
        self.lefts: list[int] = []
        self.widths: list[int] = []

    def arrange(self, most_rows: int) -> int:
        """Choose as many columns as fit, and return the number of rows."""
        for longest in self._LONGEST:
            room = max(self._text_size, min(longest * self._text_size, self._room - self._beside))
            self.names = [_shortened(each, self._font, room) for each in self._all_names]
            lengths = [round(self._font.getlength(each)) for each in self.names]
            rows = self._rows(lengths)
            if rows <= most_rows:
                break
        rows = min(rows, most_rows)
        columns = [lengths[start : start + rows] for start in range(0, len(lengths), max(1, rows))]
        self.widths, self.lefts, left = [], [], 0
        for column in columns:
            width = self._beside + max(column)
            if self.lefts and left + width > self._room:
                break
            self.lefts.append(left)
            self.widths.append(width)
            left += width + self._gap
        return rows

    def _rows(self, lengths: list[int]) -> int:
        """Return the smallest number of rows with which all columns fit."""
        for rows in range(1, len(lengths)):
            columns = [lengths[start : start + rows] for start in range(0, len(lengths), rows)]
            width = sum(self._beside + max(column) for column in columns) + self._gap * (len(columns) - 1)
            if width <= self._room:
                return rows
        return len(lengths)


def _draw_swatch(draw: ImageDraw.ImageDraw, left: int, top: int, size: int, colour: Colour) -> None:
    box = (left, top, left + size - 1, top + size - 1)
    border = max(1, size // 12)
    if colour == BLACK:
        draw.rectangle(box, PAPER, _FAINT, border)
        draw.line((left, top + size - 1, left + size - 1, top), _FAINT, border)
    elif min(colour) >= _PALE:
        draw.rectangle(box, colour, _FAINT, border)
    else:
        draw.rectangle(box, colour)


def percent(share: float) -> str:
    """Return a share (0..1) as a percentage with one decimal."""
    return "<0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def shown_name(entry: Entry) -> str:
    """Return the name of a class as the legend shows it.

    The font has no accents, so accented letters lose them. A bare id, or a name with non-Latin letters, becomes
    "class" and the id.
    """
    parts = unicodedata.normalize("NFKD", entry.name.translate(_LATIN))
    name = "".join(each for each in parts if not unicodedata.combining(each)).strip()
    is_name = name not in ("", str(entry.class_id)) and _has_letters(name)
    return name if is_name else f"class {entry.class_id}"


@lru_cache(maxsize=4096)
def _has_letters(text: str) -> bool:
    """Return whether the font has a glyph for each character."""
    from PIL import ImageFont

    font = ImageFont.load_default(SMALLEST_TEXT)
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.isascii()
    missing = bytes(font.getmask("\uffff"))
    return not any(bytes(font.getmask(each)) == missing for each in {*text} if not each.isspace())


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """Return a text, shortened to fit in `room` pixels, with at least one letter left."""
    if font.getlength(text) <= room:
        return text
    fits, too_long = 1, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if font.getlength(text[:middle].rstrip() + "…") <= room:
            fits = middle
        else:
            too_long = middle
    return text[:fits].rstrip() + "…"
