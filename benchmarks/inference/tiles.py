"""Time tiles that are blended, compared with the same tiles decoded one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.inference.inputs import FAST
from benchmarks.turns import milliseconds, ratio, turns

_PREPARE = """
import torch
from benchmarks.inference.inputs import random_image
from segnets.images import read_image
from segnets.inference.maps import decode_mask
from segnets.inference.networks import open_network
from segnets.inference.rasters import open_raster
from segnets.inference.tiles import tile_rows
from segnets.inference.tiling import divide
from segnets.inference.views import View
network = open_network({weights!r}, resize="none")
raster = open_raster(read_image(random_image({side}, {side}, torch.Generator().manual_seed(0))))
tiling = divide({side}, {side}, tile={tile}, overlap={overlap})
"""
_BLENDED = """
assert sum(len(rows.mask) for rows in tile_rows(raster, network, tile={tile}, overlap={overlap})) == {side}
"""
_ONE_BY_ONE = """
for row in tiling.rows:
    for column in tiling.columns:
        pixels = raster.read(row.start, row.start + {tile}, column.start, column.start + {tile})
        logits = network.logits(network.prepare(torch.from_numpy(pixels)[None]))[0]
        decode_mask(View().maps(logits, {tile}, {tile}), network.decoding)
"""


def blending(weights: dict[str, Path], rounds: int, side: int = 2048) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| network | image | tiles | one by one | blended | throughput of the blended ones |"
    yield "|---|---|---|---|---|---|"
    for tile, overlap in ((512, 64), (1024, 128)):
        values = {"weights": str(weights[FAST]), "side": side, "tile": tile, "overlap": overlap}
        prepare = _PREPARE.format(**values)
        codes = {"apart": _ONE_BY_ONE, "blended": _BLENDED}
        times = turns({name: (prepare, code.format(**values)) for name, code in codes.items()}, rounds)
        yield (
            f"| {FAST} | {side}x{side} | {tile}, overlap {overlap} | {milliseconds(times['apart'])} | "
            f"{milliseconds(times['blended'])} | {ratio(times['apart'], times['blended']):.2f} |"
        )
