"""Run a network on the preprocessed images that producer.cpp puts into shared memory, and return masks.

    python examples/frames/consumer.py WEIGHTS FRAMES MASKS

WEIGHTS is a weights file of segnets. FRAMES and MASKS are the rings that the producer creates. The network reads the
memory that the C++ process wrote, without a copy.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import segnets
from segnets.segmenter import logits_to_mask


def main(weights: str, frames_path: str, masks_path: str) -> None:
    """Segment every frame until the producer closes its ring.

    Args:
        weights: Weights file of segnets.
        frames_path: Ring to read preprocessed images from, float32 (1, 3, h, w).
        masks_path: Ring to write masks to, uint16 (height, width).
    """
    model = segnets.load(weights)
    with (
        segnets.FrameRing.open(frames_path, timeout=60) as frames,
        segnets.FrameRing.open(masks_path, "producer") as masks,
    ):
        height, width = masks.layout.shape
        for frame in frames:  # until the producer closes; PeerGoneError if it died
            with torch.inference_mode():
                logits = model(frame.tensor)["out"]  # (1, C, h, w)
                mask = logits_to_mask(logits, height, width)[0].numpy()  # (height, width)
            classes = logits.shape[1]
            masks.put(mask.astype(np.uint16), tag=classes)
            shares = np.bincount(mask.ravel(), minlength=classes) / mask.size
            largest = ", ".join(f"class {i} {shares[i]:.1%}" for i in np.argsort(-shares)[:3])
            print(f"frame {frame.sequence}: {largest}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: consumer.py WEIGHTS FRAMES MASKS")
    try:
        main(*sys.argv[1:])
    except segnets.SegnetsError as error:
        sys.exit(str(error))
