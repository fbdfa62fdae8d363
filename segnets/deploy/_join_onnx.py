"""One ONNX graph from the bytes of an image to its mask, for programs that run one session and not three.

It is made of an export (`format="onnx"`), whose three programs it joins, and proved beside it. It has no golden pair
and no checksum of its own: keep the export, which `verify` checks.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from segnets.deploy._load import exported_from_bytes, read_contract
from segnets.deploy._reason import reason_of
from segnets.deploy.contract import CONTRACT_FILE
from segnets.deploy.formats.onnx.container import JOINED, check_size, file_in, unpack
from segnets.deploy.formats.onnx.network import MASK, PREPROCESS, check_installed, run, session
from segnets.errors import ExportError
from segnets.files import atomic_write, check_writable_target

# The images that the joined graph is compared on: (N, H, W). None is long, since a short side may be made large.
SHAPES = ((1, 64, 80), (2, 61, 47), (1, 33, 50))


def join_onnx(
    source: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = True
) -> tuple[int, ...]:
    """Write the graph `image` uint8 (N, H, W, 3) RGB -> `mask` (N, H, W), uint8 or int16, of an ONNX export.

    source: what `export(..., format="onnx")` wrote. Its contract goes with the graph, `segnets.json` in the metadata.
    The file gets its name once its masks are those of `source` in every pixel, at several sizes; returns how many
    pixels were compared at each.
    Raises ExportError if `source` is no such export or the masks differ, ImageError if it makes images too large to be
    compared, OutputError if the file can't be written.
    """
    check_installed("join_onnx", "onnx", "onnxruntime")
    target = check_writable_target(path, overwrite=overwrite)
    kind = read_contract(source).kind
    if kind != "onnx":
        raise ExportError(f"{source}: is {kind}; expected what export(format='onnx') wrote")
    if target.exists() and target.samefile(source):
        raise ExportError(f"{target}: is the export itself, which stays beside the joined graph; name another file")
    original = Path(source).read_bytes()
    exported = exported_from_bytes(original, Path(source))
    data = _joined(original, str(source))
    check_size(len(data))
    with atomic_write(target, overwrite=overwrite) as file:
        file.write(data)
        file.flush()
        file.seek(0)
        graph = session(file.read(), str(target))
        compared = []
        for number, (batch, height, width) in enumerate(SHAPES):
            generator = torch.Generator().manual_seed(number)
            image = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
            expected = exported.segment(image)
            mask = run(graph, {"image": image}, str(target))
            differ = int((mask != expected).sum())
            if differ:
                raise ExportError(
                    f"{source}: joined, it gives another class in {differ} of {mask.numel()} pixels of an image of "
                    f"{height}x{width}, so {target} was not kept"
                )
            compared.append(mask.numel())
    return tuple(compared)


def _joined(data: bytes, where: str) -> bytes:
    onnx: Any = import_module("onnx")
    compose: Any = import_module("onnx.compose")
    entries = unpack(data, where)
    programs = [data, file_in(entries, PREPROCESS, where), file_in(entries, MASK, where)]
    try:
        # Their names are numbers, so that each gets a place of its own.
        middle, before, after = (
            compose.add_prefix(onnx.load_from_string(program), prefix)
            for program, prefix in zip(programs, ("network/", "before/", "after/"), strict=True)
        )
        middle.ClearField("metadata_props")
        size = onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [2])
        before.graph.node.append(onnx.helper.make_node("Shape", ["before/image"], ["size"], start=1, end=3))
        before.graph.output.append(size)
        logits = compose.merge_models(before, middle, io_map=[("before/input", "network/input")])
        ends = [("network/logits", "after/logits"), ("size", "after/size")]
        whole = compose.merge_models(logits, after, io_map=ends, name="segnets")
        _rename(whole.graph, {"before/image": "image", "after/mask": "mask"})
        onnx.helper.set_model_props(whole, {CONTRACT_FILE: entries[CONTRACT_FILE], JOINED: "image, mask"})
        whole.producer_name = "segnets"
        onnx.checker.check_model(whole, full_check=True)
        result: bytes = whole.SerializeToString(deterministic=True)
        return result
    except Exception as error:  # of protobuf's, the checker's and the composer's many kinds
        raise ExportError(f"{where}: its programs can't be joined: {reason_of(error)}") from error


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Inputs, outputs, and what reads and writes them."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
