"""Join the three graphs of an ONNX export into one, for programs that run a single session.

The joined graph has no golden pair and no checksum of its own. Keep the export, which `verify` checks.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from segnets.deploy._choices import choose_format
from segnets.deploy._load import exported_from_bytes, read_contract
from segnets.deploy._reason import reason_of
from segnets.deploy.contract import CONTRACT_FILE
from segnets.deploy.formats.onnx import MASK, PREPROCESS, OnnxContainer
from segnets.deploy.formats.onnx.container import JOINED, check_size
from segnets.deploy.formats.onnx.graph import serialized, strip_metadata
from segnets.deploy.formats.onnx.runtime import check_installed, run, session
from segnets.errors import ExportError
from segnets.files import atomic_write, check_writable_target
from segnets.neutral_state import neutral_process

# Images to compare on, (N, H, W). None is elongated: resizing the short side would make such an image large.
SHAPES = ((1, 64, 80), (2, 61, 47), (1, 33, 50))


@neutral_process()
def join_onnx(
    source: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = True
) -> tuple[int, ...]:
    """Join the graphs of an ONNX export into one graph from an image to its mask.

    The graph takes `image`, (N, H, W, K) uint8, RGB for three channels. It returns `mask`, (N, H, W) uint8 or int16, or
    planes, (N, C, H, W) uint8, for multi-label networks. Its metadata include the contract of the export. The file is
    kept only if its masks equal those of `source` in every pixel, at several sizes.

    Args:
        source: A file that `export(..., format="onnx")` wrote.
        path: File to write.
        overwrite: Whether an existing file may be replaced.

    Returns:
        Number of pixels compared at each size.

    Raises:
        ExportError: If `source` is not an ONNX export, the suffix of `path` belongs to a different format, or the masks
            differ.
        ImageError: If the preprocessing makes images too large to compare.
        OutputError: If the file can't be written.
    """
    check_installed("join_onnx", "onnx", "onnxruntime")
    target = check_writable_target(path, overwrite=overwrite)
    choose_format(target, "onnx")
    kind = read_contract(source).kind
    if kind != "onnx":
        raise ExportError(f"{source}: is {kind}. Pass a file written by export(format='onnx')")
    if target.exists() and target.samefile(source):
        raise ExportError(f"{target}: is the export itself, which the joined graph can't replace. Choose another file")
    original = Path(source).read_bytes()
    exported = exported_from_bytes(original, Path(source))
    channels = exported.contract.in_channels
    fixed = exported.contract.fixed_shape
    data = _joined(original, str(source), fixed[0] if fixed else None)
    check_size(len(data))
    with atomic_write(target, overwrite=overwrite) as file:
        file.write(data)
        file.flush()
        file.seek(0)
        graph = session(file.read(), str(target))
        compared = []
        for number, (batch, height, width) in enumerate(SHAPES):
            batch = fixed[0] if fixed else batch
            generator = torch.Generator().manual_seed(number)
            image = torch.randint(0, 256, (batch, height, width, channels), dtype=torch.uint8, generator=generator)
            expected = exported.segment(image)
            mask = run(graph, {"image": image}, str(target))
            differ = int((mask != expected).sum())
            if differ:
                raise ExportError(
                    f"{source}: the joined graph returns a different class in {differ} of {mask.numel()} pixels of a "
                    f"{height}x{width} image, so {target} was not kept"
                )
            compared.append(mask.numel())
    return tuple(compared)


def _joined(data: bytes, where: str, batch: int | None) -> bytes:
    """Return the joined graph, for a fixed batch unless None."""
    onnx: Any = import_module("onnx")
    compose: Any = import_module("onnx.compose")
    container = OnnxContainer(data, where)
    graphs = [data, container.read(PREPROCESS), container.read(MASK)]
    try:
        # All three graphs use the same names for their values.
        middle, before, after = (
            compose.add_prefix(onnx.load_from_string(graph), prefix)
            for graph, prefix in zip(graphs, ("network/", "before/", "after/"), strict=True)
        )
        strip_metadata(middle)
        size = onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [2])
        before.graph.node.append(onnx.helper.make_node("Shape", ["before/image"], ["size"], start=1, end=3))
        before.graph.output.append(size)
        logits = compose.merge_models(before, middle, io_map=[("before/input", "network/input")])
        ends = [("network/logits", "after/logits"), ("size", "after/size")]
        whole = compose.merge_models(logits, after, io_map=ends, name="segnets")
        _rename(whole.graph, {"before/image": "image", "after/mask": "mask"})
        if batch is not None:
            for value in (*whole.graph.input, *whole.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = batch
        contract = container.read(CONTRACT_FILE).decode()
        onnx.helper.set_model_props(whole, {CONTRACT_FILE: contract, JOINED: "image, mask"})
        return serialized(whole)
    except Exception as error:  # protobuf, the checker and the composer raise errors of many types
        raise ExportError(f"{where}: the graphs can't be joined: {reason_of(error)}") from error


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename inputs and outputs of a graph, and their uses in nodes."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
