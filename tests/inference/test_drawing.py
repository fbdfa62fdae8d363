"""Overlays and legends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFont

from segnets.errors import ImageError
from segnets.inference import overlay, voc_palette
from segnets.inference.drawing import draw_overlay, draw_picture
from segnets.inference.legend import Entry, draw_legend, legend_entries, percent, shown_name

RED, GREEN, BLACK, WHITE = (200, 0, 0), (0, 180, 0), (0, 0, 0), (255, 255, 255)


@pytest.fixture(scope="module")
def image() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def entries(count: int, name: str = "class number {}") -> list[Entry]:
    return [Entry(each, name.format(each), (10 * each % 256, 80, 160), 1 / count) for each in range(count)]


def has_colour(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=2).any())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_plain_overlays_equal_those_of_the_cpp_library(image: npt.NDArray[np.uint8], channels: int) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (300, 400, channels), dtype=np.uint8)  # more than one band
    mask = rng.integers(0, 5, (300, 400), dtype=np.uint8)
    mask[:20] = 255
    plain = draw_overlay(pixels, mask, voc_palette(5), outlines=False)
    assert np.array_equal(plain, overlay(pixels, mask, voc_palette(5)))
    wide = rng.integers(0, 400, (300, 400), dtype=np.uint16)
    palette = voc_palette(400)
    assert np.array_equal(draw_overlay(pixels, wide, palette, outlines=False), overlay(pixels, wide, palette))
    assert np.array_equal(draw_overlay(pixels, mask, palette, outlines=False), overlay(pixels, mask, palette))
    planes = rng.integers(0, 2, (3, 300, 400), dtype=np.uint8)
    plain = draw_overlay(pixels, planes, voc_palette(3), outlines=False)
    assert np.array_equal(plain, overlay(pixels, planes, voc_palette(3)))


def test_opacity_goes_from_the_image_to_the_colour(image: npt.NDArray[np.uint8]) -> None:
    mask = np.ones(image.shape[:2], np.uint8)
    assert np.array_equal(draw_overlay(image, mask, [BLACK, RED], alpha=0), image)
    assert (draw_overlay(image, mask, [BLACK, RED], alpha=1) == RED).all()
    quarter = draw_overlay(image, mask, [BLACK, RED], alpha=0.25)
    assert np.abs(quarter - (0.75 * image + 0.25 * np.array(RED))).max() <= 0.5
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        draw_overlay(image, mask, [BLACK, RED], alpha=1.5)


def test_outlines_are_the_borders_inside_coloured_regions(image: npt.NDArray[np.uint8]) -> None:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[10:20, 10:30] = 1
    mask[15:20, 20:30] = 2
    plain = draw_overlay(image, mask, [BLACK, RED, GREEN], outlines=False)
    drawn = draw_overlay(image, mask, [BLACK, RED, GREEN])
    inner = np.zeros(mask.shape, bool)
    inner[11:14, 11:29] = inner[14, 11:20] = inner[15:19, 11:19] = inner[16:19, 21:29] = True
    unchanged = inner | (mask == 0)
    unchanged[14, 20:29] = False
    assert np.array_equal(drawn[unchanged], plain[unchanged])
    colours = np.array([BLACK, RED, GREEN], np.uint8)[mask]
    assert np.array_equal(drawn[~unchanged], colours[~unchanged])


def test_outlines_grow_with_the_image() -> None:
    image = np.zeros((2100, 2200, 3), np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[:, 1000:] = 1
    row = draw_overlay(image, mask, [BLACK, RED])[1000]
    assert np.flatnonzero((row == RED).all(axis=1)).tolist() == [1000, 1001, 1002]


def test_ids_without_a_colour_and_other_sizes_are_refused(image: npt.NDArray[np.uint8]) -> None:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[0, 0] = 7
    with pytest.raises(ImageError, match="the id 7, but the palette has 2 colours"):
        draw_overlay(image, mask, [BLACK, RED])
    with pytest.raises(ImageError, match="the id -1"):
        draw_overlay(image, mask.astype(np.int16) * 0 - 1, [BLACK, RED])
    with pytest.raises(ImageError, match="3 planes, but the palette has 2 colours"):
        draw_overlay(image, np.stack([mask] * 3), [BLACK, RED])
    with pytest.raises(ImageError, match="expected"):
        draw_overlay(image, mask[1:], [BLACK, RED])


def test_entries_are_the_present_classes_the_largest_first() -> None:
    mask = np.array([[2, 2, 2, 0], [2, 255, 0, 3]], np.uint8)
    palette = voc_palette(5)
    found = legend_entries(mask, ["a", "b", "c", "d", "e"], palette)
    assert [(each.class_id, each.name, each.share) for each in found] == [
        (2, "c", 0.5),
        (0, "a", 0.25),
        (3, "d", 0.125),
    ]
    assert [each.colour for each in found] == [palette[2], palette[0], palette[3]]
    assert [percent(share) for share in (0.5, 0.0004, 0.00123, 0, 1)] == [
        "50.0 %",
        "<0.1 %",
        "0.1 %",
        "0.0 %",
        "100.0 %",
    ]


def test_legends_have_a_swatch_for_each_class() -> None:
    shown = [Entry(1, "dog", RED, 0.7), Entry(2, "cat", GREEN, 0.3)]
    picture = draw_legend(shown)
    assert picture.shape[1:] == (480, 3)
    assert has_colour(picture, RED)
    assert has_colour(picture, GREEN)
    assert (picture[[0, -1]] == 255).all()
    assert (picture[:, [0, -1]] == 255).all()
    # The swatch of a black class is crossed out, a white one has a border.
    crossed, white = (draw_legend([Entry(0, "", colour, 1.0)], 200, 40) for colour in (BLACK, (255, 255, 255)))
    assert not has_colour(crossed, BLACK)
    assert has_colour(white[:, :60], (120, 120, 120))
    assert not np.array_equal(crossed[:, :60], white[:, :60])
    assert draw_legend([], 100, 12).shape[1:] == (100, 3)


def test_more_columns_need_fewer_rows() -> None:
    narrow, wide = draw_legend(entries(24), 200, 14), draw_legend(entries(24), 1200, 14)
    assert narrow.shape[0] > 3 * wide.shape[0]
    for each in entries(24):
        assert has_colour(narrow, each.colour)
        assert has_colour(wide, each.colour)


def test_what_does_not_fit_is_counted() -> None:
    picture = draw_legend(entries(150), 500, 14, 200)
    assert picture.shape[0] <= 200
    drawn = [has_colour(picture, each.colour) for each in entries(25)]
    assert drawn[0]
    assert not drawn[-1]
    assert (picture[-60:] != 255).any()


@pytest.mark.parametrize("width", [1, 20, 120, 480])
def test_long_names_stay_inside(width: int) -> None:
    picture = draw_legend(entries(3, "{} is a name that goes on and on" + " and on" * 30), width, 14)
    assert picture.shape[1] == width
    if width > 100:
        assert (picture[:, -5:] == 255).all()


def test_names_that_the_font_lacks_become_ids() -> None:
    assert shown_name(Entry(3, "dining table", RED, 1)) == "dining table"
    assert shown_name(Entry(3, "3", RED, 1)) == "class 3"  # a bare id
    assert shown_name(Entry(3, "v\u00e9lo", RED, 1)) == "velo"
    assert shown_name(Entry(3, "ve\u0301lo", RED, 1)) == "velo"  # the accent as a character of its own
    assert shown_name(Entry(3, "Fußgänger", RED, 1)) == "Fussganger"
    for name in ("飞机", "бутылка", "🐕", "", "  "):
        assert shown_name(Entry(3, name, RED, 1)) == "class 3"


@pytest.mark.parametrize("shape", [(1, 1), (30, 40), (3, 400), (2000, 20), (375, 500), (600, 250)])
def test_pictures_of_any_size_have_a_readable_legend(shape: tuple[int, int]) -> None:
    mask = (np.indices(shape).sum(0) // 7 % 2).astype(np.uint8)
    picture = draw_picture(np.full((*shape, 3), 99, np.uint8), mask, ["ground", "dog"], [BLACK, RED])
    factor = max(1, min(-(-240 // shape[1]), 480 // shape[0]))
    assert picture.shape[1] == max(240, shape[1] * factor)
    legend = picture[shape[0] * factor :]
    line = ImageFont.load_default(12).getbbox("dog")
    assert legend.shape[0] >= line[3] - line[1]
    assert (legend[:, :, 0] < 100).any()
    if factor == 1:
        assert np.array_equal(
            picture[: shape[0], : shape[1]], draw_overlay(np.full((*shape, 3), 99, np.uint8), mask, [BLACK, RED])
        )


def test_pictures_are_reduced_before_they_are_drawn(image: npt.NDArray[np.uint8]) -> None:
    mask = np.zeros((1200, 2000), np.uint8)
    mask[:, 1000:] = 1
    large = np.asarray(Image.fromarray(image).resize((2000, 1200)))
    picture = draw_picture(large, mask, ["ground", "dog"], [BLACK, RED], max_side=500)
    assert picture.shape[1] == 500
    assert 300 < picture.shape[0] < 400
    assert (picture[100, 250] == RED).all()  # the outline is still one pixel wide
    assert not (picture[100, 251] == RED).all()
    assert (picture[100, 249] != RED).any()


def test_pictures_without_an_image_show_the_colours() -> None:
    mask = np.repeat(np.array([[0, 1]], np.uint8), 200, axis=1).repeat(300, axis=0)
    picture = draw_picture(None, mask, ["ground", "dog"], [BLACK, RED])
    assert (picture[:300, :200] == BLACK).all()
    assert (picture[:300, 200:400] == RED).all()
