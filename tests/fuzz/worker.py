"""One worker process: run an engine, check every promise, save failing inputs and keep a record of the counts."""

from __future__ import annotations

import codecs
import faulthandler
import hashlib
import importlib
import json
import os
import random
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.promises import BrokenPromiseError, Limits, Watch, cap_memory
from weights_tools.reader.identify import HEAD_BYTES, identify

if TYPE_CHECKING:
    from tests.fuzz.reading import Outcome
    from tests.fuzz.seeds import Seed

_MAX_FAILURES = 50
_HANG = 180.0  # seconds after which the process ends, if code hangs that no signal reaches
_ADDRESS_SPACE = 3 << 30
_OWN_MUTATIONS = 0.15  # the share of inputs that atheris changes without knowing their structure
# Python imports a codec at its first use; json detects UTF-16 and UTF-32 by itself.
_CODECS = (
    "unicode_escape", "raw_unicode_escape", "cp437", "utf-8-sig",
    "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be",
)  # fmt: skip


class Target:
    """A folder in which files are read one after the other, each watched for broken promises."""

    def __init__(self, folder: Path, limits: Limits, reading: Callable[[Path, int], Outcome]) -> None:
        from tests.fuzz.seeds import INPUT, companions

        self.path, self.limits = folder / INPUT, limits
        for name, data in companions().items():
            self.path.with_name(name).write_bytes(data)
        self._known = {INPUT, *companions()}
        self._read = reading
        self._watch = Watch(folder, limits)
        self.counts: dict[str, Any] = {"executions": 0, "slowest": 0.0, "peak": 0}
        self.reached: Counter[tuple[str, str]] = Counter()

    def warm_up(self, files: Sequence[bytes]) -> None:
        """Read files once on every path, so that imports and caches are not taken for effects of later files."""
        for name in _CODECS:
            codecs.lookup(name)
        for data in files:
            self.path.write_bytes(data)
            for choice in (0, 1, 2, 3, 18):
                self._read(self.path, choice)
        self._watch.settle()

    def execute(self, data: bytes) -> None:
        """Read a file. Raises BrokenPromiseError if a promise was broken."""
        self.path.write_bytes(data)
        before = time.process_time()
        faulthandler.dump_traceback_later(_HANG, exit=True)
        try:
            with self._watch.execution():
                outcome = self._read(self.path, zlib.crc32(data))
        except BrokenPromiseError:
            raise
        except Exception as error:
            raise BrokenPromiseError("escaped", f"{type(error).__name__}: {str(error)[:300]}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.counts["executions"] += 1
            self.counts["slowest"] = max(self.counts["slowest"], time.process_time() - before)
            self.counts["peak"] = self._watch.peak
        for text in outcome.messages:
            lines = text.split("\n")
            if not text or len(text) > self.limits.message or len(lines) > self.limits.lines:
                raise BrokenPromiseError("message", f"{len(lines)} lines and {len(text)} characters: {text[:200]!r}")
            if not all(line.isprintable() for line in lines):
                raise BrokenPromiseError("message", f"not printable: {text[:4000]!r}")
        if left := [item for item in self.path.parent.iterdir() if item.name not in self._known]:
            for item in left:
                item.unlink()
            raise BrokenPromiseError("left behind", ", ".join(item.name for item in left))
        kind = identify(data[:HEAD_BYTES], len(data))
        if kind not in ("zip", "legacy", "safetensors", "pickle", "index"):
            kind = "other"
        self.reached["TorchScript" if kind == "zip" and b"/constants.pkl" in data else kind, outcome.stage] += 1


class Session:
    """The executions of one worker, its failures and its record."""

    def __init__(self, target: Target, task: dict[str, Any]) -> None:
        self.target, self.task = target, task
        self.failures: dict[str, str] = {}
        self._recorded = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether the worker has done its share."""
        executed: int = self.target.counts["executions"]
        return executed >= self.task["executions"] or len(self.failures) >= _MAX_FAILURES

    def execute(self, data: bytes) -> str:
        """Read one file; return the name of its failure, or an empty string."""
        name = ""
        try:
            self.target.execute(data)
        except BrokenPromiseError as broken:
            name = self._save(data, broken)
        if self.done or time.monotonic() - self._recorded > 2:
            self._recorded = time.monotonic()
            reached = [[*key, count] for key, count in self.target.reached.items()]
            record = {"done": self.done, "reached": reached, "failures": self.failures, **self.target.counts}
            temporary = Path(self.task["folder"], "record.tmp")
            temporary.write_text(json.dumps(record))
            temporary.rename(temporary.with_name("record.json"))
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


def run_structure(session: Session, seeds: Sequence[Seed], seed: int) -> None:
    """Draw edits at random, and shorten those that find a failure. The n-th input of a seed is always the same."""
    from tests.fuzz.structure import apply, draw

    pool, number = _pool(seeds), 0
    while not session.done:
        rng = random.Random(seed << 32 | number)
        (start,) = rng.choices(seeds, [each.weight for each in seeds])
        edits = draw(start.data, rng)
        if name := session.execute(apply(start.data, edits, pool)):
            for edit in list(edits):
                shorter = [each for each in edits if each is not edit]
                if shorter and session.execute(apply(start.data, shorter, pool)) == name:
                    edits = shorter
        number += 1


def run_coverage(session: Session, seeds: Sequence[Seed], seed: int) -> None:
    """Let atheris choose inputs that reach new code; libFuzzer ends the process."""
    import atheris

    from tests.fuzz.structure import apply, draw

    pool, folder = _pool(seeds), Path(session.task["folder"])
    (folder / "corpus").mkdir()
    for index, start in enumerate(each for each in seeds if each.weight > 0.02):
        (folder / "corpus" / f"seed-{index}").write_bytes(start.data)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < _OWN_MUTATIONS:
            return bytes(atheris.Mutate(data, most))
        data = data or rng.choice(pool)
        return apply(data, draw(data, rng), pool)[:most]

    def once(data: bytes) -> None:
        session.execute(data)
        if session.done:
            os._exit(0)  # libFuzzer has no other way back

    options = {"max_len": 300_000, "seed": seed % (1 << 31) + 1, "timeout": 0, "rss_limit_mb": 0, "verbosity": 0}
    arguments = [f"-{name}={value}" for name, value in options.items()]
    corpus = ["-detect_leaks=0", f"-artifact_prefix={folder}/", str(folder / "corpus")]
    atheris.Setup(["fuzz", *arguments, *corpus], once, custom_mutator=mutate)
    atheris.Fuzz()


def _pool(seeds: Sequence[Seed]) -> list[bytes]:
    """Return the files that edits take pieces from."""
    return [seed.data for seed in seeds if len(seed.data) < 20_000]


def main() -> None:
    task = json.loads(sys.argv[1])
    if task["engine"] == "coverage":
        import atheris

        with atheris.instrument_imports(include=["weights_tools", "segnets.weights", "segnets.options"]):
            importlib.import_module("tests.fuzz.reading")
    import torch

    from tests.fuzz.reading import read
    from tests.fuzz.seeds import all_seeds

    torch.set_num_threads(1)
    box = Path(task["folder"], "box")
    box.mkdir()
    target, seeds = Target(box, Limits(), read), all_seeds()
    target.warm_up([seed.data for seed in seeds])
    cap_memory(_ADDRESS_SPACE)
    session = Session(target, task)
    (run_structure if task["engine"] == "structure" else run_coverage)(session, seeds, task["seed"])


if __name__ == "__main__":
    main()
