"""The contract of an exported file: its inputs, its outputs, and the meaning of its classes.

It is stored in the file as `segnets.json`, sorted and readable, for Python and C++ alike. Reading it executes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from segnets.card import JSON, Decoding, ModelCard, ModelConfig, check_card
from segnets.errors import ExportError
from segnets.preprocessing import Preprocessing

FORMAT = "segnets-export"
FORMAT_VERSION = 2  # the newest; a file states the oldest that can hold its preprocessing
CONTRACT_FILE = "segnets.json"
GOLDEN_FILE = "golden.safetensors"
KINDS = ("torchscript", "aoti", "onnx")
OUTPUTS = ("tensor", "dict")
DTYPES = ("float32", "bfloat16", "float16", "int8")
DEVICES = ("cpu", "cuda")
TARGETS = ("portable", "cpu")
MAX_CLASSES = 32767  # class ids in a mask are int16 at most
# Pixels that a CPU computes together, here and in files without the key: one image of typical size mostly fits in
# cache, but a batch does not. cpp/include/segnets/model.h has the same default.
PIXELS_AT_ONCE = 520 * 520
Bounds = Mapping[str, tuple[int, int]]
_DYNAMIC_AXES = {"0": "batch", "2": "height", "3": "width"}


class ContractFields(TypedDict, total=False):
    """Fields of a contract that the format of the file determines."""

    target: str
    bounds: Bounds
    processor: Mapping[str, JSON]
    pixels_at_once: int
    opset: int
    quantization: Mapping[str, JSON]


@dataclass(frozen=True)
class Contract:
    """Metadata of an exported file: its network, inputs, outputs and classes.

    Attributes:
        config: Builder and options of the network.
        card: Class names, colours, preprocessing, decoding and provenance.
        num_classes: Number of channels of the logits, C below.
        tolerance: Largest difference from the golden logits that passes, relative to the largest of them.
        sample_step: Step between the rows, and columns, of the preprocessed image that the golden pair keeps.
        segnets_version: Version of segnets that wrote the file.
        torch_version: Version of torch that wrote the file.
        output: "tensor" if `forward` returns logits (N, C, H, W), "dict" if it returns `{"out": logits}`.
        dtype: Precision between the image and the logits. The logits themselves are float32.
        device: Device that the network runs on, "cpu" or "cuda".
        kind: Format of the file, one of `KINDS`.
        target: "portable" for every LibTorch, or "cpu" for one with oneDNN, such as the builds for x86 and most for
            ARM.
        bounds: Smallest and largest "batch", "height" and "width" that `forward` accepts; empty for any. Both are
            equal in an ONNX file of a fixed size.
        processor: CPU that a compiled model was compiled for (`segnets.deploy.formats._cpu`); empty for other kinds.
        pixels_at_once: Pixels that a compiled model computes together; it splits larger batches.
        opset: ONNX operator set; 0 for other kinds.
        quantization: Calibration and measured cost of int8 (`QuantizationReport`); empty for other precisions.
    """

    config: ModelConfig
    card: ModelCard
    num_classes: int
    tolerance: float
    sample_step: int
    segnets_version: str
    torch_version: str
    output: str = "tensor"
    dtype: str = "float32"
    device: str = "cpu"
    kind: str = "torchscript"
    target: str = "portable"
    bounds: Bounds = field(default_factory=dict)
    processor: Mapping[str, JSON] = field(default_factory=dict)
    pixels_at_once: int = PIXELS_AT_ONCE
    opset: int = 0
    quantization: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            ExportError: If a value is not allowed.
        """
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ExportError(
                f"num_classes={self.num_classes}: expected 1..{MAX_CLASSES}, the ids that a mask can hold"
            )
        for name, value, allowed in (
            ("output", self.output, OUTPUTS),
            ("kind", self.kind, KINDS),
            ("dtype", self.dtype, DTYPES),
            ("device", self.device, DEVICES),
            ("target", self.target, TARGETS),
        ):
            if value not in allowed:
                raise ExportError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")
        if self.pixels_at_once < 1:
            raise ExportError(f"pixels_at_once={self.pixels_at_once}: expected at least 1")
        try:
            check_card(self.card, self.num_classes)
        except ValueError as error:
            raise ExportError(str(error)) from None

    @property
    def decoding(self) -> Decoding:
        """Rule that turns logits into ids. Files without it were written when argmax was the only rule."""
        return self.card.decoding or Decoding()

    @property
    def in_channels(self) -> int:
        """Number of channels of an image."""
        return self.card.preprocessing.channels

    @property
    def fixed_shape(self) -> tuple[int, int, int] | None:
        """Batch, height and width that `forward` accepts, or None if they are not fixed."""
        if len(self.bounds) != 3 or any(low != high for low, high in self.bounds.values()):
            return None
        return self.bounds["batch"][0], self.bounds["height"][0], self.bounds["width"][0]

    @property
    def mask_dtype(self) -> str:
        """Name of the dtype of ids in a mask."""
        return "uint8" if self.num_classes <= 256 or self.decoding.rule != "argmax" else "int16"

    def to_json(self) -> str:
        """Return the contract as sorted JSON text with one line per field.

        Raises:
            ExportError: If the model's options or provenance can't be written as JSON.
        """
        batch, rows, columns = self.fixed_shape or ("N", "H", "W")
        logits = f"float32 ({batch}, {self.num_classes}, {rows}, {columns}) logits"
        mask = "(N, H, W) class ids"
        count = self.in_channels
        colour, ordered = (" RGB", " RGB or BGR as in preprocessing") if count == 3 else ("", "")
        if self.decoding.rule == "multilabel":
            mask = f"(N, {self.num_classes}, H, W) planes of 0 and 1"
        document: dict[str, Any] = {
            "format": FORMAT,
            "format_version": self.card.preprocessing.format_version,
            "kind": self.kind,
            "model": {"name": self.config.name, "options": dict(self.config.options)},
            "num_classes": self.num_classes,
            "classes": list(self.card.classes),
            "palette": [list(colour) for colour in self.card.palette],
            "preprocessing": self.card.preprocessing.to_json(),
            "provenance": dict(self.card.provenance),
            "dtype": self.dtype,
            "device": self.device,
            "target": self.target,
            "bounds": {name: list(each) for name, each in self.bounds.items()},
            "processor": dict(self.processor),
            "output": self.output,
            "mask_dtype": self.mask_dtype,
            "methods": {
                "forward": {
                    "input": f"float32 ({batch}, {count}, {rows}, {columns}){ordered}, normalised",
                    "output": logits if self.output == "tensor" else f'{{"out": {logits}}}',
                },
                "preprocess": {
                    "input": f"uint8 (N, H, W, {count}){colour}",
                    "output": f"float32 (N, {count}, h, w)",
                },
                "segment": {"input": f"uint8 (N, H, W, {count}){colour}", "output": f"{self.mask_dtype} {mask}"},
            },
            "golden": {"file": GOLDEN_FILE, "sample_step": self.sample_step, "tolerance": self.tolerance},
            "versions": {"segnets": self.segnets_version, "torch": self.torch_version},
        }
        if self.card.decoding is not None:
            document["decoding"] = self.card.decoding.to_json()
        if self.kind == "aoti":
            document["pixels_at_once"] = self.pixels_at_once
        if self.kind == "onnx":
            document["opset"] = self.opset
            axes = {} if self.fixed_shape else _DYNAMIC_AXES
            document["dynamic_axes"] = {"input": axes, "logits": axes}
        if self.quantization:
            document["quantization"] = dict(self.quantization)
        try:
            text = json.dumps(document, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
            text.encode()  # raises for a lone surrogate
            return text
        except (TypeError, ValueError) as error:
            raise ExportError(f"the model's options or provenance can't be written as JSON: {error}") from None

    @classmethod
    def from_json(cls, text: bytes | str, where: str) -> Contract:
        """Read a contract that `to_json` wrote.

        Args:
            text: JSON text.
            where: Name of the exported file, for messages.

        Raises:
            ExportError: If the text is not a valid contract.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"{where}: {CONTRACT_FILE} is not JSON ({error}). Export the model again") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ExportError(f"{where}: {CONTRACT_FILE} is not a segnets contract. Export the model again")
        version = document.get("format_version")
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise ExportError(
                f"{where}: {CONTRACT_FILE} has version {version!r}, but this segnets reads 1 to {FORMAT_VERSION}. "
                "Upgrade segnets, or export the model again with this version"
            )
        try:
            return cls._from_document(document)
        except (KeyError, TypeError, ValueError, ExportError) as error:
            detail = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ExportError(f"{where}: {CONTRACT_FILE} is damaged: {detail}. Export the model again") from None

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Contract:
        """Build a contract from parsed JSON; raises KeyError, TypeError, ValueError or ExportError."""
        model, golden, versions = document["model"], document["golden"], document["versions"]
        return cls(
            config=ModelConfig(
                _typed("model.name", model["name"], str), _typed("model.options", model["options"], dict)
            ),
            card=ModelCard(
                classes=tuple(_typed("classes", document["classes"], list)),
                palette=tuple(tuple(colour) for colour in _typed("palette", document["palette"], list)),
                preprocessing=Preprocessing.from_json(document["preprocessing"]),
                provenance=_typed("provenance", document["provenance"], dict),
                decoding=Decoding.from_json(document["decoding"]) if "decoding" in document else None,
            ),
            num_classes=_typed("num_classes", document["num_classes"], int),
            tolerance=_typed("golden.tolerance", golden["tolerance"], float),
            sample_step=_typed("golden.sample_step", golden["sample_step"], int),
            segnets_version=_typed("versions.segnets", versions["segnets"], str),
            torch_version=_typed("versions.torch", versions["torch"], str),
            output=_typed("output", document["output"], str),
            dtype=_typed("dtype", document["dtype"], str),
            device=_typed("device", document["device"], str),
            kind=_typed("kind", document["kind"], str),
            # Files written before these keys were added lack them.
            target=_typed("target", document.get("target", "portable"), str),
            bounds=_bounds(_typed("bounds", document.get("bounds", {}), dict)),
            processor=_typed("processor", document.get("processor", {}), dict),
            pixels_at_once=_typed("pixels_at_once", document.get("pixels_at_once", PIXELS_AT_ONCE), int),
            opset=_typed("opset", document.get("opset", 0), int),
            quantization=_typed("quantization", document.get("quantization", {}), dict),
        )


def _typed(name: str, value: Any, expected: type) -> Any:
    if not isinstance(value, expected) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected {expected.__name__}")
    return value


def _bounds(value: dict[str, Any]) -> Bounds:
    bounds = {name: tuple(_typed(f"bounds.{name}", each, list)) for name, each in value.items()}
    for name, each in bounds.items():
        if name not in ("batch", "height", "width") or len(each) != 2 or not all(type(n) is int for n in each):
            raise ValueError(f"bounds.{name} is {each!r}, expected the smallest and the largest size")
    return bounds
