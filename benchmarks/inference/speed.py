"""Measure inference: decoding of logits, throughput, memory, tiles. `make bench-inference`.

The command prints tables, and writes them to benchmarks/results/inference.md with a description of the machine.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.inference import decoding, memory, pipeline, tiles
from benchmarks.inference.inputs import FAST, SLOW, TRAINED, find_images, make_images, save_weights
from benchmarks.measure import machine
from benchmarks.turns import THREADS

RESULTS = Path(__file__).parents[1] / "results" / "inference.md"
PARTS = ("decoding", "share", "throughput", "memory", "tiles")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of images (default: images are generated)")
    parser.add_argument(
        "--lraspp-weights",
        type=Path,
        metavar="FILE",
        help=f"weights file of a trained {FAST}, as an additional network",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fast-count", type=int, default=101, help=f"images through {FAST} (default: 101)")
    parser.add_argument("--slow-count", type=int, default=8, help=f"images through {SLOW} (default: 8)")
    parser.add_argument("--long-count", type=int, default=10_000, help="images of the measurement of memory")
    parser.add_argument("--only", choices=PARTS, help="measure one part, and print it without writing a file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segnets-bench-") as folder:
        weights = save_weights(Path(folder), options.lraspp_weights)
        images = find_images(options.images) if options.images else make_images(Path(folder))
        counts = {FAST: options.fast_count, SLOW: options.slow_count, TRAINED: options.fast_count}
        rounds = options.rounds
        parts: dict[str, tuple[str, Callable[[], Iterable[str]]]] = {
            "decoding": (
                "Resize and argmax compared with torch",
                lambda: decoding.against_torch(rounds),
            ),
            "share": (
                "Mask and overlay compared with the network",
                lambda: decoding.against_networks(weights, images[0], rounds),
            ),
            "throughput": (
                "Images per second",
                lambda: pipeline.throughput(weights, images, counts, rounds),
            ),
            "memory": ("Memory of a long stream", lambda: memory.growth(weights, images, options.long_count)),
            "tiles": ("Tiles", lambda: tiles.blending(weights, rounds)),
        }
        assert tuple(parts) == PARTS
        source = "The images come from a folder" if options.images else "The images are generated"
        text = (
            f"# Inference: from images to masks\n\n{machine()}.\n{THREADS} threads, float32, {rounds} rounds. "
            "Candidates take turns, each in its own process. Times are medians;\nratios are medians of the ratios "
            f"within each round. {source}. `make bench-inference` repeats the measurement.\n"
            "Weights are random unless a network is marked as trained; masks of random weights have more borders.\n"
        )
        for name, (title, lines) in parts.items():
            if options.only in (None, name):
                table = "\n".join(lines())
                print(f"{title}\n{table}\n", flush=True)
                text += f"\n## {title}\n\n{table}\n"
    if options.only is None:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
