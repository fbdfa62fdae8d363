"""One process of a run: an engine, a share of the executions, and a record of them in a file for `fuzz.run`."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzz.promises import BrokenPromiseError
    from fuzz.target import Target

_MOST_FAILURES = 50
_RECORD_EVERY = 2.0  # seconds
_ADDRESS_SPACE = 3 << 30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--executions", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--failures", type=Path, required=True)
    parser.add_argument("--extremes", action="store_true")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)  # the tensors are small, and the other processor has another worker
    if options.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["weights_tools", "segnets.weights", "segnets.options"]):
            importlib.import_module("fuzz.reading")
    from fuzz import engines, promises
    from fuzz.extremes import all_extremes
    from fuzz.seeds import all_seeds
    from fuzz.target import Target

    box = options.folder / "box"
    box.mkdir()
    target = Target(box)
    seeds = all_seeds()
    target.warm_up([seed.data for seed in seeds])
    promises.cap_memory(_ADDRESS_SPACE)
    worker = Worker(target, options)
    if options.extremes:
        for extreme in all_extremes():
            worker.execute(extreme.data)
    if options.engine == "random":
        engines.run_random(worker.execute, seeds, options.seed)
    elif options.engine == "hypothesis":
        engines.run_hypothesis(worker.execute_and_raise, seeds, options.seed)
    else:
        engines.run_atheris(worker.execute, seeds, options.seed, options.folder)
    worker.record(done=True)


class Worker:
    """Executes, writes failing inputs down, and keeps the record."""

    def __init__(self, target: Target, options: argparse.Namespace) -> None:
        self._target = target
        self._options = options
        self._started = self._recorded = time.monotonic()
        self._failures: dict[str, str] = {}

    def execute(self, data: bytes) -> bool:
        """Return False when it is enough."""
        try:
            return self.execute_and_raise(data)
        except Exception:
            return self._more()

    def execute_and_raise(self, data: bytes) -> bool:
        from fuzz.promises import BrokenPromiseError

        try:
            self._target.execute(data)
        except BrokenPromiseError as broken:
            self._write_down(data, broken)
            raise
        return self._more()

    def _more(self) -> bool:
        now = time.monotonic()
        enough = self._target.tally.executions >= self._options.executions
        enough |= now - self._started > self._options.seconds or len(self._failures) >= _MOST_FAILURES
        if enough or now - self._recorded > _RECORD_EVERY:
            self._recorded = now
            self.record(done=enough)
        return not enough

    def _write_down(self, data: bytes, broken: BrokenPromiseError) -> None:
        """One input, the shortest, for each place in the code and promise."""
        trace = traceback.extract_tb((broken.__cause__ or broken).__traceback__)
        ours = [frame for frame in trace if "/fuzz/" not in frame.filename] or list(trace)
        place = f"{broken.kind} {Path(ours[-1].filename).name}:{ours[-1].lineno}"
        name = hashlib.sha256(place.encode()).hexdigest()[:12]
        path = self._options.failures / f"{name}.bin"
        if not path.exists() or path.stat().st_size > len(data):
            path.write_bytes(data)
            path.with_suffix(".txt").write_text("".join(traceback.format_exception(broken)), errors="backslashreplace")
        self._failures[name] = f"{place}: {broken}"[:500]

    def record(self, *, done: bool) -> None:
        """Write the counts where `fuzz.run` reads them."""
        tally = self._target.tally
        record = {
            "done": done,
            "executions": tally.executions,
            "seconds": time.monotonic() - self._started,
            "slowest": tally.slowest,
            "peak": tally.peak,
            "reached": [[*key, count] for key, count in tally.reached.items()],
            "messages": sorted(tally.messages),
            "failures": self._failures,
        }
        temporary = self._options.folder / "record.tmp"
        temporary.write_text(json.dumps(record))
        temporary.rename(self._options.folder / "record.json")
        if done and self._options.engine == "atheris":
            sys.stdout.flush()
            os._exit(0)  # libFuzzer has no other way back


if __name__ == "__main__":
    main()
