"""Export a model to one file that runs without Python: in LibTorch, or in ONNX runtimes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from segnets.card import (
    JSON,
    Decoding,
    ModelCard,
    ModelConfig,
    assumption_of,
    check_card,
    describe_assumed,
    with_labels,
)
from segnets.deploy._choices import AUTO, choose_format, choose_target, portable_because
from segnets.deploy._load import exported_from_bytes
from segnets.deploy._reason import reason_of
from segnets.deploy._verify import VerifyReport, verify_loaded
from segnets.deploy.check.reference import evaluation_copy, logits_in, returned_by
from segnets.deploy.contract import CONTRACT_FILE, DEVICES, DTYPES, GOLDEN_FILE, OUTPUTS, TARGETS, Contract
from segnets.deploy.formats import FORMATS, Draft, ExportOptions
from segnets.deploy.formats.onnx import QuantizationReport
from segnets.errors import ExportError, ImageError, WeightsError, warn_caller
from segnets.files import atomic_write, check_writable_target
from segnets.forks import check_not_forked
from segnets.neutral_state import neutral_process
from segnets.preprocessing import Preprocessing
from segnets.segmenter import check_channels
from segnets.weights.actual import AsIs, describe_as_is
from segnets.weights.wrappers import clean_names, is_sharded, without_inner_wrappers


@dataclass(frozen=True)
class ExportReport:
    """Result of an export; `str()` formats it for people.

    Attributes:
        path: The written file.
        size_bytes: Size of the file.
        folded_batch_norms: Number of batch norms folded into convolutions.
        removed_dropouts: Number of dropout layers removed.
        dropped_aux_classifier: Whether an auxiliary classifier was dropped.
        seconds: Duration of the export.
        verification: Comparison of the written file with the plain model.
        quantization: Cost of int8, measured on images; None for other precisions.
        notes: Choices made for the caller, each with the alternative, and what the export assumed.
    """

    path: Path
    size_bytes: int
    folded_batch_norms: int
    removed_dropouts: int
    dropped_aux_classifier: bool
    seconds: float
    verification: VerifyReport
    quantization: QuantizationReport | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Format the report in a few lines."""
        done = [f"{self.folded_batch_norms} batch norms folded", f"{self.removed_dropouts} dropouts removed"]
        if self.dropped_aux_classifier:
            done.append("auxiliary classifier dropped")
        measured = "" if self.quantization is None else f"\n  {self.quantization}"
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"{self.verification}{measured}\n  {', '.join(done)}, {self.seconds:.1f} s{notes}"


