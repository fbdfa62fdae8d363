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
from segnets.deploy._load import exported_from_bytes
from segnets.deploy._reason import reason_of
from segnets.deploy._verify import VerifyReport, verify_loaded
from segnets.deploy.check.golden import Golden
from segnets.deploy.check.reference import evaluation_copy
from segnets.deploy.contract import CONTRACT_FILE, DEVICES, DTYPES, GOLDEN_FILE, OUTPUTS, TARGETS, Contract
from segnets.deploy.formats._base import FORMATS, Options
from segnets.deploy.formats.onnx.quantize import QuantizationReport
from segnets.deploy.passes.pipeline import Rewritten
from segnets.errors import ExportError, WeightsError
from segnets.files import atomic_write, check_writable_target
from segnets.preprocessing import Preprocessing
from segnets.weights.description import as_tuple, check_card


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
    # The name that callers write, as in `export(model, path, format="onnx")`, and that the command has; to rename it
    # would break them, and nothing in this function calls the builtin that it hides.
    format: str = "torchscript",  # noqa: A002
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
    takes torch 2.13, a C++ compiler and a minute to make; or "onnx", a graph for ONNX Runtime, OpenVINO and others.
    output: what the file's `forward` gives: "tensor" logits (N, C, H, W), or "dict" {"out": logits}.
    target: "portable", for every LibTorch; or "cpu", faster: convolution, bias, activation and residual addition in one
    call of the oneDNN operators that LibTorch has on CPUs.
    dtype: "float32"; "bfloat16" for everything between the image and the logits (target="cpu", device="cuda", or
    "aoti"), "float16" likewise (device="cuda"); or "int8" ("onnx"), whose answers are others: the report says how far,
    on images.
    device: "cpu", or "cuda" for a program whose network runs on a GPU ("torchscript"); one has to be here to prove it.
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
    _check_choice("format", format, tuple(FORMATS))
    _check_choice("output", output, OUTPUTS)
    _check_choice("dtype", dtype, DTYPES)
    _check_choice("device", device, DEVICES)
    _check_choice("target", target, TARGETS)
    if not isinstance(preprocessing, Preprocessing | None):
        raise ExportError(f"preprocessing={preprocessing!r}: expected a segnets.Preprocessing")
    if not isinstance(minimum_agreement, int | float | None):
        raise ExportError(f"minimum_agreement={minimum_agreement!r}: expected a share, 0..1")
    chosen = FORMATS[format]
    options = Options(output, dtype, device, target, opset, calibration, minimum_agreement)
    chosen.check(options)
    file = check_writable_target(path, overwrite=overwrite)
    card = _card(model, classes, palette)
    preprocessing = preprocessing or card.preprocessing

    reference = _copied(_checked_module(model))
    draft = chosen.draft(model, preprocessing, options)
    golden = draft.golden(reference)
    contract = _contract(
        model,
        golden,
        preprocessing=preprocessing,
        classes=card.classes,
        palette=card.palette,
        provenance=card.provenance,
        output=output,
        dtype=dtype,
        device=device,
        kind=format,
        **draft.contract,
    )
    extra_files = {CONTRACT_FILE: contract.to_json().encode(), GOLDEN_FILE: safetensors.torch.save(golden.tensors)}
    data = draft.pack(contract, extra_files)
    verification = _write_verified(data, file, reference, overwrite)
    return _report(draft.rewritten, verification, draft.quantization, time.monotonic() - started)


def _write_verified(data: bytes, target: Path, reference: nn.Module, overwrite: bool) -> VerifyReport:
    """Write, read back what arrived on the disk, compare, and only then let the file have its name."""
    with atomic_write(target, overwrite=overwrite) as file:
        file.write(data)
        file.flush()
        file.seek(0)
        try:
            verification = verify_loaded(exported_from_bytes(file.read(), target), reference)
        except ExportError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            # TorchScript says last what its first lines only announce.
            last = str(error).strip().rpartition("\n")[2]
            raise ExportError(f"the exported file can't be run, so it was not kept: {last}") from error
        if not verification.passed:
            raise ExportError(f"the exported file disagrees with the model, so it was not kept:\n{verification}")
    return verification


def _report(
    rewritten: Rewritten, verification: VerifyReport, quantization: QuantizationReport | None, seconds: float
) -> ExportReport:
    return ExportReport(
        path=verification.path,
        size_bytes=verification.size_bytes,
        folded_batch_norms=rewritten.count("fold_batch_norms"),
        removed_dropouts=rewritten.count("remove_dropouts"),
        dropped_aux_classifier=rewritten.count("drop_aux_classifier") > 0,
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


def _copied(model: nn.Module) -> nn.Module:
    try:
        return evaluation_copy(model)
    except Exception as error:  # of meta tensors, lazy and scripted modules, hooks that hold what can't be copied
        raise ExportError(
            f"model: this {type(model).__name__} can't be copied to the CPU in float32: {reason_of(error)}"
        ) from error


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
            card = replace(card, classes=as_tuple("classes", classes))
        if palette is not None:
            card = replace(card, palette=tuple(as_tuple("palette colour", c) for c in as_tuple("palette", palette)))
        check_card(card, None)  # how many classes there are, the contract checks
    except WeightsError as error:
        raise ExportError(str(error)) from None
    return card


def _version() -> str:
    try:
        return metadata.version("segnets")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
