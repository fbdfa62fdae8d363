"""`segnets info FILE`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnets.commands._common import Subparsers, add_command

if TYPE_CHECKING:
    from segnets.card import JSON, ModelCard, ModelConfig

Facts = dict[str, Any]


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "info",
        run,
        summary="describe a weights file or an exported file",
        description="Describe a weights file or an exported file: its network and options, classes, preprocessing, and "
        "where the weights came from. Nothing in the file is executed.",
        examples="""
        segnets info weights.safetensors
        segnets info model.ts
        segnets info weights.safetensors --json
        """,
    )
    parser.add_argument("file", metavar="FILE", help="weights file (.safetensors) or exported file of segnets")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the description; return 0.

    Raises:
        WeightsError: If the file has no description.
    """
    from segnets.card import describe_assumed
    from segnets.console import escape_controls
    from segnets.files import is_export

    path = Path(options.file)
    facts, card = _facts_of_export(path) if is_export(path) else _facts_of_weights(path)
    if options.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
        return 0
    provenance = {name: value for name, value in card.provenance.items() if name not in ("proof", "assumed")}
    texts = {**facts, **_decoding(facts), "provenance": provenance}
    rows = [(name, _text(value)) for name, value in texts.items()]
    if assumed := describe_assumed(card):
        rows.append(("assumed", assumed))
    rows += [("verified", line) for line in _verified(card.provenance.get("proof"))]
    for name, text in rows:
        print(escape_controls(f"{name:24}{text}"))
    return 0


def _facts_of_weights(path: Path) -> tuple[Facts, ModelCard]:
    from segnets.errors import WeightsError
    from segnets.weights import read_weights_file

    file = read_weights_file(path)
    if file.config is None or file.card is None:
        raise WeightsError(
            f"{path}: the file has no description written by segnets. List its contents with: weights-tools "
            f"inspect {path}"
        )
    facts: Facts = {
        "model": file.config.name,
        "options": dict(file.config.options),
        "tensors": len(file.tensors),
        "parameters_and_buffers": sum(tensor.numel() for tensor in file.tensors.values()),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in file.tensors.values()}),
        **_described(file.config, file.card),
    }
    return facts, file.card


def _facts_of_export(path: Path) -> tuple[Facts, ModelCard]:
    from segnets.deploy import read_contract

    contract = read_contract(path)
    facts: Facts = {
        "export": contract.kind,
        "model": contract.config.name,
        "options": dict(contract.config.options),
        "dtype": contract.dtype,
        "device": contract.device,
        "target": contract.target,
        "output": contract.output,
        "mask_dtype": contract.mask_dtype,
        "num_classes": contract.num_classes,
        "size_bytes": path.stat().st_size,
        "versions": {"segnets": contract.segnets_version, "torch": contract.torch_version},
        **({"opset": contract.opset} if contract.kind == "onnx" else {}),
        **({"bounds": {name: list(each) for name, each in contract.bounds.items()}} if contract.bounds else {}),
        **({"processor": dict(contract.processor)} if contract.processor else {}),
        **({"quantization": dict(contract.quantization)} if contract.quantization else {}),
        **_described(contract.config, contract.card),
    }
    return facts, contract.card


def _described(config: ModelConfig, card: ModelCard) -> Facts:
    from segnets.registry import BACKBONES

    preprocessing = card.preprocessing.to_json()
    if config.name in BACKBONES:  # segnets doesn't prepare images for classifiers, so a size means nothing
        preprocessing = {name: preprocessing[name] for name in ("mean", "std", "channel_order")}
    facts: Facts = {"classes": list(card.classes), "preprocessing": preprocessing}
    if config.name not in BACKBONES:
        facts["decoding"] = None if card.decoding is None else card.decoding.to_json()
    return {**facts, "provenance": dict(card.provenance)}


def _decoding(facts: Facts) -> Facts:
    """Return the text for the rule that turns logits into ids, and for its default."""
    from segnets.card import Decoding

    channels = facts.get("num_classes", facts["options"].get("num_classes"))
    if "decoding" not in facts or not isinstance(channels, int):
        return {}
    if facts["decoding"] is not None:
        return {"decoding": str(Decoding.from_json(facts["decoding"]))}
    # Exports record the rule, except those made before there was a choice.
    default = Decoding() if "export" in facts else Decoding.default(channels)
    return {
        "decoding": f"{default} (not stated; the default for {channels} {'channel' if channels == 1 else 'classes'})"
    }


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _verified(proof: JSON) -> list[str]:
    """Return one line per check that a conversion passed. `--json` gives all numbers."""
    if isinstance(proof, str):
        return [proof]
    if not isinstance(proof, dict):
        return []
    lines = [str(proof["tensors"])] if "tensors" in proof else []
    compared = proof.get("compared")
    if isinstance(compared, dict):
        lines += [_line(f"{name}'s own network", entry) for name, entry in compared.items()]
    if "golden" in proof:
        lines.append(_line("the reference output of the source", proof["golden"]))
    return lines


def _line(reference: str, entry: JSON) -> str:
    entry = entry if isinstance(entry, dict) else {}
    measured = entry.get("measured")
    rows = [each for each in measured if isinstance(each, dict)] if isinstance(measured, list) else []
    differences = [each.get("relative_difference") for each in rows]
    largest = max((each for each in differences if isinstance(each, float)), default=None)
    within = "" if largest is None else f" (relative difference up to {largest:.1g})" if largest else " (no difference)"
    return f"same outputs as {reference}{within}{_conditions(entry)}"


def _conditions(entry: Mapping[str, JSON]) -> str:
    """Return a comparison's assumptions and the changes made after it."""
    assumed, later = entry.get("assumed"), entry.get("before")
    text = ""
    if isinstance(assumed, dict) and assumed:
        values = ", ".join(f"{name}={value}" for name, value in assumed.items())
        text += f", assuming {values}, which the weights do not determine"
    if isinstance(later, list) and later:
        text += f"; changed afterwards: {', '.join(map(str, later))}"
    return text
