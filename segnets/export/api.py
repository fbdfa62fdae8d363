"""export(): a model becomes one file that runs without Python: in LibTorch, or as ONNX in other runtimes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from segnets.card import ModelCard, ModelConfig
from segnets.errors import ExportError, WeightsError
from segnets.export import aoti, onnx, torchscript
from segnets.export.contract import CONTRACT_FILE, DTYPES, GOLDEN_FILE, OUTPUTS, TARGETS, Contract
from segnets.export.fused import fuse
from segnets.export.golden import Golden, make_golden
from segnets.export.onnx_int8 import MINIMUM_AGREEMENT, QuantizationReport, quantize, quantized_golden
from segnets.export.optimize import Optimized, evaluation_copy, optimize
from segnets.export.processor import check_onednn, this_processor
from segnets.export.runtime import exported_from_bytes
from segnets.export.verify import VerifyReport, verify_loaded
from segnets.files import atomic_write, check_writable_target
from segnets.preprocess import DEFAULT_SHORT_SIDE, Preprocessing
from segnets.segment import Segmenter
from segnets.weights.description import check_card, listed

FORMATS = ("torchscript", "aoti", "onnx")
DEVICES = ("cpu",)


@dataclass(frozen=True)
class ExportReport:
    """What an export did and measured; `str()` of it is for people.

    verification: the written file, loaded again and compared with the plain model before it got its name.
    quantization: what int8 costs on real images; None for other precisions.
    """

    path: Path
    size_bytes: int
    folded_batch_norms: int
    removed_dropouts: int
    dropped_aux_classifier: bool
    seconds: float
    verification: VerifyReport
    quantization: QuantizationReport | None = None

    def __str__(self) -> str:
        done = [f"{self.folded_batch_norms} batch norms folded", f"{self.removed_dropouts} dropouts removed"]
        if self.dropped_aux_classifier:
            done.append("auxiliary classifier dropped")
        measured = "" if self.quantization is None else f"\n  {self.quantization}"
        return f"{self.verification}{measured}\n  {', '.join(done)}, {self.seconds:.1f} s"


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    format: str = "torchscript",  # noqa: A002  # a public name; the builtin is not used in here
    output: str = "tensor",
    dtype: str = "float32",
    device: str = "cpu",
    target: str = "portable",
    opset: int | None = None,
    calibration: str | os.PathLike[str] | None = None,
    minimum_agreement: float | None = None,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    overwrite: bool = True,
) -> ExportReport:
    """Write `model` as one file that runs without the model's code, and prove that it computes the same.

    model: a SegmentationModel, in training or eval mode; it is not changed.
    format: "torchscript", a program for every LibTorch; "aoti", machine code (.pt2) for processors like this one, which
    takes a C++ compiler and a minute to make; or "onnx", a graph for ONNX Runtime, OpenVINO and others.
    output: what the file's `forward` gives: "tensor" logits (N, C, H, W), or "dict" {"out": logits}.
    target: "portable", for every LibTorch; or "cpu", faster: convolution, bias, activation and residual addition in one
    call of the oneDNN operators that LibTorch has on CPUs.
    dtype: "float32"; "bfloat16" for everything between the image and the logits (target="cpu", or "aoti"); or "int8"
    ("onnx"), whose answers are others: the report says how far, on images.
    opset: of ONNX's operators, 18 to 23; 20 when not given.
    calibration: for int8, a folder of images like those that the network will see.
    minimum_agreement: for int8, the share of pixels that must keep their class on images of that folder; 0.9 when not
    given, 0 for any.
    preprocessing, classes, palette: from the model's card when not given.

    The file is loaded again and compared with the plain model before it gets its name; a file that was there before
    is replaced only then.
    Raises ExportError for what can't be exported or disagrees, OutputError if the file can't be written.
    """
    started = time.monotonic()
    _check_choice("format", format, FORMATS)
    _check_choice("output", output, OUTPUTS)
    _check_choice("dtype", dtype, DTYPES)
    _check_choice("device", device, DEVICES)
    _check_choice("target", target, TARGETS)
    _check_together(format, output, dtype, target)
    _check_onnx_options(format, dtype, opset, calibration, minimum_agreement)
    file = check_writable_target(path, overwrite=overwrite)
    card = _card(model, classes, palette)
    preprocessing = preprocessing or card.preprocessing

    reference = evaluation_copy(_checked_module(model))
    optimized = optimize(model)
    # What can't be translated at all is said before anything is measured.
    network = onnx.network_of(optimized.model, opset or onnx.DEFAULT_OPSET) if format == "onnx" else b""
    program = _scripted(optimized.model, preprocessing, output, dtype, target) if format == "torchscript" else None
    quantization = None
    if calibration is not None:
        agreement = MINIMUM_AGREEMENT if minimum_agreement is None else minimum_agreement
        network, quantization = quantize(network, preprocessing, calibration, agreement)
        golden = quantized_golden(network, reference, preprocessing)
    else:
        golden = make_golden(Segmenter(reference, preprocessing).eval(), preprocessing, dtype)
    contract = _contract(
        model,
        golden,
        preprocessing=preprocessing,
        classes=card.classes,
        palette=card.palette,
        provenance=card.provenance,
        output=output,
        dtype=dtype,
        kind=format,
        target="cpu" if format == "aoti" else target,
        **(_bound_to_this_machine() if format == "aoti" else {}),
        opset=(opset or onnx.DEFAULT_OPSET) if format == "onnx" else 0,
        quantization={} if quantization is None else quantization.to_json(),
    )
    extra_files = {CONTRACT_FILE: contract.to_json().encode(), GOLDEN_FILE: safetensors.torch.save(golden.tensors)}
    if format == "onnx":
        data = onnx.packed(network, contract, extra_files)
    elif format == "aoti":
        size = _usual_size(preprocessing)
        data = aoti.to_bytes(optimized.model, preprocessing, getattr(torch, dtype), extra_files, size)
    else:
        data = torchscript.to_bytes(program, extra_files)
    verification = _write_verified(data, file, reference, overwrite)
    return _report(optimized, verification, quantization, time.monotonic() - started)


def _check_together(kind: str, output: str, dtype: str, target: str) -> None:
    """Raise ExportError for options that exclude each other. kind: the format."""
    if kind == "torchscript" and dtype != "float32" and target == "portable":
        raise ExportError(f"dtype={dtype!r} needs target='cpu': portable operators are slower in it than in float32")
    if target == "cpu":
        check_onednn(dtype, "export")
    if kind != "torchscript" and output == "dict":
        raise ExportError(f"output='dict' is TorchScript's; format={kind!r} gives tensors: leave output out")
    if kind == "onnx" and dtype == "bfloat16":
        raise ExportError("dtype='bfloat16' is not offered in format='onnx'; allowed: 'float32', 'int8'")
    if kind != "onnx" and dtype == "int8":
        raise ExportError(f"dtype='int8' needs format='onnx', not format={kind!r}")
    if kind == "onnx" and target != "portable":
        raise ExportError(f"target={target!r} is TorchScript's; an ONNX file runs everywhere: leave it out")
    if kind == "aoti" and target != "portable":
        raise ExportError(
            f"target={target!r} is TorchScript's; compiled code is always bound to a processor: leave it out"
        )


def _check_onnx_options(
    kind: str,
    dtype: str,
    opset: int | None,
    calibration: str | os.PathLike[str] | None,
    minimum_agreement: float | None,
) -> None:
    if opset is not None:
        if kind != "onnx":
            raise ExportError(f"opset={opset!r} needs format='onnx', not format={kind!r}")
        onnx.check_opset(opset)
    if dtype == "int8" and calibration is None:
        raise ExportError("dtype='int8' needs calibration, a folder of images like those that the network will see")
    if dtype != "int8" and (calibration is not None or minimum_agreement is not None):
        raise ExportError("calibration and minimum_agreement need dtype='int8'")
    if minimum_agreement is not None and not 0 <= minimum_agreement <= 1:
        raise ExportError(f"minimum_agreement={minimum_agreement!r}: expected a share of the pixels, 0 to 1")
    if kind == "onnx":
        onnx.check_installed("format='onnx'", "onnx", "onnxscript", "onnxruntime")


def _bound_to_this_machine() -> dict[str, Any]:
    return {"bounds": aoti.BOUNDS, "processor": this_processor()}


def _usual_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """The size that images mostly have when they reach the network."""
    if isinstance(preprocessing.size, tuple):
        return preprocessing.size
    side = preprocessing.size or DEFAULT_SHORT_SIDE
    return side, side


def _scripted(model: nn.Module, preprocessing: Preprocessing, output: str, dtype: str, target: str) -> Any:
    """The program of an optimized model; target="cpu" takes its parts."""
    if target == "cpu":
        model = fuse(model, getattr(torch, dtype), _usual_size(preprocessing))
    return torchscript.compile_segmenter(Segmenter(model, preprocessing), output, target)


def _write_verified(data: bytes, target: Path, reference: nn.Module, overwrite: bool) -> VerifyReport:
    """Write, read back what arrived on the disk, compare, and only then let the file have its name."""
    with atomic_write(target, overwrite=overwrite) as file:
        file.write(data)
        file.flush()
        file.seek(0)
        verification = verify_loaded(exported_from_bytes(file.read(), target), reference)
        if not verification.passed:
            raise ExportError(f"the exported file disagrees with the model, so it was not kept:\n{verification}")
    return verification


def _report(
    optimized: Optimized, verification: VerifyReport, quantization: QuantizationReport | None, seconds: float
) -> ExportReport:
    return ExportReport(
        path=verification.path,
        size_bytes=verification.size_bytes,
        folded_batch_norms=optimized.folded_batch_norms,
        removed_dropouts=optimized.removed_dropouts,
        dropped_aux_classifier=optimized.dropped_aux_classifier,
        seconds=seconds,
        verification=verification,
        quantization=quantization,
    )


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ExportError(f"{name}={value!r} is not supported yet; allowed: {', '.join(map(repr, allowed))}")


def _checked_module(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ExportError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    config = getattr(model, "config", None)
    channels = config.options.get("in_channels", 3) if isinstance(config, ModelConfig) else 3
    if channels != 3:
        raise ExportError(
            f"model: reads images of {channels} channels (in_channels), and an export prepares RGB images, of 3; "
            "torch.jit.script(model.eval()) makes a file of the bare network"
        )
    return model


def _contract(model: nn.Module, golden: Golden, **fields: Any) -> Contract:
    """The contract of `model`; fields: what its card or the caller says."""
    config = getattr(model, "config", None)
    return Contract(
        # One that was put together by hand can be run, but not built again by name.
        model_name=type(model).__name__ if config is None else config.name,
        model_options={} if config is None else dict(config.options),
        num_classes=golden.tensors["logits"].shape[1],
        tolerance=golden.tolerance,
        sample_step=golden.sample_step,
        segnets_version=_version(),
        torch_version=str(torch.__version__),
        **fields,
    )


def _card(model: object, classes: Sequence[str] | None, palette: Sequence[Sequence[int]] | None) -> ModelCard:
    """The model's card, with the class names and colours that were given instead. Raises ExportError."""
    card: ModelCard = (getattr(model, "card", None) or ModelCard()).derived()  # folded, they are other tensors
    try:
        if classes is not None:
            card = replace(card, classes=listed("classes", classes))
        if palette is not None:
            card = replace(card, palette=tuple(listed("palette colour", c) for c in listed("palette", palette)))
        check_card(card, None)  # how many classes there are, the contract checks
    except WeightsError as error:
        raise ExportError(str(error)) from None
    return card


def _version() -> str:
    try:
        return metadata.version("segnets")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
