"""The other side of producer.cpp: run the network on preprocessed images from shared memory, and answer with masks.

    python examples/frames/consumer.py WEIGHTS FRAMES MASKS

WEIGHTS is a file of segnets; FRAMES and MASKS are the rings that the producer makes. Nothing is copied on the way in:
the network reads the memory that the C++ process wrote.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import segnets
from segnets.segmenter import logits_to_mask


def main(weights: str, frames_path: str, masks_path: str) -> None:
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
            best = ", ".join(f"class {i} {shares[i]:.1%}" for i in np.argsort(-shares)[:3])
            print(f"frame {frame.sequence}: {best}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: consumer.py WEIGHTS FRAMES MASKS")
    try:
        main(*sys.argv[1:])
    except segnets.SegnetsError as error:
        sys.exit(str(error))
