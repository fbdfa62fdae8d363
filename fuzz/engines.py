"""Where the inputs come from: chance (`random`), `hypothesis`, which shortens a failure, or `atheris`, led by coverage.

All share the seeds, the edits and the target; each calls `execute` once for every input, until it says that it is
enough.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz.mutate import BYTE_EDITS, MOST_BYTES, STRUCTURE_EDITS, Edit, apply, choose, draw
from fuzz.seeds import Seed

ENGINES = ("random", "hypothesis", "atheris")
# One input; returns False if no more is wanted. The engine does not see failures, unless it wants to shorten them.
Execute = Callable[[bytes], bool]
_MOST_FOR_POOL = 20_000
_BATCH = 2000
_FROM_ITS_OWN = 0.15


def pool_of(seeds: Sequence[Seed]) -> list[bytes]:
    """What pieces are taken from."""
    return [seed.data for seed in seeds if len(seed.data) < _MOST_FOR_POOL]


def run_random(execute: Execute, seeds: Sequence[Seed], seed: int) -> None:
    """Input number n of a seed is always the same, whatever came before it."""
    pool = pool_of(seeds)
    number = 0
    while True:
        rng = random.Random(seed << 32 | number)
        start = choose(seeds, rng)
        if not execute(apply(start.data, draw(start.data, rng), pool)):
            return
        number += 1


def run_hypothesis(execute: Execute, seeds: Sequence[Seed], seed: int) -> None:
    """`execute` raises what it finds, so that hypothesis looks for fewer edits that find it too."""
    import hypothesis
    from hypothesis import strategies

    pool = pool_of(seeds)
    # Strategies know no weights: what takes long comes seldom enough if it comes once.
    starts = [seed for seed in seeds for _ in range(max(1, round(seed.weight * 20))) if seed.weight > 0.01]
    numbers = strategies.integers(0, (1 << 32) - 1)
    structure = strategies.tuples(strategies.sampled_from(STRUCTURE_EDITS), numbers)
    any_edit = structure | structure | strategies.tuples(strategies.sampled_from(BYTE_EDITS), numbers)

    def check(start: Seed, edits: list[Edit]) -> None:
        if not execute(apply(start.data, edits, pool)):
            raise KeyboardInterrupt  # the only way out of a running test

    for number in itertools.count(seed << 20):
        settings = hypothesis.settings(
            max_examples=_BATCH,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        )
        given = hypothesis.given(strategies.sampled_from(starts), strategies.lists(any_edit, min_size=1, max_size=8))
        try:
            hypothesis.seed(number)(settings(given(check)))()
        except KeyboardInterrupt:
            return
        except Exception as error:  # was written down by execute
            print(f"hypothesis: {error}", file=sys.stderr)


def run_atheris(execute: Execute, seeds: Sequence[Seed], seed: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process. The code under test was imported under `instrumented`."""
    import atheris

    pool = pool_of(seeds)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for index, start in enumerate(seeds):
        if start.weight > 0.01:
            (corpus / f"seed-{index}").write_bytes(start.data)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < _FROM_ITS_OWN:
            return bytes(atheris.Mutate(data, most))
        if not data:
            data = rng.choice(pool)
        return apply(data, draw(data, rng), pool)[:most]

    def once(data: bytes) -> None:
        if not execute(data):
            sys.stdout.flush()
            raise KeyboardInterrupt  # libFuzzer's way out

    options = {"max_len": min(MOST_BYTES, 300_000), "seed": seed % (1 << 31) + 1, "timeout": 0, "rss_limit_mb": 0}
    options |= {"detect_leaks": 0, "print_final_stats": 0, "verbosity": 0}
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup(["fuzz", *arguments, f"-artifact_prefix={folder}/", str(corpus)], once, custom_mutator=mutate)
    atheris.Fuzz()
