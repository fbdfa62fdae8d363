"""The contract of an exported file: what it takes, what it gives, what its classes mean.

It is stored in the archive as `segnets.json`, sorted and readable, and read by Python and C++ alike.
Reading it executes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segnets.card import JSON, Colour
from segnets.errors import ExportError
from segnets.preprocessing import Preprocessing
from segnets.weights.description import is_colour

FORMAT = "segnets-export"
FORMAT_VERSION = 1
CONTRACT_FILE = "segnets.json"
GOLDEN_FILE = "golden.safetensors"
IMAGE_PROGRAM = "image.ts"  # in a .pt2: what comes before the network and after it
# Where these files lie in the archive, for each kind of it.
FOLDERS = {"torchscript": "extra", "aoti": "segnets"}
KINDS = (*FOLDERS, "onnx")  # ONNX is no archive: they are entries of its metadata
OUTPUTS = ("tensor", "dict")
Bounds = Mapping[str, tuple[int, int]]
DTYPES = ("float32", "bfloat16", "float16", "int8")
DEVICES = ("cpu", "cuda")
TARGETS = ("portable", "cpu")
_DYNAMIC_AXES = {"0": "batch", "2": "height", "3": "width"}
MAX_CLASSES = 32767  # ids of a mask are int16 at most


@dataclass(frozen=True)
class Contract:
    """What an exported file promises.

    model_name, model_options: what built the network. num_classes: C below.
    classes: one name per class id, or empty when nobody said. palette: one RGB colour per class id, or empty.
    output: "tensor" when `forward` gives logits (N, C, H, W), "dict" when it gives {"out": logits}.
    dtype: the precision between the image and the logits, which themselves are float32.
    target: "portable" for every LibTorch, or "cpu" for those with oneDNN, as the builds for x86 and most for ARM are.
    bounds: smallest and largest "batch", "height" and "width" of what `forward` takes; empty for any.
    opset: of ONNX's operators; 0 for other kinds.
    quantization: how int8 was calibrated and what it costs (`formats/onnx/quantize.py`); empty for other precisions.
    processor: what machine code was compiled for (`segnets.deploy.formats._cpu`); empty for a program.
    tolerance: largest difference from the golden logits, relative to the largest of them.
    sample_step: every how many pixels the golden pair keeps of the preprocessed image.
    """

    model_name: str
    model_options: Mapping[str, JSON]
    num_classes: int
    preprocessing: Preprocessing
    tolerance: float
    sample_step: int
    segnets_version: str
    torch_version: str
    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    provenance: Mapping[str, JSON] = field(default_factory=dict)
    output: str = "tensor"
    dtype: str = "float32"
    device: str = "cpu"
    kind: str = "torchscript"
    target: str = "portable"
    bounds: Bounds = field(default_factory=dict)
    processor: Mapping[str, JSON] = field(default_factory=dict)
    opset: int = 0
    quantization: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ExportError(
                f"num_classes={self.num_classes}: expected 1..{MAX_CLASSES}, the ids that a mask can hold"
            )
        if self.output not in OUTPUTS:
            raise ExportError(f"output={self.output!r}: expected one of {', '.join(map(repr, OUTPUTS))}")
        if self.kind not in KINDS:
            raise ExportError(f"kind={self.kind!r}: expected one of {', '.join(map(repr, KINDS))}")
        if self.dtype not in DTYPES:
            raise ExportError(f"dtype={self.dtype!r}: expected one of {', '.join(map(repr, DTYPES))}")
        if self.device not in DEVICES:
            raise ExportError(f"device={self.device!r}: expected one of {', '.join(map(repr, DEVICES))}")
        if self.target not in TARGETS:
            raise ExportError(f"target={self.target!r}: expected one of {', '.join(map(repr, TARGETS))}")
        if len(self.classes) not in (0, self.num_classes):
            raise ExportError(f"classes: {len(self.classes)} names for a model with {self.num_classes} classes")
        if len(self.palette) not in (0, self.num_classes):
            raise ExportError(f"palette: {len(self.palette)} colours for a model with {self.num_classes} classes")
        _check_names_and_colours(self.classes, self.palette)

    @property
    def mask_dtype(self) -> str:
        """The type of a mask's class ids."""
        return "uint8" if self.num_classes <= 256 else "int16"

    def to_json(self) -> str:
        """Sorted JSON text, one line per field. Raises ExportError if an option can't be written as JSON."""
        logits = f"float32 (N, {self.num_classes}, H, W) logits"
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "model": {"name": self.model_name, "options": dict(self.model_options)},
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "palette": [list(colour) for colour in self.palette],
            "preprocessing": self.preprocessing.to_json(),
            "provenance": dict(self.provenance),
            "dtype": self.dtype,
            "device": self.device,
            "target": self.target,
            "bounds": {name: list(each) for name, each in self.bounds.items()},
            "processor": dict(self.processor),
            "output": self.output,
            "mask_dtype": self.mask_dtype,
            "methods": {
                "forward": {
                    "input": "float32 (N, 3, H, W) RGB or BGR as in preprocessing, normalised",
                    "output": logits if self.output == "tensor" else f'{{"out": {logits}}}',
                },
                "preprocess": {"input": "uint8 (N, H, W, 3) RGB", "output": "float32 (N, 3, h, w)"},
                "segment": {"input": "uint8 (N, H, W, 3) RGB", "output": f"{self.mask_dtype} (N, H, W) class ids"},
            },
            "golden": {"file": GOLDEN_FILE, "sample_step": self.sample_step, "tolerance": self.tolerance},
            "versions": {"segnets": self.segnets_version, "torch": self.torch_version},
        }
        if self.kind == "onnx":
            document["opset"] = self.opset
            document["dynamic_axes"] = {"input": _DYNAMIC_AXES, "logits": _DYNAMIC_AXES}
        if self.quantization:
            document["quantization"] = dict(self.quantization)
        try:
            text = json.dumps(document, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
            text.encode()  # half a character (a lone surrogate) is no text
            return text
        except (TypeError, ValueError) as error:
            raise ExportError(f"the model's options or provenance can't be written as JSON: {error}") from None

    @classmethod
    def from_json(cls, text: bytes | str, where: str) -> Contract:
        """Read what `to_json` wrote. where: the file's name, for the message.

        Raises ExportError for anything else.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"{where}: its {CONTRACT_FILE} is not JSON ({error}); export the model again") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ExportError(f"{where}: its {CONTRACT_FILE} is not a contract of segnets; export the model again")
        version = document.get("format_version")
        if not isinstance(version, int) or version != FORMAT_VERSION:
            raise ExportError(
                f"{where}: has contract version {version!r}, this segnets reads {FORMAT_VERSION}; upgrade segnets, "
                "or export the model again with this version"
            )
        try:
            return cls._from_document(document)
        except (KeyError, TypeError, ValueError, ExportError) as error:
            detail = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ExportError(f"{where}: its {CONTRACT_FILE} is damaged: {detail}; export the model again") from None

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Contract:
        """May raise KeyError, TypeError, ValueError or ExportError."""
        model, golden, versions = document["model"], document["golden"], document["versions"]
        return cls(
            model_name=_typed("model.name", model["name"], str),
            model_options=_typed("model.options", model["options"], dict),
            num_classes=_typed("num_classes", document["num_classes"], int),
            preprocessing=Preprocessing.from_json(document["preprocessing"]),
            tolerance=_typed("golden.tolerance", golden["tolerance"], float),
            sample_step=_typed("golden.sample_step", golden["sample_step"], int),
            segnets_version=_typed("versions.segnets", versions["segnets"], str),
            torch_version=_typed("versions.torch", versions["torch"], str),
            classes=tuple(_typed("classes", document["classes"], list)),
            palette=tuple(tuple(colour) for colour in _typed("palette", document["palette"], list)),
            provenance=_typed("provenance", document["provenance"], dict),
            output=_typed("output", document["output"], str),
            dtype=_typed("dtype", document["dtype"], str),
            device=_typed("device", document["device"], str),
            kind=_typed("kind", document["kind"], str),
            # Younger than the format.
            target=_typed("target", document.get("target", "portable"), str),
            bounds=_bounds(_typed("bounds", document.get("bounds", {}), dict)),
            processor=_typed("processor", document.get("processor", {}), dict),
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
            raise ValueError(f"bounds.{name} is {each!r}, expected the smallest and the largest of a dimension")
    return bounds


def _check_names_and_colours(classes: tuple[Any, ...], palette: tuple[Any, ...]) -> None:
    for name in classes:
        if not isinstance(name, str):
            raise ExportError(f"classes: {name!r} is not a name")
    for colour in palette:
        if not is_colour(colour):
            raise ExportError(f"palette: {colour!r} is not an RGB colour of three numbers 0..255")
