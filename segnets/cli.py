"""The command `segnets list | info | export | verify | join`.

Results on stdout, everything else on stderr; exit 0, 1 or 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second to import; `--help` need not wait for it
    from torch import nn

    from segnets.preprocessing import Preprocessing

_PROGRAM = "segnets"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if it worked, 1 for bad input, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    from segnets.console import run_command

    commands = {"list": _list, "info": _info, "export": _export, "verify": _verify, "join": _join}
    return run_command(lambda: commands[options.command](options), _PROGRAM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Classic segmentation networks, ready to deploy.")
    commands = parser.add_subparsers(dest="command", required=True)

    listing = commands.add_parser("list", help="name the networks")
    listing.add_argument("pattern", nargs="?", default="*", help='a shell pattern such as "fcn_*"')

    info = commands.add_parser("info", help="say what a weights file (.safetensors) is")
    info.add_argument("file", metavar="WEIGHTS")
    info.add_argument("--json", action="store_true", help="answer in JSON")

    export = commands.add_parser("export", help="make one file of a weights file that C++ and Python run")
    export.add_argument("weights", metavar="WEIGHTS", help="a .safetensors of segnets")
    export.add_argument("target", metavar="OUT", help="the file to write: model.ts, model.pt2 or model.onnx say")
    export.add_argument(
        "--format",
        choices=("torchscript", "aoti", "onnx"),
        default="torchscript",
        help="aoti: machine code (.pt2) for processors like this one; needs a C++ compiler. onnx: for ONNX Runtime, "
        "OpenVINO and others",
    )
    export.add_argument("--output", choices=("tensor", "dict"), default="tensor", help="what forward returns")
    export.add_argument(
        "--target",
        dest="hardware",
        choices=("portable", "cpu"),
        default="portable",
        help="cpu: faster, by the oneDNN operators that LibTorch has on CPUs",
    )
    export.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        default="float32",
        help="between image and scores; bfloat16 with --target cpu, --device cuda or aoti, float16 with --device cuda, "
        "int8 with onnx and --calibration",
    )
    export.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: torchscript whose network runs on a GPU"
    )
    export.add_argument("--opset", type=int, default=None, help="of ONNX's operators, 18 to 23; default: 20")
    export.add_argument("--calibration", metavar="FOLDER", help="for int8: images like those that the network will see")
    export.add_argument(
        "--minimum-agreement",
        type=float,
        default=None,
        metavar="SHARE",
        help="for int8: the share of pixels that must keep their class; default: 0.9",
    )
    export.add_argument(
        "--resize",
        default=None,
        metavar="RULE",
        help="what happens to an image first: 520 (its short side), 480x640 (height x width), or none; "
        "default: as the weights file says",
    )
    export.add_argument("--force", action="store_true", help="replace OUT if it exists")

    verify = commands.add_parser("verify", help="check that an exported file computes what it should")
    verify.add_argument("file", metavar="FILE", help="an exported file; it is a program and gets executed")
    verify.add_argument("--against", metavar="WEIGHTS", help="compare with this .safetensors at several sizes too")

    join = commands.add_parser("join", help="make one ONNX graph of an ONNX export, from an image's bytes to its mask")
    join.add_argument("file", metavar="FILE", help="what export --format onnx wrote")
    join.add_argument("target", metavar="OUT", help="the file to write: image_to_mask.onnx say")
    join.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return parser


def _list(options: argparse.Namespace) -> int:
    from segnets.registry import list_models

    for name in list_models(options.pattern):
        print(name)
    return 0


def _info(options: argparse.Namespace) -> int:
    from segnets.errors import WeightsError
    from segnets.weights import read_weights_file

    file = read_weights_file(options.file)
    if file.config is None or file.card is None:
        raise WeightsError(f"{options.file}: has no description of segnets in it; `weights-tools inspect` tells more")
    facts = {
        "model": file.config.name,
        "options": dict(file.config.options),
        "tensors": len(file.tensors),
        "parameters_and_buffers": sum(tensor.numel() for tensor in file.tensors.values()),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in file.tensors.values()}),
        "classes": list(file.card.classes),
        "preprocessing": asdict(file.card.preprocessing),
        "provenance": dict(file.card.provenance),
    }
    if options.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
        return 0
    provenance = {name: value for name, value in file.card.provenance.items() if name != "proof"}
    for name, value in {**facts, "provenance": provenance}.items():
        text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name:24}{', '.join(map(str, text)) if isinstance(text, list) else text}")
    for proof in _proofs(file.card.provenance.get("proof")):
        print(f"{'proven':24}{proof}")
    return 0


def _proofs(proof: object) -> list[str]:
    """What was proven, one line each; `--json` has every number."""
    if isinstance(proof, str):
        return [proof]
    if not isinstance(proof, dict):
        return []
    compared = proof.get("compared")
    run = (
        {f"beside {name}'s own network": entry for name, entry in compared.items()}
        if isinstance(compared, dict)
        else {}
    )
    if "golden" in proof:
        run["by a kept result of the source"] = proof["golden"]
    lines = [str(proof["tensors"])] if "tensors" in proof else []
    for how, entry in run.items():
        measured = entry.get("measured") if isinstance(entry, dict) else None
        each = [one.get("relative_difference") for one in measured or () if isinstance(one, dict)]
        largest = max((one for one in each if isinstance(one, float)), default=None)
        within = "" if largest is None else f", within {largest:.1g} of the largest"
        lines.append(f"the same results {how}{within}{_conditions(entry)}")
    return lines


def _conditions(entry: object) -> str:
    """What a proof takes for granted, and what was changed after it was measured."""
    assumed, before = (entry.get("assumed"), entry.get("before")) if isinstance(entry, dict) else (None, None)
    text = ""
    if isinstance(assumed, dict) and assumed:
        text += f", assuming {', '.join(f'{name}={value}' for name, value in assumed.items())}, which no tensor shows"
    if isinstance(before, list) and before:
        text += f"; measured before: {', '.join(map(str, before))}"
    return text


def _export(options: argparse.Namespace) -> int:
    from segnets.deploy import export
    from segnets.errors import ExportError
    from segnets.files import check_writable_target
    from segnets.weights import load

    target = check_writable_target(options.target, overwrite=options.force)  # before the work, not after it
    model = load(options.weights)
    if target.exists() and target.samefile(options.weights):
        raise ExportError(f"{target}: is the weights file itself, which stays beside its export; name another file")
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
        minimum_agreement=options.minimum_agreement,
        preprocessing=_preprocessing(options, model),
        overwrite=options.force,
    )
    print(report)
    return 0


def _preprocessing(options: argparse.Namespace, model: nn.Module) -> Preprocessing:
    """The preprocessing of the weights file, with the resize rule that the command asks for."""
    from dataclasses import replace

    from segnets.card import ModelCard
    from segnets.errors import ExportError

    card = getattr(model, "card", None) or ModelCard()
    if options.resize is None:
        return card.preprocessing
    try:
        if options.resize == "none":
            return replace(card.preprocessing, resize="none", size=None)
        height, by, width = options.resize.partition("x")
        if by:
            return replace(card.preprocessing, resize="fixed", size=(int(height), int(width)))
        return replace(card.preprocessing, resize="short_side", size=int(height))
    except ValueError as error:
        raise ExportError(
            f"--resize {options.resize}: expected 520 (the short side), 480x640 (height x width) or none ({error})"
        ) from None


def _verify(options: argparse.Namespace) -> int:
    from segnets.deploy import verify
    from segnets.weights import load

    report = verify(options.file, against=load(options.against) if options.against else None)
    print(report)
    return 0 if report.passed else 1


def _join(options: argparse.Namespace) -> int:
    from segnets.deploy import join_onnx

    compared = join_onnx(options.file, options.target, overwrite=options.force)
    print(f"{options.target}: the masks of {options.file} in all of {sum(compared)} pixels of {len(compared)} sizes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