@neutral_process()
def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    output: str = "tensor",
    dtype: str = "float32",
    device: str = "cpu",
    target: str = AUTO,
    opset: int | None = None,
    calibration: str | os.PathLike[str] | None = None,
    minimum_agreement: float | None = None,
    size: Sequence[int] | None = None,
    preprocessing: Preprocessing | None = None,
    decoding: Decoding | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    overwrite: bool = True,
) -> ExportReport:
    """Export a model to one file, and verify that the file computes the same.

    The file is written under a temporary name, loaded again and compared with the plain model. It replaces an existing
    file only if it agrees.

    Args:
        model: A SegmentationModel, in training or eval mode, possibly inside wrappers (torch.compile, DataParallel,
            AveragedModel). It is not changed.
        path: File to write.
        format: "torchscript", a program for LibTorch (`.ts`, `.pt`); "aoti", a model compiled for CPUs like this one
            (`.pt2`), which needs torch 2.13, a C++ compiler and a minute; or "onnx", a graph for ONNX Runtime, OpenVINO
            and others (`.onnx`). None chooses by the suffix of `path`; other suffixes need a format.
        output: Output of the file's `forward`: "tensor" for logits (N, C, H, W), or "dict" for `{"out": logits}`.
        dtype: "float32"; "bfloat16" for everything between the image and the logits (target="cpu", device="cuda", or
            "aoti"); "float16" likewise (device="cuda"); or "int8" (ONNX only), which changes the outputs: the report
            measures by how much.
        device: "cpu", or "cuda" for a network that runs on a GPU ("torchscript" only). The export needs the GPU too.
        target: For TorchScript on CPUs: "portable", for every LibTorch; "cpu", which is faster: one call to LibTorch's
            oneDNN operators computes convolution, bias, activation and residual addition; or "auto", which is "cpu" if
            this LibTorch has oneDNN and the network supports it, else "portable". The report says which.
        opset: ONNX operator set, 18 to 23; None for 20.
        calibration: Folder of images like those that the network will see, for int8.
        minimum_agreement: Share of pixels that must keep their class on images of `calibration`, 0 to 1; None for 0.9.
        size: Shape of the network's input to fix, (N, K, height, width), for OpenCV, TensorRT, ncnn and NPUs (ONNX
            only). Every image is resized to it. None for any batch and size.
        preprocessing: Preprocessing to include; None for that of the model's card.
        decoding: Rule that turns logits into ids; None for that of the model's card. If the card has none, it is
            argmax, or a threshold of 0.5 for a network of one channel.
        classes: One name per class id; None for those of the model's card.
        palette: One RGB colour per class id; None for those of the model's card.
        overwrite: Whether an existing file may be replaced.

    Returns:
        A report of the measured differences.

    Raises:
        ExportError: If the model can't be exported with these arguments, or the file disagrees with it.
        OutputError: If the file can't be written.
        ForkError: If this process was forked after a network had run in several threads.
    """
    started = time.monotonic()
    check_not_forked()
    if format is not None:
        _check_choice("format", format, tuple(FORMATS))
    _check_choice("output", output, OUTPUTS)
    _check_choice("dtype", dtype, DTYPES)
    _check_choice("device", device, DEVICES)
    _check_choice("target", target, (AUTO, *TARGETS))
    if not isinstance(preprocessing, Preprocessing | None):
        raise ExportError(f"preprocessing={preprocessing!r}: expected a segnets.Preprocessing")
    if not isinstance(minimum_agreement, int | float | None):
        raise ExportError(f"minimum_agreement={minimum_agreement!r}: expected a share, 0..1")
    file = check_writable_target(path, overwrite=overwrite)
    kind = choose_format(Path(path), format)
    resolved, note = choose_target(kind, device) if target == AUTO else (target, "")
    options = ExportOptions(output, dtype, device, resolved, opset, calibration, minimum_agreement, _checked_size(size))
    FORMATS[kind].check(options)
    model = _checked_module(model)
    card = _card(model, preprocessing, decoding, classes, palette)

    _check_channels(model, card.preprocessing)
    card, resized = _at_size(card, options.size, preprocessing)
    reference = _reference(model)
    num_classes = _channels_of_logits(reference, card.preprocessing.channels)
    assumed = assumption_of(card.decoding, num_classes)
    notes = (resized, assumed, _assumption(card))
    card = _checked_card(replace(card, decoding=card.decoding or Decoding.default(num_classes)), num_classes)
    if assumed:
        card = card.assuming(["decoding"])
    config, card = _describe(model, card)
    draft, note = _draft(kind, model, card, options, note)
    golden = draft.golden(reference)
    contract = Contract(
        config=config,
        card=card,
        num_classes=num_classes,
        tolerance=golden.tolerance,
        sample_step=golden.sample_step,
        segnets_version=_version(),
        torch_version=str(torch.__version__),
        output=output,
        dtype=dtype,
        device=device,
        kind=kind,
        **draft.contract,
    )
    extra_files = {CONTRACT_FILE: contract.to_json().encode(), GOLDEN_FILE: safetensors.torch.save(golden.tensors)}
    data = draft.pack(contract, extra_files)
    verification = _write_verified(data, file, reference, overwrite)
    return ExportReport(
        path=verification.path,
        size_bytes=verification.size_bytes,
        folded_batch_norms=draft.rewritten.count("fold_batch_norms"),
        removed_dropouts=draft.rewritten.count("remove_dropouts"),
        dropped_aux_classifier=draft.rewritten.count("drop_aux_classifier") > 0,
        seconds=time.monotonic() - started,
        verification=verification,
        quantization=draft.quantization,
        notes=tuple(each for each in (note, *notes) if each),
    )


def _draft(kind: str, model: nn.Module, card: ModelCard, options: ExportOptions, note: str) -> tuple[Draft, str]:
    """Draft the model. If the chosen target "cpu" does not support it, use "portable" and replace the note."""
    preprocessing, decoding = card.preprocessing, card.decoding or Decoding()
    try:
        return FORMATS[kind].draft(model, preprocessing, decoding, options), note
    except ExportError as error:
        if not note or options.target != "cpu" or options.dtype != "float32":
            raise
        target, note = portable_because(str(error).partition(". ")[0])
    return FORMATS[kind].draft(model, preprocessing, decoding, replace(options, target=target)), note


def _write_verified(data: bytes, target: Path, reference: nn.Module, overwrite: bool) -> VerifyReport:
    """Write the file under a temporary name, read it back, and rename it if it agrees with the model."""
    with atomic_write(target, overwrite=overwrite) as file:
        file.write(data)
        file.flush()
        file.seek(0)
        try:
            verification = verify_loaded(exported_from_bytes(file.read(), target), reference)
        except ExportError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            # TorchScript's message ends with the cause.
            last = str(error).strip().rpartition("\n")[2]
            raise ExportError(f"the exported file can't be run, so it was not kept: {last}") from error
        if not verification.passed:
            raise ExportError(f"the exported file disagrees with the model, so it was not kept:\n  {verification}")
    return verification


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ExportError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def _checked_module(model: object) -> nn.Module:
    """Return the model without wrappers around or inside it."""
    if not isinstance(model, nn.Module):
        raise ExportError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if is_sharded(model):
        raise ExportError(
            f"model: this {type(model).__name__} is sharded (FSDP), so no process holds all of its tensors. Load its "
            "full state dict into a network that is not sharded, and export that"
        )
    return without_inner_wrappers(model)


