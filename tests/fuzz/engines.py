"""The engines: each chooses inputs, has them read, and saves those that break a promise."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.promises import BrokenPromiseError, Target, cap_memory
from tests.fuzz.reading import read
from tests.fuzz.seeds import Seed, all_seeds
from tests.fuzz.structure import apply, draw

_MAX_FAILURES = 50
_ADDRESS_SPACE = 3 << 30
_OWN_MUTATIONS = 0.15  # the share of inputs that atheris changes without knowing their structure


def work(task: dict[str, Any]) -> None:
    """Run one engine until the task's share of the executions is done."""
    torch.set_num_threads(1)
    session, seeds = Session(task), all_seeds()
    session.target.warm_up([seed.data for seed in seeds])
    cap_memory(_ADDRESS_SPACE)
    (run_structure if task["engine"] == "structure" else run_coverage)(session, seeds)


class Session:
    """The executions of one worker, its failures and its record."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task, self.folder = task, Path(task["folder"])
        (self.folder / "box").mkdir()
        self.target = Target(self.folder / "box", read)
        self.pool = [seed.data for seed in all_seeds() if len(seed.data) < 20_000]  # for edits to take pieces from
        self.failures: dict[str, str] = {}
        self._recorded = time.monotonic()

    @property
    def done(self) -> Any:
        """True if the worker has done its share."""
        return self.target.counts["executions"] >= self.task["executions"] or len(self.failures) >= _MAX_FAILURES

    def execute(self, data: bytes) -> str:
        """Read one file; return the name of its failure, or an empty string."""
        name = ""
        try:
            self.target.execute(data)
        except BrokenPromiseError as broken:
            name = self._save(data, broken)
        if self.done or time.monotonic() - self._recorded > 2:
            self._recorded = time.monotonic()
            temporary = self.folder / "record.tmp"
            temporary.write_text(json.dumps({**self.target.counts, "done": self.done, "failures": self.failures}))
            temporary.rename(temporary.with_suffix(".json"))
        return name

    def _save(self, data: bytes, broken: BrokenPromiseError) -> str:
        """Keep the shortest input for each promise and place in the code."""
        trace = traceback.extract_tb((broken.__cause__ or broken).__traceback__)
        frame = next((frame for frame in reversed(trace) if "/fuzz/" not in frame.filename), trace[-1])
        place = f"{broken.kind} {Path(frame.filename).name}:{frame.lineno}"
        name = hashlib.sha256(place.encode()).hexdigest()[:12]
        path = Path(self.task["failures"], f"{name}.bin")
        if not path.exists() or path.stat().st_size > len(data):
            path.write_bytes(data)
            path.with_suffix(".txt").write_text("".join(traceback.format_exception(broken)), errors="backslashreplace")
        self.failures[name] = f"{path.name}: {place}: {broken}"[:500]
        return name


def run_structure(session: Session, seeds: Sequence[Seed]) -> None:
    """Draw edits at random, and shorten those that find a failure. The n-th input of a seed is always the same."""
    number = session.task["seed"] << 32
    while not session.done:
        rng = random.Random(number)
        (start,) = rng.choices(seeds, [each.weight for each in seeds])
        edits = draw(start.data, rng)
        if name := session.execute(apply(start.data, edits, session.pool)):
            for edit in list(edits):
                shorter = [each for each in edits if each is not edit]
                if shorter and session.execute(apply(start.data, shorter, session.pool)) == name:
                    edits = shorter
        number += 1


def run_coverage(session: Session, seeds: Sequence[Seed]) -> None:
    """Let atheris choose inputs that reach new code; libFuzzer ends the process."""
    import atheris

    corpus = session.folder / "corpus"
    corpus.mkdir()
    for index, start in enumerate(each for each in seeds if each.weight > 0.02):
        (corpus / f"seed-{index}").write_bytes(start.data)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < _OWN_MUTATIONS:
            return bytes(atheris.Mutate(data, most))
        data = data or rng.choice(session.pool)
        return apply(data, draw(data, rng), session.pool)[:most]

    def once(data: bytes) -> None:
        session.execute(data)
        if session.done:
            os._exit(0)  # libFuzzer has no other way back

    flags = ["-max_len=300000", "-timeout=0", "-rss_limit_mb=0", "-verbosity=0", "-detect_leaks=0"]
    flags += [f"-seed={session.task['seed'] % (1 << 31) + 1}", f"-artifact_prefix={session.folder}/"]
    atheris.Setup(["fuzz", *flags, str(corpus)], once, custom_mutator=mutate)
    atheris.Fuzz()
