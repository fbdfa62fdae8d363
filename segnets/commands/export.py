"""`segnets export WEIGHTS OUT`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segnets.commands._common import Subparsers, add_command
from segnets.console import add_decoding, decoding_of, progress


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "export",
        run,
        summary="export a weights file to a file that C++ and Python run",
        description="Export the network of a weights file to one file with its preprocessing, class names and a "
        "golden input/output pair. The file is reloaded and compared with the network before it is kept.",
        examples="""
        segnets export weights.safetensors model.ts
        segnets export weights.safetensors model.pt2
        segnets export weights.safetensors int8.onnx --dtype int8 --calibration photographs/
        """,
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="weights file (.safetensors) written by segnets")
    parser.add_argument("target", metavar="OUT", help="file to write, for example model.ts, model.pt2 or model.onnx")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    _add_form(parser)
    _add_input(parser)
    _add_output(parser)
    _add_onnx(parser)


def _add_form(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("form of the export")
    group.add_argument(
        "--format",
        choices=("torchscript", "aoti", "onnx"),
        help="torchscript: for LibTorch. aoti: a compiled model for CPUs like this one; needs a C++ compiler. onnx: "
        "for ONNX Runtime, OpenVINO and others. Default: by OUT's suffix: .ts or .pt, .pt2, .onnx",
    )
    group.add_argument(
        "--target",
        dest="hardware",
        choices=("auto", "portable", "cpu"),
        default="auto",
        help="target of TorchScript on CPUs. cpu: faster, with LibTorch's oneDNN operators. portable: for every "
        "LibTorch. auto: cpu if this LibTorch has oneDNN. Default: %(default)s",
    )
    group.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: TorchScript whose network runs on a GPU. Default: %(default)s",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        default="float32",
        help="dtype between image and logits. bfloat16 needs LibTorch with oneDNN, --device cuda or --format aoti; "
        "float16 needs --device cuda; int8 needs --format onnx and --calibration. Default: %(default)s",
    )
    group.add_argument(
        "--output",
        choices=("tensor", "dict"),
        default="tensor",
        help="return type of forward. Default: %(default)s",
    )


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument(
        "--resize",
        metavar="RULE",
        help="resizing of an image before the network: 520 (the short side), 480x640 (height x width), x2 "
        "(twice the image's size) or none. Default: the rule in the weights file",
    )
    for name in ("mean", "std"):
        group.add_argument(
            f"--{name}",
            metavar="R,G,B",
            help=f"{name} of each channel scaled to 0..1, in the network's order. Default: that in the weights file",
        )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mask")
    add_decoding(group)
    group.add_argument(
        "--classes", nargs="+", metavar="NAME", help="name of each id of the mask. Default: those in the weights file"
    )


def _add_onnx(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("ONNX")
    group.add_argument(
        "--size",
        metavar="SHAPE",
        help="fix the shape of the network's input, for example 1x3x480x640 (batch x channels x height x width), for "
        "OpenCV, TensorRT, ncnn and NPUs; every image is resized to it. Default: any batch and size",
    )
    group.add_argument("--opset", type=int, metavar="N", help="opset version, 18 to 23. Default: 20")
    group.add_argument(
        "--calibration", metavar="FOLDER", help="for int8: images like those that the network will segment"
    )
    group.add_argument(
        "--minimum-agreement",
        type=float,
        metavar="SHARE",
        help="for int8: share of pixels that must keep their class, 0 to 1. Default: 0.9",
    )


def run(options: argparse.Namespace) -> int:
    """Write the export and print the report; return 0."""
    from segnets.deploy import export
    from segnets.errors import ExportError
    from segnets.files import check_writable_target
    from segnets.weights import load

    decoding = decoding_of(options)
    size = _size(options.size)
    target = check_writable_target(options.target, overwrite=options.force)  # fail before the export, not after it
    model = load(options.weights)
    if target.exists() and target.samefile(options.weights):
        raise ExportError(f"{target}: OUT is the weights file itself. Choose another file.")
    _state_preprocessing(options, model, size)
    with progress("segnets", f"exporting to {options.target}; large networks and compiled models take minutes"):
        report = export(
            model,
            Path(options.target),
            output=options.output,
            format=options.format,
            target=options.hardware,
            dtype=options.dtype,
            device=options.device,
            opset=options.opset,
            calibration=options.calibration,
            size=size,
            minimum_agreement=options.minimum_agreement,
            decoding=decoding,
            classes=options.classes,
            overwrite=options.force,
        )
    print(report)
    return 0


def _size(text: str | None) -> tuple[int, ...] | None:
    from segnets.errors import ExportError

    if text is None:
        return None
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts):
        raise ExportError(f"--size {text[:40]}: expected batch x channels x height x width, for example 1x3x480x640")
    return tuple(map(int, parts))


def _state_preprocessing(options: argparse.Namespace, model: Any, size: tuple[int, ...] | None) -> None:
    """Copy the preprocessing options of the command line to the model's card."""
    from dataclasses import replace

    from segnets.card import ModelCard
    from segnets.errors import ExportError
    from segnets.preprocessing import parse_numbers
    from segnets.resize_rules import parse_resize

    stated: dict[str, Any] = {}
    parsers: dict[str, Callable[[str], dict[str, Any]]] = {
        "resize": parse_resize,
        "mean": lambda text: {"mean": parse_numbers(text)},
        "std": lambda text: {"std": parse_numbers(text)},
    }
    for name, parse in parsers.items():
        text: str | None = getattr(options, name)
        if text is None:
            continue
        try:
            stated.update(parse(text))
        except ValueError as error:
            raise ExportError(f"--{name} {text[:40]}: {error}") from None
    if size is not None and "size" in stated and stated["size"] != size[2:]:
        raise ExportError(f"--resize {options.resize} contradicts --size {options.size}: omit --resize")
    if not stated:
        return
    card = getattr(model, "card", None) or ModelCard().assuming()
    try:
        model.card = card.preparing(replace(card.preprocessing, **stated), stated)
    except ValueError as error:
        raise ExportError(str(error)) from None
