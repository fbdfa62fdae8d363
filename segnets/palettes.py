"""Colours of classes: PASCAL VOC's, and the usual ones for street scenes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from segnets.card import Colour

# Cityscapes' colours for the usual names of classes in street scenes. Many publications use them.
_CUSTOMARY: dict[str, Colour] = {
    "sky": (70, 130, 180),
    "building": (102, 102, 156),
    "wall": (190, 153, 153),
    "pole": (255, 187, 120),
    "road": (128, 64, 128),
    "pavement": (244, 35, 232),
    "sidewalk": (244, 35, 232),
    "tree": (107, 142, 35),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "grass": (152, 251, 152),
    "sign": (220, 220, 0),
    "trafficsign": (220, 220, 0),
    "trafficlight": (250, 170, 30),
    "fence": (192, 110, 60),
    "car": (0, 60, 200),
    "truck": (0, 0, 110),
    "bus": (0, 120, 130),
    "train": (0, 80, 100),
    "motorcycle": (60, 0, 230),
    "bicycle": (119, 11, 32),
    "pedestrian": (220, 20, 60),
    "person": (220, 20, 60),
    "cyclist": (255, 100, 60),
    "rider": (255, 100, 60),
    "background": (0, 0, 0),
}
_OTHERS: tuple[Colour, ...] = (
    *((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194)),
    *((188, 189, 34), (23, 190, 207), (255, 187, 120), (152, 223, 138), (255, 152, 150), (197, 176, 213)),
)
_GOLDEN = 0.618034  # successive hues stay far from each other


def voc_palette(num_classes: int) -> list[Colour]:
    """Return PASCAL VOC's colour map: class 0 is black, 1 dark red, 2 dark green.

    The bits of the class id go to red, green and blue in turn, starting at the highest bit of each colour
    (VOClabelcolormap.m of the VOC development kit).

    Args:
        num_classes: Number of colours.

    Returns:
        One RGB colour (0..255) per class id.
    """

    def channel(class_id: int, shift: int) -> int:
        return sum((class_id >> (3 * bit + shift) & 1) << (7 - bit) for bit in range(8))

    return [(channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(num_classes)]


def default_palette(classes: Sequence[str]) -> tuple[Colour, ...]:
    """Return a colour for each class, all different: the usual one for its name, or the next in a list.

    Only a class named "background" is black, which overlays leave unchanged.

    Args:
        classes: Names of the classes.
    """
    chosen: dict[int, Colour] = {}
    for number, name in enumerate(classes):
        colour = _CUSTOMARY.get("".join(letter for letter in name.lower() if letter.isalpha()))
        if colour is not None and colour not in chosen.values():
            chosen[number] = colour
    free = (colour for colour in (*_OTHERS, *_hues(2 * len(classes))) if colour not in chosen.values())
    return tuple(chosen[number] if number in chosen else next(free) for number in range(len(classes)))


def _hues(count: int) -> list[Colour]:
    """Return colours of different hues and brightness."""
    colours: list[Colour] = []
    for number in range(count):
        red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.55 + number % 3 * 0.2, 0.95 - number % 4 * 0.15)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return list(dict.fromkeys(colours))
