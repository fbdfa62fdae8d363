"""Time the steps from logits to masks and pictures, compared with torch's and with the networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.inference.inputs import CLASSES, noise_logits, region_logits
from benchmarks.turns import milliseconds, ratio, turns
from segnets.card import Decoding
from segnets.inference.maps import decode_mask
from segnets.inference.resized_logits import ResizedLogits

# Sizes of logits and image.
SIZES = [
    ((512, 1024), (1024, 2048)),
    ((520, 1040), (1024, 2048)),
    ((128, 256), (1024, 2048)),
    ((65, 87), (360, 480)),
    ((520, 693), (360, 480)),
    ((520, 520), (520, 520)),
]

_LOGITS = """
import torch
from torch.nn import functional as F
from segnets.card import Decoding
from segnets.inference.maps import confidence, decode_mask
from segnets.inference.resized_logits import ResizedLogits
torch.set_grad_enabled(False)
from benchmarks.inference.inputs import {kind}_logits
logits = {kind}_logits({h}, {w})
"""
_TORCH = 'F.interpolate(logits[None], size=({height}, {width}), mode="bilinear", align_corners=False)'
_OURS = "decode_mask(ResizedLogits(logits, {height}, {width}), Decoding())"
_CONFIDENCE = "confidence(ResizedLogits(logits, {height}, {width}), Decoding())"

_NETWORK = """
from dataclasses import replace
import torch
from benchmarks.inference.inputs import region_logits
from segnets.card import Decoding
from segnets.images import image_pixels
from segnets.inference.drawing import draw_overlay
from segnets.inference.maps import decode_mask
from segnets.inference.masks import voc_palette
from segnets.inference.networks import open_network
from segnets.inference.views import View
network = open_network({weights!r})
palette = voc_palette({classes})
pixels = image_pixels({image!r})
height, width = pixels.shape[:2]
prepared = network.prepare(torch.from_numpy(pixels)[None])
logits = network.logits(prepared)[0]
regions = replace(logits, values=region_logits(*logits.values.shape[1:]))
def decode(logits):
    return decode_mask(View().maps(logits, height, width), Decoding())
mask = decode(regions)
"""
_PARTS = {
    "network": "network.logits(prepared)",
    "own": "decode(logits)",
    "regions": "decode(regions)",
    "overlay": "draw_overlay(pixels, mask, palette)",
}


def against_torch(rounds: int) -> Iterator[str]:
    """Yield the lines of a table: resize and argmax, and the pixels that differ."""
    yield (
        "| logits | size | image | torch's `interpolate` + `argmax` | `interpolate` + `max(dim)` | segnets' mask "
        "| torch's time by `argmax` / ours | by `max` / ours | with confidence | pixels that differ |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for (h, w), (height, width) in SIZES:
        for kind in ("region", "noise"):
            values = {"kind": kind, "h": h, "w": w, "height": height, "width": width}
            prepare = _LOGITS.format(**values)
            codes = {
                "argmax": f"{_TORCH}.argmax(1).to(torch.uint8)",
                "max": f"{_TORCH}.max(1).indices.to(torch.uint8)",
                "ours": _OURS,
                "both": f"{_OURS}; {_CONFIDENCE}",
            }
            times = turns({name: (prepare, code.format(**values)) for name, code in codes.items()}, rounds, calls=5)
            cells = " | ".join(milliseconds(times[name]) for name in ("argmax", "max", "ours"))
            ratios = " | ".join(f"{ratio(times[name], times['ours']):.1f}" for name in ("argmax", "max"))
            yield (
                f"| {kind} | {CLASSES}x{h}x{w} | {height}x{width} | {cells} | {ratios} | {milliseconds(times['both'])} "
                f"| {differing(kind, h, w, height, width)} |"
            )


def differing(kind: str, h: int, w: int, height: int, width: int) -> str:
    """Count the pixels whose class differs from torch's, and state how far apart their logits are in torch."""
    logits = noise_logits(h, w) if kind == "noise" else region_logits(h, w)
    ours = torch.from_numpy(decode_mask(ResizedLogits(logits, height, width), Decoding())).long()
    theirs = F.interpolate(logits[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    largest, ids = theirs.max(0)
    differs = ours != ids
    if not differs.any():
        return "0"
    gap = (largest - theirs.gather(0, ours[None])[0])[differs].max().item()
    return f"{int(differs.sum())} of {ids.numel()}, near-ties: logits differ by {gap:.1e} at most"


def against_networks(weights: dict[str, Path], image: Path, rounds: int) -> Iterator[str]:
    """Yield the lines of a table: the time from logits to mask and overlay as a share of the network's."""
    yield (
        "| network | logits | mask | mask of drawn regions | overlay of these | mask and overlay, of the network's "
        "time | with the mask of regions |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, path in weights.items():
        prepare = _NETWORK.format(weights=str(path), image=str(image), classes=CLASSES)
        times = turns({part: (prepare, call) for part, call in _PARTS.items()}, rounds, calls=4)
        cells = " | ".join(milliseconds(times[part]) for part in _PARTS)
        shares = []
        for kind in ("own", "regions"):
            both = [mask + overlay for mask, overlay in zip(times[kind], times["overlay"], strict=True)]
            shares.append(f"{ratio(both, times['network']):.1%}")
        yield f"| {name} | {cells} | {' | '.join(shares)} |"
