"""What `inspect` and `convert` answer: frozen records that print as a table and turn into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import cast

from segnets.card import JSON, ModelConfig
from segnets.weights.geometry import describe
from weights_tools._text import join_names, printable
from weights_tools.recognise._architecture import architecture, in_words

_NOT_PROVEN = "the tensors only; what they compute is as sure as the layout: --golden, --with or `compare` prove it"


@dataclass(frozen=True)
class Candidate:
    """One of several sets of weights in a file: what `--key` chooses it, and what it is or why it is refused."""

    key: str
    layout: str | None = None
    model: str | None = None
    options: Mapping[str, JSON] = field(default_factory=dict)
    tensors: int = 0
    refused: str | None = None

    def __str__(self) -> str:
        what = [] if self.model is None else [describe(ModelConfig(self.model, self.options)), f"layout {self.layout}"]
        what += [f"{self.tensors} tensors"] if self.tensors else []
        what += [f"refused: {self.refused.splitlines()[0]}"] if self.refused else []
        return f"{self.key}: {', '.join(what)}"


@dataclass(frozen=True)
class InspectReport:
    """What a file holds. Nothing of it was executed.

    file: its name; size: bytes; sha256: of the whole file, or None if only its structure was read.
    container: "torch zip", "torch legacy", "safetensors", "sharded torch", "sharded safetensors", "TorchScript archive"
    (of Python) or "C++ archive" (of torch::save). Size and sha256 cover all files of a checkpoint in several.
    model, options: what segnets builds for it, or None if it can't be converted; `refused` then says why.
    architecture: what that is made of, see `weights_tools.recognise._architecture`.
    geometry: what the tensors can't show, and how the layout settles it.
    ignored: objects beside the weights. doubts: what the owner should look at.
    candidates: where the file holds several sets of weights, what each of them is.
    """

    file: str
    size: int
    sha256: str | None
    container: str
    layout: str | None = None
    model: str | None = None
    options: Mapping[str, JSON] = field(default_factory=dict)
    architecture: Mapping[str, JSON] = field(default_factory=dict)
    geometry: Mapping[str, JSON] = field(default_factory=dict)
    tensors: int = 0
    parameters: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    stripped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    refused: str | None = None

    def to_json(self) -> dict[str, JSON]:
        """Plain lists, numbers and strings."""
        return _plain(asdict(self))

    def __str__(self) -> str:
        rows = [("file", self.file), ("container", f"{self.container}, {self.size:,} bytes")]
        if self.sha256:
            rows.append(("sha256", self.sha256))
        rows += _network_rows(self.model, self.options, self.layout, self.geometry)
        if self.tensors:
            rows.append(("tensors", f"{self.tensors}, {self.parameters:,} numbers, {_dtypes(self.dtypes)}"))
        rows += _wrapper_rows(self.path, self.stripped, self.dropped, self.ignored)
        rows += [("note", note) for note in self.notes] + [("doubt", doubt) for doubt in self.doubts]
        rows += [("candidate", str(candidate)) for candidate in self.candidates]
        if self.refused:
            rows.append(("refused", self.refused))
        return _table(rows)


@dataclass(frozen=True)
class ConversionReport:
    """What was converted, and how.

    zeroed: batch norm counters that the file lacks, now 0. reshaped: counters that became int64 without dimensions.
    Every other tensor has the bytes of the source, unless `cast_to` names the dtype that was asked for, or
    `changed` what was to be changed. proven: what was proven of the results, by running the network.
    """

    source: str
    source_sha256: str
    container: str
    output: str
    layout: str
    model: str
    options: Mapping[str, JSON]
    classes: tuple[str, ...]
    geometry: Mapping[str, JSON]
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    path: tuple[str, ...] = ()
    stripped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    cast_to: str | None = None
    changed: tuple[str, ...] = ()
    proven: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Plain lists, numbers and strings."""
        return _plain(asdict(self))

    def __str__(self) -> str:
        rows = [("converted", self.source), ("to", self.output), ("container", self.container)]
        rows += _network_rows(self.model, self.options, self.layout, self.geometry)
        if self.options.get("num_classes") != 0:
            named = join_names(printable(name, quote=False) for name in self.classes)
            rows.append(("classes", named or "not named; give --classes FILE"))
        rows.append(
            ("tensors", f"{self.tensors}, {self.parameters:,} numbers, {_dtypes(self.dtypes)}, read back equal")
        )
        rows += _wrapper_rows(self.path, self.stripped, self.dropped, self.ignored)
        if self.zeroed:
            rows.append(("set to 0", f"{len(self.zeroed)} batch norm counters that the file lacks"))
        if self.reshaped:
            rows.append(("made int64", f"{len(self.reshaped)} batch norm counters"))
        if self.cast_to:
            rows.append(("cast to", self.cast_to))
        rows += [("changed", change) for change in self.changed]
        rows += [("proven", proof) for proof in self.proven or (_NOT_PROVEN,)]
        rows += [("note", note) for note in self.notes] + [("doubt", doubt) for doubt in self.doubts]
        return _table(rows)


def _network_rows(
    model: str | None, options: Mapping[str, JSON], layout: str | None, geometry: Mapping[str, JSON]
) -> list[tuple[str, str]]:
    if model is None:
        return []
    config = ModelConfig(model, options)
    settled = ", ".join(f"{key}={value}" for key, value in geometry.items())
    return [
        ("network", describe(config)),
        ("made of", in_words(architecture(config))),
        ("layout", f"{layout}: {settled}" if settled else str(layout)),
    ]


def _wrapper_rows(
    path: tuple[str, ...], stripped: tuple[str, ...], dropped: tuple[str, ...], ignored: tuple[str, ...]
) -> list[tuple[str, str]]:
    rows = []
    if path:
        rows.append(("under key", printable(".".join(path), quote=False)))
    if stripped:
        rows.append(("prefixes", f"{''.join(stripped)} taken off"))
    if dropped:
        rows.append(("dropped", join_names(dropped)))
    if ignored:
        rows.append(("ignored", join_names(ignored)))
    return rows


def _dtypes(dtypes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in dtypes.items())


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{title:<11}{text}" for title, text in rows)


def _plain(record: dict[str, object]) -> dict[str, JSON]:
    return {key: _plain_value(value) for key, value in record.items()}


def _plain_value(value: object) -> JSON:
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain_value(item) for key, item in value.items()}
    return cast(JSON, value)
