"""Changes to JSON texts, and to the header of safetensors files that is one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from fuzz.document import Document
from fuzz.edit_bytes import EDGES, change, times

_VALUES: tuple[Any, ...] = (
    None, True, False, "", "x", "F32", "BOOL", "\0", "\ud800", "a" * 5000, [], {}, [[]], [0, 0], [0, 4], [1, 1], [-1],
    0.5, -0.0, 1e308, float("nan"), float("inf"), [1 << 48] * 16, [1] * 17, {"format": "pt"}, "fcn_resnet18",
    "\x1b[2J", 10**400, "w.pth", "../w.pth", "model-00001-of-00002.safetensors",
    "resnet50", "deeplabv3_mobilenet_v3_small", [1, 2, 3], [255, 0, 0], "batch", "deep", 8, 16, 32,
    "short_side",
)  # fmt: skip
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2}
_KEYS = (
    "", "__metadata__", "segnets", "dtype", "shape", "data_offsets", "a/b", "..", "\n", "\x1b[2J", "num_classes",
    "conv.weight",
)  # fmt: skip
_OPTIONS = (
    "in_channels", "output_stride", "first_block_dilation", "multi_grid", "stem", "norm_layer", "norm_eps",
    "head_channels", "head_dropout", "atrous_rates", "aspp_separable", "aux_loss", "head_variant", "backbone_stages",
)  # fmt: skip


def edited(text: str, rng: random.Random) -> str:
    """A JSON text with one value, key or member changed; a text that is no JSON comes back as it was."""
    try:
        top = json.loads(text)
    except (ValueError, RecursionError):
        return text
    places = _places(top)
    if not places:
        return json.dumps(rng.choice(_VALUES))
    node, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        node[key] = rng.choice(_VALUES) if rng.random() < 0.6 else rng.choice(EDGES)
    elif kind == 1:
        del node[key]
    elif kind == 2 and isinstance(node, dict):
        new = rng.choice(_KEYS + _OPTIONS) if rng.random() < 0.7 else f"{key}{rng.randrange(10)}"
        node[new] = node.pop(key)
    elif kind == 3 and isinstance(node, dict):
        for index in range(times(rng, len(json.dumps(node[key])))):
            node[f"{key}.{index}"] = node[key]
    elif kind == 4 and isinstance(node[key], list):
        node[key] = node[key] * times(rng, len(json.dumps(node[key]))) + rng.choice(([], [0], [1 << 48], [None]))
    elif isinstance(node[key], bool) or not isinstance(node[key], int | float):
        other, there = rng.choice(places)
        node[key], other[there] = other[there], node[key]
        if _is_knotted(top):
            return text
    else:
        step = rng.choice((-1, 1, 4, 1 << 32, 0.5, -node[key], node[key]))
        # A float holds no number of 400 digits, which is one of the values above.
        node[key] = node[key] + step if abs(node[key]) < 1 << 100 else step
    return json.dumps(top, ensure_ascii=rng.random() < 0.5)


def _places(node: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [node]
    while waiting and len(found) < 2000:
        node = waiting.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            for key in keys:
                found.append((node, key))
                waiting.append(node[key])
    return found


def _is_knotted(top: Any) -> bool:
    """Tell whether a value came to lie within itself."""
    try:
        json.dumps(top)
    except (ValueError, RecursionError):
        return True
    return False


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def header(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """The header as JSON, with its true length."""
    document.header = _encoded(edited(document.header.decode("utf-8", "replace"), rng))


def description(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """The description of the network inside the metadata, which is a JSON text of its own."""
    try:
        top = json.loads(document.header)
        metadata = top["__metadata__"]
        name = rng.choice(sorted(metadata))
        text = edited(metadata[name], rng)
        if rng.random() < 0.3:
            inner = json.loads(text)
            inner["model"]["options"][rng.choice(_OPTIONS)] = rng.choice(_VALUES + EDGES)
            text = json.dumps(inner)
        metadata[name] = text
        document.header = _encoded(json.dumps(top))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # another edit was here before


def consistent(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """The header as JSON, and then every tensor where it belongs, with as many bytes as it needs."""
    try:
        top = json.loads(edited(document.header.decode("utf-8", "replace"), rng))
        position = 0
        for name, described in top.items():
            if name != "__metadata__":
                shape = described["shape"]
                # Of texts and lists among the lengths, a product may be one that fills the memory.
                if not all(type(length) is int and 0 <= length < 1 << 20 for length in shape):
                    return
                size = math.prod(shape) * _SIZES[described["dtype"]]
                if size >= 1 << 20:
                    return
                described["data_offsets"] = [position, position + size]
                position += size
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # what it would describe is no tensor
    document.header = _encoded(json.dumps(top))
    document.tail = (document.tail + bytes(position))[:position]


def header_bytes(document: Document, rng: random.Random, pool: Sequence[bytes]) -> None:
    """The header as bytes, with its true length."""
    document.header = change(document.header, rng, pool)


def nest(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """A value nested deep in lists or objects, or a number of many digits."""
    text = document.header.decode("utf-8", "replace")
    depth = rng.choice((3, 50, 900, 5000, 100_000))
    deep = rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth, "9" * depth))
    at = text.find(":", rng.randrange(len(text) + 1)) + 1
    document.header = _encoded(text[:at] + deep + "," + text[at:])


def length(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """A lie about the length of the header."""
    document.length = rng.choice((*EDGES, len(document.header) + 1, len(document.header) - 1))


def body(document: Document, rng: random.Random, pool: Sequence[bytes]) -> None:
    """The tensors' bytes."""
    document.tail = change(document.tail, rng, pool)


def text(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """A file that is a JSON text, such as the index of a checkpoint in several files."""
    document.raw = _encoded(edited(document.raw.decode("utf-8", "replace"), rng))


FILE_EDITS: dict[str, Callable[[Document, random.Random, Sequence[bytes]], None]] = {"json text": text}
EDITS: dict[str, Callable[[Document, random.Random, Sequence[bytes]], None]] = {
    f"safetensors {f.__name__}": f for f in (header, consistent, description, header_bytes, nest, length, body)
}
