"""Pictures of masks: overlays with thin outlines, and legends with names and shares.

Pillow is imported when first used. Text is drawn with the font that Pillow includes (Aileron, ASCII letters).

Shapes: H W the image, h w a picture, C classes.
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
from segnets.errors import ImageError
from segnets.inference.areas import class_areas
from segnets.inference.masks import VOID

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

_BAND = 1 << 16  # pixels to blend at a time, so that the intermediate values stay in the cache
_BLACK: Colour = (0, 0, 0)
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (32, 32, 32)
_FAINT: Colour = (120, 120, 120)
# Latin letters that are no letter with an accent by Unicode's rules.
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
_PALE = 208  # least value of the channels of a colour that needs a border on white
_SMALLEST_TEXT = 12  # pixels
_SMALLEST_WIDTH = 240  # of a picture with a legend; a smaller image is enlarged


@dataclass(frozen=True)
class Entry:
    """One line of a legend.

    Attributes:
        class_id: Id of the class.
        name: Name of the class.
        colour: RGB colour, 0..255; black for a class that is not coloured.
        share: Part of the image's pixels, 0..1.
    """

    class_id: int
    name: str
    colour: Colour
    share: float


def draw_overlay(
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.integer],
    palette: Sequence[Colour],
    *,
    alpha: float = 0.5,
    outlines: bool = True,
) -> npt.NDArray[np.uint8]:
    """Blend an image with the colours of a mask, and outline the regions in the full colour.

    Without outlines, and with an alpha of 0.5, the result equals that of `segnets.inference.overlay`. Black classes
    leave the image unchanged, and so does the id 255 if it has no class.

    Args:
        image: Image of shape (H, W, K), uint8. The first three channels are shown, or for fewer the first one, as gray.
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W), of which the last that is 1 is shown.
        palette: One RGB colour (0..255) per class id.
        alpha: Opacity of the colours, 0..1.
        outlines: Whether to draw outlines, one pixel wide for images up to 1000 pixels, wider for larger ones. They are
            inside the region that they outline.

    Returns:
        Picture of shape (H, W, 3), uint8, RGB.

    Raises:
        ImageError: If the sizes differ, or an id other than 255 has no colour.
        ValueError: If `alpha` is not in 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha!r}: expected an opacity from 0 to 1")
    if image.ndim != 3 or image.dtype != np.uint8 or mask.shape[-2:] != image.shape[:2]:
        raise ImageError(
            f"mask of shape {mask.shape} for an image of shape {image.shape} and type {image.dtype}: expected (H, W) "
            "for (H, W, K) uint8"
        )
    ids, colours = _ids_and_colours(mask, palette)
    picture = np.empty((*image.shape[:2], 3), dtype=np.uint8)
    weight = round(alpha * 256)
    # In 256ths: the weight of the image and the colour already weighted, so that a black class copies the image.
    table = np.array(colours, dtype=np.uint16)
    kept = np.where((table == 0).all(axis=1), 256, 256 - weight).astype(np.uint16)
    added = (table * np.uint16(weight) + np.uint16(128)).astype(np.uint16)
    rows = max(1, _BAND // max(1, image.shape[1]))
    for top in range(0, len(image), rows):
        band = slice(top, top + rows)
        factor = kept[ids[band]]
        for channel in range(3):
            values = image[band, :, channel if image.shape[2] >= 3 else 0] * factor
            values += added[:, channel][ids[band]]
            picture[band, :, channel] = values >> 8
    if outlines:
        thickness = max(1, round(min(image.shape[:2]) / 700))
        drawn = _outlines(ids, thickness)
        drawn &= (kept != 256)[ids]
        picture[drawn] = table.astype(np.uint8)[ids[drawn]]
    return picture


def _ids_and_colours(
    mask: npt.NDArray[np.integer], palette: Sequence[Colour]
) -> tuple[npt.NDArray[np.integer], list[Colour]]:
    """Return one id per pixel, and a colour for each id, black for pixels without a class."""
    if mask.ndim == 3:
        if len(mask) > len(palette):
            raise ImageError(f"mask of {len(mask)} planes for a palette of {len(palette)} colours")
        ids = np.zeros(mask.shape[1:], dtype=np.uint8 if len(mask) < 256 else np.uint16)
        for index, plane in enumerate(mask):
            ids[plane != 0] = index + 1
        return ids, [_BLACK, *palette]
    highest = int(mask.max(initial=0))
    colours = list(palette)
    if highest >= len(palette):
        others = mask[mask != VOID]
        if others.size and int(others.max()) >= len(palette):
            raise ImageError(f"mask with the id {others.max()} for a palette of {len(palette)} colours")
        colours += [_BLACK] * (VOID + 1 - len(palette))
    if mask.size and int(mask.min()) < 0:
        raise ImageError(f"mask with the id {mask.min()}: expected ids from 0")
    return mask, colours


def _outlines(ids: npt.NDArray[np.integer], thickness: int) -> npt.NDArray[np.bool_]:
    """Return the pixels that are less than `thickness` pixels from another id, (H, W)."""
    edge = np.zeros(ids.shape, dtype=bool)
    beside, below = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    edge[:, 1:] |= beside
    edge[:, :-1] |= beside
    edge[1:] |= below
    edge[:-1] |= below
    for _ in range(thickness - 1):
        wider = edge.copy()
        wider[:, 1:] |= edge[:, :-1]
        wider[:, :-1] |= edge[:, 1:]
        edge = wider.copy()
        edge[1:] |= wider[:-1]
        edge[:-1] |= wider[1:]
    return edge


def legend_entries(mask: npt.NDArray[np.integer], classes: Sequence[str], palette: Sequence[Colour]) -> list[Entry]:
    """List the classes in a mask, the largest first.

    Args:
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W).
        classes: One name per class id.
        palette: One RGB colour per class id.

    Returns:
        One entry per class that has pixels.

    Raises:
        ImageError: If the mask has another shape, or an id without a class.
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
    is cut. The font has no accents, and letters are drawn without; a bare id, or a name with letters that are not
    Latin, is replaced by "class" and the id.

    Args:
        entries: Lines of the legend, in their order.
        width: Width of the picture.
        text_size: Size of the text, in pixels.
        max_height: Largest height. Entries that don't fit are counted in a last line. At least two lines are drawn.

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

    picture = Image.new("RGB", (width, max(1, rows) * line + 2 * margin - (line - text_size)), _PAPER)
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

    # Longest name, in sizes of the text: names are cut more where the legend would have to leave entries out.
    _LONGEST = (24, 14, 9)

    def __init__(
        self, entries: Sequence[Entry], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text_size: int, room: int
    ) -> None:
        self._all_names = [shown_name(entry) for entry in entries]
        self._font, self._text_size, self._room = font, text_size, room
        self._gap = round(text_size * 1.6)
        # Swatch, space, then after the name space and the share.
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
        """Return the least number of rows with which all columns fit."""
        for rows in range(1, len(lengths)):
            columns = [lengths[start : start + rows] for start in range(0, len(lengths), rows)]
            width = sum(self._beside + max(column) for column in columns) + self._gap * (len(columns) - 1)
            if width <= self._room:
                return rows
        return len(lengths)


def _draw_swatch(draw: ImageDraw.ImageDraw, left: int, top: int, size: int, colour: Colour) -> None:
    box = (left, top, left + size - 1, top + size - 1)
    border = max(1, size // 12)
    if colour == _BLACK:
        draw.rectangle(box, _PAPER, _FAINT, border)
        draw.line((left, top + size - 1, left + size - 1, top), _FAINT, border)
    elif min(colour) >= _PALE:
        draw.rectangle(box, colour, _FAINT, border)
    else:
        draw.rectangle(box, colour)


def percent(share: float) -> str:
    """Return a share (0..1) as a percentage with one decimal."""
    return "<0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def shown_name(entry: Entry) -> str:
    """Return the name of a class as a legend has it.

    The font has no accents: letters are drawn without. A bare id, or a name with other letters, becomes "class" and
    the id.
    """
    parts = unicodedata.normalize("NFKD", entry.name.translate(_LATIN))
    name = "".join(each for each in parts if not unicodedata.combining(each)).strip()
    is_name = name not in ("", str(entry.class_id)) and _has_letters(name)
    return name if is_name else f"class {entry.class_id}"


@lru_cache(maxsize=4096)
def _has_letters(text: str) -> bool:
    """Return whether the font has a picture of each character."""
    from PIL import ImageFont

    font = ImageFont.load_default(_SMALLEST_TEXT)
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.isascii()
    missing = bytes(font.getmask("\uffff"))
    return not any(bytes(font.getmask(each)) == missing for each in {*text} if not each.isspace())


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """Return a text, cut so that it fits in `room` pixels, with at least one letter left."""
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


def draw_picture(
    image: npt.NDArray[np.uint8] | None,
    mask: npt.NDArray[np.integer],
    classes: Sequence[str],
    palette: Sequence[Colour],
    *,
    alpha: float = 0.5,
    outlines: bool = True,
    max_side: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw an overlay with the legend below it.

    The overlay is the upper left part of the picture, at the image's size. An image narrower than 240 pixels is
    enlarged by a whole number, so that the legend stays readable.

    Args:
        image: Image of shape (H, W, K), uint8; None shows the colours alone.
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W).
        classes: One name per class id.
        palette: One RGB colour per class id.
        alpha: Opacity of the colours, 0..1.
        outlines: Whether to outline the regions.
        max_side: Reduce the image so that neither side is larger; None keeps its size.

    Returns:
        Picture of shape (h, w, 3), uint8, RGB.

    Raises:
        ImageError: If the sizes differ, or an id has no class.
        ValueError: If `alpha` is not in 0..1.
    """
    entries = legend_entries(mask, classes, palette)
    if image is None:
        image, alpha, outlines = np.zeros((*mask.shape[-2:], 1), dtype=np.uint8), 1.0, False
    if max_side is not None:
        image, mask = _reduced(image, mask, max_side)
    height, width = image.shape[:2]
    if width < _SMALLEST_WIDTH:
        factor = max(1, min(-(-_SMALLEST_WIDTH // width), 2 * _SMALLEST_WIDTH // height))
        image = image.repeat(factor, axis=0).repeat(factor, axis=1)
        mask = mask.repeat(factor, axis=-2).repeat(factor, axis=-1)
    shown = draw_overlay(image, mask, palette, alpha=alpha, outlines=outlines)
    height, width = shown.shape[:2]
    full_width = max(width, _SMALLEST_WIDTH)
    size = max(_SMALLEST_TEXT, min(round((height * full_width) ** 0.5 / 33), full_width // 14))
    strip = draw_legend(entries, full_width, size, max(height // 2, 8 * size))
    picture = np.full((height + len(strip), full_width, 3), _PAPER, dtype=np.uint8)
    picture[:height, :width] = shown
    picture[height:] = strip
    return picture


def _reduced(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.integer], max_side: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    """Reduce an image by averaging, and its mask by leaving pixels out."""
    from PIL import Image

    height, width = image.shape[:2]
    if max(height, width) <= max_side:
        return image, mask
    scale = max_side / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    shown = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, 0]
    small = np.asarray(
        Image.fromarray(np.ascontiguousarray(shown)).resize((new_width, new_height), Image.Resampling.BOX)
    )
    rows = (np.arange(new_height) * 2 + 1) * height // (2 * new_height)
    columns = (np.arange(new_width) * 2 + 1) * width // (2 * new_width)
    return small.reshape(new_height, new_width, -1), mask[..., rows[:, None], columns[None, :]]
