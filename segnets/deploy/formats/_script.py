"""TorchScript: the one portable, compiler-free format that LibTorch 2.13 loads. Everything about it stands here.

TorchScript is deprecated and warns when it is used; the warnings are silenced around exactly these calls.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.jit.frontend import FrontendError

from segnets.deploy._reason import reason_of
from segnets.errors import ExportError
from segnets.preprocessing import check_input
from segnets.segmenter import Segmenter

# What a deployed graph may not hold: anything random, and anything that LibTorch alone doesn't know.
_NAMESPACES = {"portable": ("aten", "prim"), "cpu": ("aten", "prim", "mkldnn")}
_RANDOM_OPERATORS = ("dropout", "bernoulli", "rand", "normal_", "multinomial")


class DictSegmenter(nn.Module):
    """A Segmenter whose `forward` gives torchvision's dictionary {"out": logits}."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image: (N, 3, h, w) floating point, normalised. Returns {"out": (N, C, h, w) logits}."""
        check_input(image)
        scores: dict[str, Tensor] = self.segmenter.model(image)
        return scores

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """As `Segmenter.preprocess`."""
        return self.segmenter.preprocess(image)

    @torch.jit.export
    def segment(self, image: Tensor) -> Tensor:
        """As `Segmenter.segment`."""
        return self.segmenter.segment(image)


def compile_segmenter(segmenter: Segmenter, output: str, target: str = "portable") -> Any:
    """Compile a Segmenter in eval mode; output: "tensor" or "dict". Returns a torch.jit.ScriptModule.

    target: "portable", or "cpu" for a model whose convolutions are fused (`segnets.deploy.passes.fuse_onednn`).

    Raises ExportError if it can't be compiled, or needs more than LibTorch has.
    """
    compiled = script(segmenter if output == "tensor" else DictSegmenter(segmenter))
    check_operators(compiled, target)
    return compiled


def script(module: nn.Module) -> Any:
    """Compile a module in eval mode. Returns a torch.jit.ScriptModule; raises ExportError if it can't be compiled."""
    try:
        with _no_deprecation_warnings():
            return torch.jit.script(module.eval())
    except (FrontendError, RuntimeError, TypeError, ValueError, AttributeError, OSError) as error:
        raise ExportError(f"the model can't be compiled by TorchScript: {reason_of(error)}") from error


def check_operators(compiled: Any, target: str = "portable") -> int:
    """Return how many kinds of operators the methods of `compiled` use, once each is known to be harmless.

    Raises ExportError for an operator that isn't LibTorch's own, for randomness, and for a module in training mode.
    """
    kinds: set[str] = set()
    for method in ("forward", "preprocess", "segment"):
        kinds.update(_kinds(getattr(compiled, method).inlined_graph))
    foreign = sorted(k for k in kinds if k.split("::")[0] not in _NAMESPACES[target] or k == "prim::PythonOp")
    if foreign:
        raise ExportError(f"the model uses operators that LibTorch alone doesn't have: {', '.join(foreign)}")
    random = sorted(k for k in kinds if any(word in k.split("::")[1] for word in _RANDOM_OPERATORS))
    if random:
        raise ExportError(f"the model is random when it should be fixed: {', '.join(random)}; use nn.Dropout modules")
    if any(module.training for module in compiled.modules()):
        raise ExportError("a part of the model stayed in training mode")
    return len(kinds)


def _kinds(graph: Any) -> Iterator[str]:
    for node in graph.nodes():
        yield str(node.kind())
        for block in node.blocks():
            yield from _kinds(block)


def to_bytes(compiled: Any, extra_files: Mapping[str, bytes | str]) -> bytes:
    """The archive as bytes. Never given a path: on a full disk torch.jit.save(path) aborts the whole process."""
    buffer = io.BytesIO()
    with _no_deprecation_warnings():
        torch.jit.save(compiled, buffer, _extra_files=dict(extra_files))
    return _without_debug_entries(buffer)


def _without_debug_entries(archive: io.BytesIO) -> bytes:
    """Copy the archive without what tells where every line was compiled; LibTorch needs it for longer messages only.

    It holds the absolute paths of this machine: nobody's business, and other bytes in every working copy. torch's own
    writer aligns the tensors, and computes the checksums and the archive's id again.
    """
    archive.seek(0)
    reader, result = torch._C.PyTorchFileReader(archive), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(result)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name != ".data/serialization_id":
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return result.getvalue()


def from_file(file: BinaryIO, device: str = "cpu") -> Any:
    """Load a compiled module onto a device. This executes the program that the file holds.

    Raises RuntimeError if it can't be loaded.
    """
    with _no_deprecation_warnings():
        return torch.jit.load(file, map_location=device)


@contextmanager
def _no_deprecation_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
        yield
