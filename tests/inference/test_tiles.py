"""Tiles: their places, blending and order, and equality with the whole image."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnets.card import Decoding, ModelCard
from segnets.errors import PredictError
from segnets.images import ImageData
from segnets.inference.maps import LogitMaps, confidence, decode_mask
from segnets.inference.networks import Network, open_network
from segnets.inference.rasters import open_raster
from segnets.inference.tiles import Rows, tile_rows
from segnets.inference.tiling import Span, divide
from segnets.inference.views import View
from segnets.inference.writers.png import PngRows
from segnets.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
KEPT = Preprocessing(resize="none")


class Fcn(nn.Module):
    """Three 3x3 convolutions, two of stride 2, and logits resized to the input, as in FCN."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, classes, 3, padding=1),
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        logits = F.interpolate(self.layers(image), size=image.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": 8 * logits}


def receptive_field(model: nn.Module, size: int = 64) -> int:
    """Number of pixels, in one direction, that a logit depends on, counted symmetrically around its own pixel."""
    reach = 0
    for at in range(size // 2, size // 2 + 4):  # each place in a cell of 4 pixels
        image = torch.rand(1, 3, size, size, requires_grad=True)
        model(image)["out"][0, :, at, at].sum().backward()
        assert image.grad is not None
        seen = image.grad[0].abs().sum((0, 1)).nonzero()
        reach = max(reach, at - int(seen.min()), int(seen.max()) - at)
    return 2 * reach + 1


class Excluding(nn.Module):
    """Logits of a network, resized or not, without the class 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        output = self.network(image)
        logits: Tensor = output["out"] if isinstance(output, dict) else output
        excluded = torch.arange(logits.shape[1])[:, None, None] == 1
        return {"out": logits.masked_fill(excluded, -float("inf"))}


class Pooled(nn.Module):
    """A class for each tile: the sum over all of its pixels."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        mean = image.mean(dim=(2, 3), keepdim=True)
        return {"out": mean.expand(-1, -1, *image.shape[2:]).contiguous()}


def network(model: nn.Module, preprocessing: Preprocessing = KEPT, decoding: Decoding | None = None) -> Network:
    setattr(model, "card", ModelCard(preprocessing=preprocessing, decoding=decoding))  # noqa: B010
    return open_network(model.eval(), device="cpu", fast=False)


def image_of(height: int, width: int) -> npt.NDArray[np.uint8]:
    coarse = RNG.integers(0, 256, (1, 3, height // 8 + 2, width // 8 + 2)).astype(np.float32)
    smooth = F.interpolate(torch.from_numpy(coarse), size=(height, width), mode="bicubic")
    return smooth.clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous().numpy()


def tiled(image: npt.NDArray[np.uint8], net: Network, **options: Any) -> Any:
    """All rows as one piece (Rows), checked for gaps."""
    parts: list[Rows] = []
    for rows in tile_rows(open_raster(ImageData(image)), net, **options):
        assert rows.top == (parts[-1].bottom if parts else 0)
        assert len(rows.image) == rows.mask.shape[-2] > 0
        parts.append(rows)
    assert parts[-1].bottom == len(image)

    def joined(name: str, axis: int) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values, axis=axis)

    whole = Rows(0, joined("image", 0), joined("mask", -2), joined("confidence", 0), joined("logits", 1))
    assert np.array_equal(whole.image, image)
    return whole


def plain(image: npt.NDArray[np.uint8], net: Network) -> LogitMaps:
    return View().maps(net.logits(net.prepare(torch.from_numpy(image)[None]))[0], *image.shape[:2])


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"),
    [(1, 1, 64, 0), (64, 65, 64, 8), (200, 129, 128, 32), (1000, 130, 96, 61), (999, 1024, 256, 0), (97, 500, 96, 3)],
)
def test_every_pixel_counts_once(height: int, width: int, tile: int, overlap: int) -> None:
    tiling = divide(height, width, tile=tile, overlap=overlap)
    assert len(tiling) == len(tiling.rows) * len(tiling.columns)
    for length, size, spans in ((height, tiling.size[0], tiling.rows), (width, tiling.size[1], tiling.columns)):
        assert size == min(length, tile)
        sums = np.zeros(length)
        for span in spans:
            assert 0 <= span.start <= span.first < span.last <= span.start + size <= length
            weights = np.ones(span.last - span.first)
            ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(tiling.blended) + 0.5) / max(1, tiling.blended))
            weights[: span.before] = ramp[: span.before]
            weights[len(weights) - span.after :] *= 1 - ramp[: span.after]
            sums[span.first : span.last] += weights
        assert np.allclose(sums, 1)
        # No pixel counts that is nearer than half of the overlap to an inner border of its tile.
        assert all(after.first - after.start >= overlap // 2 for after in spans[1:])
        assert all(before.start + size - before.last >= overlap // 2 for before in spans[:-1])
        assert all(span.start % 32 == 0 for span in spans[:-1])


@pytest.mark.parametrize(("tile", "largest"), [(64, 30), (512, 464), (544, 463), (576, 494), (1024, 928)])
def test_no_pixel_belongs_to_three_tiles(tile: int, largest: int) -> None:
    with pytest.raises(PredictError, match=f"expected 0 to {largest} for tiles"):
        divide(1, 1, tile=tile, overlap=largest + 1)
    for length in range(tile + 1, tile + 140):
        spans = divide(length, 1, tile=tile, overlap=largest).rows
        assert all(span.alone[0] <= span.alone[1] for span in spans), length


def test_what_is_no_tile() -> None:
    for tile, message in ((1000, "tile=1000: expected a multiple of 32, at least 64 .--tile 992"), (32, "--tile 64")):
        with pytest.raises(PredictError, match=message):
            divide(2000, 2000, tile=tile)
    with pytest.raises(PredictError, match=r"overlap=1024: expected 0 to 928 for tiles of 1024 pixels"):
        divide(2000, 2000, overlap=1024)
    assert str(divide(2000, 2000)) == "9 tiles of 1024x1024, one every 864 pixels, blended over 32"
    assert str(divide(1024, 100)) == "1 tile"
    assert len(divide(2000, 2000, overlap=928)) == 289


@pytest.mark.parametrize(("height", "width"), [(320, 416), (64, 512), (448, 96)])
def test_logits_equal_those_of_the_whole_image(height: int, width: int) -> None:
    net, image = network(Fcn(5)), image_of(height, width)
    maps = plain(image, net)
    expected = maps.band(0, height).numpy()
    assert 20 < receptive_field(Fcn(5)) < 28
    result = tiled(image, net, tile=128, overlap=28, logits=True, confidence=True)
    assert np.abs(result.logits - expected).max() < 1e-4
    assert np.abs(result.confidence - confidence(maps, Decoding())).max() < 1e-4
    differing = result.mask != decode_mask(maps, Decoding())
    assert len(np.unique(result.mask)) > 2
    assert differing.mean() < 1e-4
    if min(height, width) > 128:  # without context the borders of the tiles show
        near = tiled(image, net, tile=128, overlap=0, logits=True)
        assert np.abs(near.logits - expected).max() > 1e-2


def test_tiles_are_scaled_as_the_whole_image() -> None:
    net, image = network(Fcn(5), Preprocessing(resize="scale", size=2)), image_of(320, 416)
    expected = plain(image, net).band(0, 320).numpy()
    result = tiled(image, net, tile=128, overlap=28, logits=True)
    assert np.abs(result.logits - expected).max() < 1e-4
    unscaled = tiled(image, network(Fcn(5)), tile=128, overlap=28, logits=True)
    assert np.abs(unscaled.logits - expected).max() > 0.1


def segment(net: Network, image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return the network's own mask of a whole image."""
    batch = torch.from_numpy(image)[None]
    mask: npt.NDArray[Any] = net.own_mask(batch, net.logits(net.prepare(batch)))[0].numpy()
    return mask


def test_an_image_no_larger_than_a_tile_is_predicted_as_without_tiles() -> None:
    for preprocessing in (KEPT, Preprocessing(size=40), Preprocessing(resize="scale", size=1.5)):
        net, image = network(Fcn(5), preprocessing), image_of(61, 64)
        whole = plain(image, net)
        result = tiled(image, net, tile=64, overlap=16, logits=True, confidence=True)
        assert np.array_equal(result.mask, decode_mask(whole, Decoding()))
        assert np.array_equal(result.logits, whole.band(0, 61).numpy())
        assert np.array_equal(result.confidence, confidence(whole, Decoding()))
        assert np.array_equal(result.mask, segment(net, image))


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"),
    [(300, 310, 128, 28), pytest.param(1089, 64, 1024, 928, id="a tile that shares all its rows")],
)
def test_blending(height: int, width: int, tile: int, overlap: int) -> None:
    """The logits are the sum over all tiles, weighted by raised cosines in both directions."""
    net, image = network(Pooled()), image_of(height, width)
    image[:64] = 0  # so that the tiles differ
    tiling = divide(height, width, tile=tile, overlap=overlap)
    result = tiled(image, net, tile=tile, overlap=overlap, logits=True).logits
    scaled = image.astype(np.float64) / 255
    normal = (scaled - np.array(KEPT.mean)) / np.array(KEPT.std)
    assert tiling.blended == tile // 32
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(tile // 32) + 0.5) / (tile // 32))

    def weights(span: Span, size: int) -> npt.NDArray[np.float64]:
        values = np.zeros(size)
        values[span.first : span.last] = 1
        values[span.first : span.first + span.before] = ramp[: span.before]
        values[span.last - span.after : span.last] = ramp[::-1][: span.after]
        return values

    expected = np.zeros_like(normal)
    for row in tiling.rows:
        for column in tiling.columns:
            mean = normal[row.start : row.start + tile, column.start : column.start + tile].mean((0, 1))
            expected += weights(row, height)[:, None, None] * weights(column, width)[None, :, None] * mean
    assert np.abs(np.diff(expected, axis=0)).max() > 1e-3
    assert np.abs(result - expected.transpose(2, 0, 1)).max() < 1e-5


def test_equal_logits_stay_equal_and_without_overlap_nothing_is_blended() -> None:
    net, flat = network(Pooled()), np.full((300, 310, 3), 77, np.uint8)
    result = tiled(flat, net, tile=128, overlap=32, logits=True).logits
    assert len(np.unique(result)) == 3, "one value per channel, without the blending's rounding"
    cut = tiled(image_of(300, 310), net, tile=128, overlap=0, logits=True).logits
    assert np.count_nonzero(np.diff(cut[0, 0])) == 2, "three tiles side by side"


def test_the_order_of_the_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that run at once end in any order."""
    net, image = network(Fcn(3)), image_of(200, 150)
    options: dict[str, Any] = {"tile": 64, "overlap": 16, "logits": True, "confidence": True}
    expected = tiled(image, net, **options)

    def share_backwards(function: Callable[[Any], None], pieces: Iterable[Any]) -> None:
        for piece in reversed(list(pieces)):
            function(piece)

    monkeypatch.setattr("segnets.inference.tiles.share", share_backwards)
    result = tiled(image, net, **options)
    for name in ("mask", "logits", "confidence"):
        assert np.array_equal(getattr(result, name), getattr(expected, name)), name


@pytest.mark.parametrize("network_", [Fcn(3), Fcn(3).layers], ids=["resized", "small"])
def test_a_class_excluded_by_minus_infinity_is_in_no_mask(network_: nn.Module) -> None:
    """Weighted with 0 or subtracted from itself, infinity is NaN, which would be the largest logit."""
    result = tiled(image_of(90, 100), network(Excluding(network_)), tile=64, overlap=16, confidence=True)
    assert set(np.unique(result.mask)) == {0, 2}
    assert np.isfinite(result.confidence).all()


@pytest.mark.parametrize("batch", [2, 3, 100])
def test_tiles_in_batches(batch: int) -> None:
    net, image = network(Fcn(3), Preprocessing(size=48)), image_of(150, 300)
    one = tiled(image, net, tile=64, overlap=16, logits=True)
    several = tiled(image, net, tile=64, overlap=16, logits=True, batch=batch)
    assert np.allclose(one.logits, several.logits, atol=1e-5)


def test_decodings_of_other_networks() -> None:
    image = image_of(160, 200)
    planes = tiled(image, network(Fcn(3), decoding=Decoding("multilabel", 0.4)), tile=64, overlap=8)
    assert planes.mask.shape == (3, 160, 200)
    logits = tiled(image, network(Fcn(3)), tile=64, overlap=8, logits=True).logits
    assert np.array_equal(planes.mask, logits > Decoding("multilabel", 0.4).cut)
    assert 0 < planes.mask.mean() < 1
    binary = tiled(image, network(Fcn(1), decoding=Decoding("threshold", 0.6)), tile=64, overlap=8, logits=True)
    assert np.array_equal(binary.mask, binary.logits[0] > Decoding("threshold", 0.6).cut)
    many = tiled(image[:70, :70], network(Fcn(300)), tile=64, overlap=8, logits=True)
    assert many.mask.dtype == np.uint16
    assert np.array_equal(many.mask, many.logits.argmax(0))
    assert many.mask.max() > 255


def test_progress_and_reading() -> None:
    """Every row is read once, in order, and rows come before the image is read to its end."""

    class Recorded:
        name, height, width, channels, geo, notices = "image", 500, 100, 3, None, ()

        def __init__(self) -> None:
            self.read_to = 0

        def read(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
            assert (top, left, right) == (self.read_to, 0, 100)
            self.read_to = bottom
            return image[top:bottom, left:right]

    image = image_of(500, 100)
    raster: Any = Recorded()
    calls: list[tuple[int, int]] = []
    for rows in tile_rows(raster, network(Fcn(2)), tile=64, overlap=8, progress=lambda *done: calls.append(done)):
        assert raster.read_to <= rows.bottom + 64
    assert raster.read_to == 500
    count = len(divide(500, 100, tile=64, overlap=8))
    assert calls == [(i + 1, count) for i in range(count)]


def test_memory_does_not_grow_with_the_height() -> None:
    """A sample of the full tests of memory: what NumPy allocates for 100 times the height."""

    class Tall:
        width, channels = 64, 3

        def __init__(self, height: int) -> None:
            self.height = height

        def read(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
            return np.full((bottom - top, right - left, 3), top % 256, np.uint8)

    def peak(height: int) -> int:
        tracemalloc.start()
        writer = PngRows(io.BytesIO(), height, 64)
        for rows in tile_rows(Tall(height), net, tile=64, overlap=0):
            writer.rows(rows.mask)
        writer.finish()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    net = network(Pooled())
    peak(640)  # imports
    assert peak(6400) < 1.05 * peak(640)
