"""Check, strip and serialize models of the `onnx` package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from segnets import __version__

_PRODUCER = "segnets"


def parsed(text: str) -> bytes:
    """Parse a model in ONNX's text syntax, and return it serialized."""
    parser: Any = import_module("onnx.parser")
    return serialized(parser.parse_model(text))


def serialized(model: Any) -> bytes:
    """Check a model, record segnets as its producer, and return it serialized."""
    onnx: Any = import_module("onnx")
    name_producer(model)
    list_domains_once(model)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def name_producer(model: Any) -> None:
    """Record segnets as the producer, by which `segnets.files.is_export` recognises a file."""
    model.producer_name, model.producer_version = _PRODUCER, __version__


def opset_of(data: bytes) -> int:
    """Return the version of ONNX's own operators in a serialized model."""
    onnx: Any = import_module("onnx")
    versions = onnx.load_from_string(data).opset_import
    return max(int(each.version) for each in versions if each.domain in ("", "ai.onnx"))


def list_domains_once(model: Any) -> None:
    """List each domain of operators once, with its newest version; some libraries refuse it twice."""
    versions: dict[str, int] = {}
    for each in model.opset_import:
        # The default domain has two names.
        domain = "" if each.domain == "ai.onnx" else each.domain
        versions[domain] = max(each.version, versions.get(domain, 0))
    onnx: Any = import_module("onnx")
    model.ClearField("opset_import")
    model.opset_import.extend(onnx.helper.make_opsetid(*each) for each in versions.items())


def expand_hard_sigmoids(model: Any) -> None:
    """Replace each HardSigmoid with the operators that it stands for: Mul, Add and Clip.

    OpenCV, up to 5.0, fuses a HardSigmoid and the Mul after it into a HardSwish, even if the Mul's other factor is a
    different tensor, as in squeeze-and-excitation. The result is silently wrong.
    """
    onnx: Any = import_module("onnx")
    graph = model.graph
    nodes: list[Any] = []
    constants: dict[float, str] = {}

    def constant(value: float) -> str:
        if value not in constants:
            constants[value] = f"hard_sigmoid_{len(constants)}"
            graph.initializer.append(onnx.helper.make_tensor(constants[value], onnx.TensorProto.FLOAT, [], [value]))
        return constants[value]

    for node in graph.node:
        if node.op_type != "HardSigmoid":
            nodes.append(node)
            continue
        given = {each.name: each.f for each in node.attribute}
        (output,) = node.output
        scaled, shifted = f"{output}_scaled", f"{output}_shifted"
        parts = (
            ("Mul", [node.input[0], constant(given.get("alpha", 0.2))], scaled),
            ("Add", [scaled, constant(given.get("beta", 0.5))], shifted),
            ("Clip", [shifted, constant(0.0), constant(1.0)], output),
        )
        nodes += [
            onnx.helper.make_node(kind, inputs, [result], name=f"node_{result}") for kind, inputs, result in parts
        ]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # clearing frees the originals
    graph.ClearField("node")
    graph.node.extend(copies)


def strip_metadata(model: Any) -> None:
    """Remove metadata and comments, which contain the source paths of this machine."""
    graph = model.graph
    parts = (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output)
    for message in (model, graph, *parts):
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
