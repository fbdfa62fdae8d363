"""Pictures of masks: overlays with thin outlines, with and without a legend. Pillow is imported when first used.

Shapes: H W the image, h w a picture, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.errors import ImageError
from segnets.inference.legend import BLACK, PAPER, SMALLEST_TEXT, draw_legend, legend_entries
from segnets.inference.masks import VOID

_BAND = 1 << 16  # pixels to blend at a time, so that the intermediate values stay in the cache
_SMALLEST_WIDTH = 240  # smallest width of a picture with a legend; a smaller image is enlarged


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
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W); the last plane that is 1 is shown.
        palette: One RGB colour (0..255) per class id.
        alpha: Opacity of the colours, 0..1.
        outlines: Whether to draw outlines inside each region, one pixel wide for images up to 1000 pixels and wider for
            larger ones.

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
    table = np.array(colours, dtype=np.uint8)
    coloured = np.where(table.any(axis=1, keepdims=True), np.uint8(255), np.uint8(0)).repeat(3, axis=1)
    edges = _outlines(ids, max(1, round(min(image.shape[:2]) / 700))) if outlines else None
    picture = np.empty((*image.shape[:2], 3), dtype=np.uint8)
    rows = max(1, _BAND // max(1, image.shape[1]))
    for top in range(0, len(image), rows):
        band = slice(top, top + rows)
        under = image[band, :, :3] if image.shape[2] >= 3 else image[band, :, :1].repeat(3, axis=2)
        # Bitwise selection: the image where the colour is black. Indexing by pixels takes many times longer.
        over = under ^ ((under ^ _looked_up(table, ids[band])) & _looked_up(coloured, ids[band]))
        picture[band] = _blended(under, over, round(alpha * 256))
        if edges is not None:
            chosen = np.flatnonzero(edges[band])
            picture[band].reshape(-1, 3)[chosen] = over.reshape(-1, 3).take(chosen, axis=0)
    return picture


def _looked_up(table: npt.NDArray[np.uint8], ids: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Return the row of a table, (n, 3), for each pixel, (h, W, 3)."""
    from PIL import Image

    if ids.dtype != np.uint8 or ids.size == 0:
        return table.take(ids, axis=0)
    indexed = Image.fromarray(ids)
    indexed.putpalette(table[:256].tobytes())  # Pillow looks colours up several times faster than NumPy
    return np.asarray(indexed.convert("RGB"))


def _blended(under: npt.NDArray[np.uint8], over: npt.NDArray[np.uint8], weight: int) -> npt.NDArray[np.uint8]:
    """Blend two pictures. `weight` is that of `over`, in 256ths."""
    values = under * np.uint16(256 - weight)
    values += over * np.uint16(weight)
    values += np.uint16(128)
    values >>= np.uint16(8)
    return values.astype(np.uint8)


def _ids_and_colours(
    mask: npt.NDArray[np.integer], palette: Sequence[Colour]
) -> tuple[npt.NDArray[np.integer], list[Colour]]:
    """Return one id per pixel, and a colour for each id, black for pixels without a class."""
    if mask.ndim == 3:
        if len(mask) > len(palette):
            raise ImageError(
                f"the mask has {len(mask)} planes, but the palette has {len(palette)} colours. Give one per plane"
            )
        ids = np.zeros(mask.shape[1:], dtype=np.uint8 if len(mask) < 256 else np.uint16)
        for index, plane in enumerate(mask):
            ids[plane != 0] = index + 1
        return ids, [BLACK, *palette]
    highest = int(mask.max(initial=0))
    colours = list(palette)
    if highest >= len(palette):
        others = mask[mask != VOID]
        if others.size and int(others.max()) >= len(palette):
            raise ImageError(
                f"the mask has the id {others.max()}, but the palette has {len(palette)} colours. Give one per id"
            )
        colours += [BLACK] * (VOID + 1 - len(palette))
    if mask.size and int(mask.min()) < 0:
        raise ImageError(f"the mask has the id {mask.min()}; expected ids from 0")
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
        max_side: Longest side of the overlay, in pixels; larger images are reduced. None keeps the size.

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
    size = max(SMALLEST_TEXT, min(round((height * full_width) ** 0.5 / 33), full_width // 14))
    strip = draw_legend(entries, full_width, size, max(height // 2, 8 * size))
    picture = np.empty((height + len(strip), full_width, 3), dtype=np.uint8)
    picture[:height, :width] = shown
    picture[:height, width:] = PAPER
    picture[height:] = strip
    return picture


def _reduced(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.integer], max_side: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    """Reduce an image by averaging, and its mask by subsampling."""
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
