"""Reports of `inspect` and `convert`, which print as a table and convert to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import cast

from segnets.card import JSON, Decoding, ModelConfig
from segnets.preprocessing import Preprocessing
from segnets.registry import MODELS
from segnets.weights.geometry import describe
from weights_tools._text import join_names, printable
from weights_tools.recognise import describe_architecture, format_architecture

_NOT_CHECKED = "tensor values only; to check the outputs too, use --golden, --with or the command `compare`"


@dataclass(frozen=True)
class Candidate:
    """One of several sets of weights in a file.

    Attributes:
        key: Value of `--key` that selects it.
        layout: Layout of its names; None if it is not recognised.
        model: Name of its network; None if it is not recognised.
        options: Options of its network.
        tensors: Number of tensors.
        refused: Reason why it can't be converted, or None.
    """

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
    """Contents of a checkpoint. Nothing in it was executed.

    Attributes:
        file: Path as given.
        size: Size in bytes; of all files, if the checkpoint is in several.
        sha256: SHA-256 of the whole file or files; None if only the structure was read.
        container: "torch zip", "torch legacy", "safetensors", "sharded torch", "sharded safetensors", "TorchScript
            archive" (from Python) or "C++ archive" (from torch::save).
        layout: Layout of the tensors' names, for example "timm"; None if it is not recognised.
        model: Model that segnets would build; None if it is not recognised.
        options: Options of that model.
        architecture: Parts of that model; see `weights_tools.recognise.describe_architecture`.
        geometry: Options that the weights do not show, with the values that the layout assumes.
        tensors: Number of tensors.
        parameters: Number of values in all tensors.
        dtypes: Dtype -> number of tensors.
        path: Keys of the nested dictionaries that lead to the weights.
        stripped: Prefixes of wrappers that were removed from the names.
        dropped: Tensors that are not part of the network.
        ignored: Other objects in the file.
        notes: Remarks.
        doubts: Findings that the user should check.
        candidates: The sets of weights to choose from, if there are several.
        decoding: Rule that turns logits into ids, as `convert` would record it; None if it is unknown.
        preprocessing: Preprocessing that `convert` would record; empty for a classifier.
        assumed: Sentence that lists the assumed parts of it, or "".
        refused: Reason why the file can't be converted, or None.
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
    decoding: Mapping[str, JSON] | None = None
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    assumed: str = ""
    refused: str | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return the report as plain lists, numbers and strings."""
        return _plain(asdict(self))

    def __str__(self) -> str:
        rows = [("file", self.file), ("container", f"{self.container}, {self.size:,} bytes")]
        if self.sha256:
            rows.append(("sha256", self.sha256))
        rows += _network_rows(self.model, self.options, self.layout, self.geometry)
        if self.model is not None:
            rows += _decoding_rows(self.model, self.options, self.decoding)
        if self.tensors:
            rows.append(("tensors", f"{self.tensors}, {self.parameters:,} values, {_dtypes(self.dtypes)}"))
        rows += _wrapper_rows(self.path, self.stripped, self.dropped, self.ignored)
        rows += _image_rows(self.preprocessing, self.assumed)
        rows += [("note", note) for note in self.notes] + [("doubt", doubt) for doubt in self.doubts]
        rows += [("candidate", str(candidate)) for candidate in self.candidates]
        if self.refused:
            rows.append(("refused", self.refused))
        return _table(rows)


@dataclass(frozen=True)
class ConversionReport:
    """Result of a conversion.

    Every tensor has the bytes of the source, except for the differences in `zeroed`, `reshaped`, `cast_to` and
    `changed`.

    Attributes:
        source: Path of the checkpoint.
        source_sha256: SHA-256 of the checkpoint.
        container: Container format; see `InspectReport`.
        output: Path of the written file.
        layout: Layout of the source's names.
        model: Name of the network.
        options: Options of the network.
        classes: Class names; empty if unknown.
        decoding: Rule that turns logits into ids; None if it is unknown.
        geometry: Options that the weights do not show, with the values that the layout assumes.
        tensors: Number of tensors.
        parameters: Number of values in all tensors.
        dtypes: Dtype -> number of tensors.
        path: Keys of the nested dictionaries that lead to the weights.
        stripped: Prefixes of wrappers that were removed from the names.
        dropped: Tensors that are not part of the network.
        ignored: Other objects in the file.
        zeroed: Batch norm counters that the source lacks; they are 0.
        reshaped: Batch norm counters that were converted to int64 scalars.
        cast_to: Requested dtype, or None.
        changed: Requested edits.
        preprocessing: Preprocessing from an image to the network's input; empty for a classifier.
        assumed: Sentence that lists the assumed parts of it, or "".
        proven: Checks of the outputs that passed.
        notes: Remarks.
        doubts: Findings that the user should check.
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
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    assumed: str = ""
    proven: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    decoding: Mapping[str, JSON] | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return the report as plain lists, numbers and strings."""
        return _plain(asdict(self))

    def __str__(self) -> str:
        rows = [("converted", self.source), ("to", self.output), ("container", self.container)]
        rows += _network_rows(self.model, self.options, self.layout, self.geometry)
        if self.options.get("num_classes") != 0:
            named = join_names(printable(name, quote=False) for name in self.classes)
            rows.append(("classes", named or "no names; pass --classes FILE"))
        rows += _decoding_rows(self.model, self.options, self.decoding)
        rows.append(("tensors", f"{self.tensors}, {self.parameters:,} values, {_dtypes(self.dtypes)}, read back equal"))
        rows += _wrapper_rows(self.path, self.stripped, self.dropped, self.ignored)
        if self.zeroed:
            rows.append(("set to 0", f"{len(self.zeroed)} batch norm counters that the file lacks"))
        if self.reshaped:
            rows.append(("made int64", f"{len(self.reshaped)} batch norm counters"))
        if self.cast_to:
            rows.append(("cast to", self.cast_to))
        rows += [("changed", change) for change in self.changed]
        rows += _image_rows(self.preprocessing, self.assumed)
        rows += [("proven", proof) for proof in self.proven or (_NOT_CHECKED,)]
        rows += [("note", note) for note in self.notes] + [("doubt", doubt) for doubt in self.doubts]
        return _table(rows)


def _network_rows(
    model: str | None, options: Mapping[str, JSON], layout: str | None, geometry: Mapping[str, JSON]
) -> list[tuple[str, str]]:
    if model is None:
        return []
    config = ModelConfig(model, options)
    shown = ", ".join(f"{name}={value}" for name, value in geometry.items())
    return [
        ("network", describe(config)),
        ("made of", format_architecture(describe_architecture(config))),
        ("layout", f"{layout}: {shown}" if shown else str(layout)),
    ]


def _decoding_rows(
    model: str, options: Mapping[str, JSON], decoding: Mapping[str, JSON] | None
) -> list[tuple[str, str]]:
    """Return the row on decoding; none if the source has no decoding and argmax applies."""
    if decoding is not None:
        return [("decoding", str(Decoding.from_json(decoding)))]
    if options.get("num_classes") != 1 or model not in MODELS:
        return []
    return [("decoding", f"{Decoding.default(1)}, assumed: the source has none; pass --decoding and --threshold")]


def _image_rows(preprocessing: Mapping[str, object], assumed: str) -> list[tuple[str, str]]:
    rows = [("images", Preprocessing.from_json(preprocessing).describe())] if preprocessing else []
    return [*rows, ("assumed", assumed)] if assumed else rows


def _wrapper_rows(
    path: tuple[str, ...], stripped: tuple[str, ...], dropped: tuple[str, ...], ignored: tuple[str, ...]
) -> list[tuple[str, str]]:
    rows = []
    if path:
        rows.append(("under key", printable(".".join(path), quote=False)))
    if stripped:
        rows.append(("prefixes", f"{''.join(stripped)} removed"))
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
