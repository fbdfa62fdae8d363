"""The formats of `export`: what each allows, and how a model becomes a file of it.

An optimized model first becomes a draft. What can't be translated at all is said then, before anything is measured;
compiling, which takes long, waits until the golden pair and the contract are there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from segnets.deploy.check.golden import Golden, make_golden
from segnets.deploy.contract import Contract
from segnets.deploy.formats import _script as torchscript
from segnets.deploy.formats import aoti
from segnets.deploy.formats import torchscript_cuda as cuda
from segnets.deploy.formats._cpu import check_onednn, this_processor
from segnets.deploy.formats.onnx import network as onnx
from segnets.deploy.formats.onnx.quantize import MINIMUM_AGREEMENT, QuantizationReport, quantize, quantized_golden
from segnets.deploy.passes.context import Context
from segnets.deploy.passes.pipeline import Rewritten, rewrite
from segnets.errors import ExportError
from segnets.preprocessing import DEFAULT_SHORT_SIDE, Preprocessing
from segnets.segmenter import Segmenter


@dataclass(frozen=True)
class Options:
    """What `export` was asked for, as it describes it."""

    output: str
    dtype: str
    device: str
    target: str
    opset: int | None
    calibration: str | os.PathLike[str] | None
    minimum_agreement: float | None


@dataclass(frozen=True)
class Draft:
    """A model on its way into a file.

    rewritten: the network, and what the passes did.
    contract: what the format says in it. pack: contract and files that it shall carry -> the file's bytes.
    golden: of the plain model, in eval mode.
    """

    rewritten: Rewritten
    contract: Mapping[str, Any]
    pack: Callable[[Contract, Mapping[str, bytes]], bytes]
    golden: Callable[[nn.Module], Golden]
    quantization: QuantizationReport | None = None


@dataclass(frozen=True)
class Format:
    """check: raises ExportError for options that exclude each other. draft: of a model, which is not changed."""

    check: Callable[[Options], None]
    draft: Callable[[nn.Module, Preprocessing, Options], Draft]


def _check_torchscript(options: Options) -> None:
    _refuse_onnx_options("torchscript", options)
    if options.device == "cuda":
        cuda.check(options.target, options.dtype)
    elif options.target == "cpu":
        check_onednn(options.dtype, "export")
        if options.dtype == "float16":
            raise ExportError("dtype='float16' needs device='cuda': processors compute it slower than float32")
    elif options.dtype != "float32":
        raise ExportError(
            f"dtype={options.dtype!r} needs target='cpu' (bfloat16) or device='cuda': portable operators are slower in "
            "it than in float32"
        )


def _draft_torchscript(model: nn.Module, preprocessing: Preprocessing, options: Options) -> Draft:
    target = "cuda" if options.device == "cuda" else options.target
    context = Context("torchscript", target, getattr(torch, options.dtype), _usual_size(preprocessing))
    rewritten = rewrite(model, context)
    if options.device == "cuda":
        program = cuda.compile_segmenter(rewritten.network, preprocessing, options.output)
    else:
        segmenter = Segmenter(rewritten.network, preprocessing)
        program = torchscript.compile_segmenter(segmenter, options.output, options.target)
    return Draft(
        rewritten,
        {"target": options.target},
        lambda _contract, files: torchscript.to_bytes(program, files),
        _golden(preprocessing, options.dtype),
    )


def _check_aoti(options: Options) -> None:
    _refuse_torchscript_options("aoti", options, "compiled code is always bound to a processor: leave it out")
    _refuse_onnx_options("aoti", options)
    if options.dtype == "float16":
        raise ExportError("dtype='float16' needs format='torchscript', device='cuda'")
    aoti.check_torch()


def _draft_aoti(model: nn.Module, preprocessing: Preprocessing, options: Options) -> Draft:
    largest = max(aoti.BOUNDS["height"][1], aoti.BOUNDS["width"][1])
    context = Context("aoti", "cpu", getattr(torch, options.dtype), _usual_size(preprocessing), largest)
    rewritten = rewrite(model, context)

    def pack(_contract: Contract, files: Mapping[str, bytes]) -> bytes:
        def without_winograd() -> nn.Module:
            return rewrite(model, replace(context, winograd=False)).network

        fallback = without_winograd if rewritten.count("choose_forms", "winograd") else None
        return aoti.to_bytes(rewritten.network, preprocessing, files, context.image_size, fallback)

    return Draft(
        rewritten,
        # The threads are said, not asked for: with others it computes the same, perhaps slower.
        {
            "target": "cpu",
            "bounds": aoti.BOUNDS,
            "processor": {**this_processor(), "threads": torch.get_num_threads()},
        },
        pack,
        _golden(preprocessing, options.dtype),
    )


def _check_onnx(options: Options) -> None:
    _refuse_torchscript_options("onnx", options, "an ONNX file runs everywhere: leave it out")
    if options.dtype not in ("float32", "int8"):
        raise ExportError(f"dtype={options.dtype!r} is not offered in format='onnx'; allowed: 'float32', 'int8'")
    if options.opset is not None:
        onnx.check_opset(options.opset)
    if options.dtype == "int8" and options.calibration is None:
        raise ExportError("dtype='int8' needs calibration, a folder of images like those that the network will see")
    if options.dtype != "int8" and (options.calibration is not None or options.minimum_agreement is not None):
        raise ExportError("calibration and minimum_agreement need dtype='int8'")
    if options.minimum_agreement is not None and not 0 <= options.minimum_agreement <= 1:
        raise ExportError(f"minimum_agreement={options.minimum_agreement!r}: expected a share of the pixels, 0 to 1")
    onnx.check_installed("format='onnx'", "onnx", "onnxscript", "onnxruntime")


def _draft_onnx(model: nn.Module, preprocessing: Preprocessing, options: Options) -> Draft:
    opset = options.opset or onnx.DEFAULT_OPSET
    rewritten = rewrite(model, Context("onnx", "portable"))
    network = onnx.network_of(rewritten.network, opset)
    if options.calibration is None:
        return Draft(
            rewritten,
            {"opset": opset},
            lambda contract, files: onnx.packed(network, contract, files),
            _golden(preprocessing, options.dtype),
        )
    agreement = MINIMUM_AGREEMENT if options.minimum_agreement is None else options.minimum_agreement
    small, report = quantize(network, preprocessing, options.calibration, agreement)
    return Draft(
        rewritten,
        {"opset": opset, "quantization": report.to_json()},
        lambda contract, files: onnx.packed(small, contract, files),
        lambda reference: quantized_golden(small, reference, preprocessing),
        report,
    )


def _golden(preprocessing: Preprocessing, dtype: str) -> Callable[[nn.Module], Golden]:
    return lambda reference: make_golden(Segmenter(reference, preprocessing).eval(), preprocessing, dtype)


def _refuse_torchscript_options(name: str, options: Options, reason: str) -> None:
    if options.output == "dict":
        raise ExportError(f"output='dict' is TorchScript's; format={name!r} gives tensors: leave output out")
    if options.device != "cpu":
        raise ExportError(f"device={options.device!r} needs format='torchscript', not format={name!r}")
    if options.target != "portable":
        raise ExportError(f"target={options.target!r} is TorchScript's; {reason}")


def _refuse_onnx_options(name: str, options: Options) -> None:
    if options.opset is not None:
        raise ExportError(f"opset={options.opset!r} needs format='onnx', not format={name!r}")
    if options.dtype == "int8":
        raise ExportError(f"dtype='int8' needs format='onnx', not format={name!r}")
    if options.calibration is not None or options.minimum_agreement is not None:
        raise ExportError("calibration and minimum_agreement need dtype='int8'")


def _usual_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """The size that images mostly have when they reach the network."""
    if isinstance(preprocessing.size, tuple):
        return preprocessing.size
    side = preprocessing.size or DEFAULT_SHORT_SIDE
    return side, side


FORMATS: Mapping[str, Format] = {
    "torchscript": Format(_check_torchscript, _draft_torchscript),
    "aoti": Format(_check_aoti, _draft_aoti),
    "onnx": Format(_check_onnx, _draft_onnx),
}