def _check_channels(model: nn.Module, preprocessing: Preprocessing) -> None:
    try:
        check_channels(model, preprocessing)
    except ImageError as error:
        raise ExportError(str(error)) from None


def _checked_size(size: object) -> tuple[int, int, int, int] | None:
    if size is None:
        return None
    if isinstance(size, tuple | list) and len(size) == 4 and all(type(n) is int and 1 <= n <= 65536 for n in size):
        return size[0], size[1], size[2], size[3]
    raise ExportError(
        f"size={size!r}: expected (batch, channels, height, width), 1 to 65536 each, for example (1, 3, 480, 640) "
        "(--size 1x3x480x640)"
    )


def _at_size(
    card: ModelCard, size: tuple[int, int, int, int] | None, preprocessing: Preprocessing | None
) -> tuple[ModelCard, str]:
    """Return the card with the resizing to a fixed size, and a sentence on the rule that it replaces, or "".

    Raises:
        ExportError: If the size has the wrong number of channels, or the caller's preprocessing gives a different size.
    """
    if size is None:
        return card, ""
    old = card.preprocessing
    if size[1] != old.channels:
        raise ExportError(f"size={size}: has {size[1]} channels, but images of this network have {old.channels}")
    if old.resize == "fixed" and old.size == size[2:]:
        return card, ""
    fixed = f"{size[2]}x{size[3]}"
    if preprocessing is not None:
        raise ExportError(
            f"preprocessing: images are {old.describe_resize()}, but size={size} requires {fixed}. Pass "
            f"Preprocessing(resize='fixed', size={size[2:]}), or omit one of the two"
        )
    card = card.preparing(replace(old, resize="fixed", size=size[2:]), ["resize"])
    return card, f"size {fixed}: every image is resized to it; without the size, it would be {old.describe_resize()}"


def _reference(model: nn.Module) -> nn.Module:
    try:
        return evaluation_copy(model)
    # Meta tensors, lazy and scripted modules, and hooks with uncopyable state each raise their own error.
    except Exception as error:
        raise ExportError(
            f"model: this {type(model).__name__} can't be copied to the CPU in float32: {reason_of(error)}"
        ) from error


def _describe(model: nn.Module, card: ModelCard) -> tuple[ModelConfig, ModelCard]:
    """Return the config of the model as it is now, or the name of its class if no config describes it.

    The file computes what the model computes in any case, but its contract must not describe a different network.
    """
    config: ModelConfig | None = getattr(model, "config", None)
    if config is None:
        return ModelConfig(type(model).__name__), card
    tensors = model.state_dict()
    clean = clean_names(tensors)
    try:
        as_is = describe_as_is(model, config, {clean[name]: tensor for name, tensor in tensors.items()})
    except WeightsError as error:  # a config of the caller's own
        as_is = AsIs(config, problem=str(error))
    if not as_is.problem:
        return as_is.config, card
    warn_caller(f"the exported file records no builder: {as_is.problem}")
    provenance: dict[str, JSON] = {**card.provenance, "changed_from": config.name}
    return ModelConfig(type(model).__name__), replace(card, provenance=provenance)


def _channels_of_logits(reference: nn.Module, channels: int) -> int:
    with torch.inference_mode():
        output = returned_by(reference, torch.zeros(1, channels, 64, 64, dtype=torch.float32))
    return logits_in(output, reference).shape[1]


def _card(
    model: object,
    preprocessing: Preprocessing | None,
    decoding: Decoding | None,
    classes: Sequence[str] | None,
    palette: Sequence[Sequence[int]] | None,
) -> ModelCard:
    """Return the model's card with the given values in place of its own.

    Raises:
        ExportError: If a class name, a colour or the decoding is invalid. Their number is checked later.
    """
    # Folding changes the tensors, so claims about the original ones no longer hold.
    card: ModelCard = (getattr(model, "card", None) or ModelCard().assuming()).derived()
    try:
        card = with_labels(card, classes, palette)
    except ValueError as error:
        raise ExportError(str(error)) from None
    if decoding is not None:
        card = replace(card, decoding=decoding)
    return _checked_card(card if preprocessing is None else card.preparing(preprocessing), None)


def _checked_card(card: ModelCard, num_classes: int | None) -> ModelCard:
    try:
        check_card(card, num_classes)
    except ValueError as error:
        raise ExportError(str(error)) from None
    return card


def _assumption(card: ModelCard) -> str:
    """Return a sentence on the assumed preprocessing that the export now contains, or ""."""
    assumed = describe_assumed(card)
    return f"assumed: {assumed}; in Python: preprocessing=segnets.Preprocessing(...)" if assumed else ""


def _version() -> str:
    try:
        return metadata.version("segnets")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
