"""Compile, check, write and read TorchScript.

TorchScript is deprecated, and every use warns. The warnings are silenced around these calls only.
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

# Namespaces of the operators built into LibTorch, for each target.
_NAMESPACES = {"portable": ("aten", "prim"), "cpu": ("aten", "prim", "mkldnn")}
# The most common nodes, which have no blocks. Asking a node for its blocks takes longer than everything else.
_WITHOUT_BLOCKS = ("aten::", "prim::Constant", "prim::GetAttr", "prim::ListConstruct", "prim::Tuple")
_RANDOM_OPERATORS = ("dropout", "bernoulli", "rand", "normal_", "multinomial")


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """Put a module in eval mode and compile it.

    Raises:
        ExportError: If TorchScript can't compile it.
    """
    try:
        with _no_deprecation_warnings():
            compiled: torch.jit.ScriptModule = torch.jit.script(module.eval())
    except (FrontendError, RuntimeError, TypeError, ValueError, AttributeError, OSError) as error:
        raise ExportError(f"the model can't be compiled by TorchScript: {reason_of(error)}") from error
    return compiled


def trace(module: nn.Module, image: Tensor) -> torch.jit.ScriptModule | None:
    """Trace the operators that a module runs for an image. The result has no dictionaries or branches.

    Args:
        module: Module in eval mode that maps an image to logits.
        image: Image to trace with; later images may have a different height, width and batch size.

    Returns:
        The traced module, or None if its control flow depends on the values or sizes of tensors.
    """
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        try:
            traced: torch.jit.ScriptModule = torch.jit.trace(module, image, check_trace=False)
        except RuntimeError:
            return None
    decided = any(issubclass(warning.category, torch.jit.TracerWarning) for warning in caught)
    return None if decided else traced


def check_operators(compiled: torch.jit.ScriptModule, target: str = "portable") -> int:
    """Check that a compiled segmenter runs in LibTorch alone, and is deterministic.

    Args:
        compiled: Compiled module with the methods `forward`, `preprocess` and `segment`.
        target: "portable", or "cpu" to allow oneDNN's operators.

    Returns:
        Number of different operators.

    Raises:
        ExportError: If it uses operators that LibTorch lacks, draws random numbers, or is partly in training mode.
    """
    operators: set[str] = set()
    for method in ("forward", "preprocess", "segment"):
        operators.update(_operators(getattr(compiled, method).inlined_graph))
    foreign = sorted(k for k in operators if k.split("::")[0] not in _NAMESPACES[target] or k == "prim::PythonOp")
    if foreign:
        raise ExportError(f"the model uses operators that LibTorch alone doesn't have: {', '.join(foreign)}")
    random = sorted(k for k in operators if any(word in k.split("::")[1] for word in _RANDOM_OPERATORS))
    if random:
        raise ExportError(f"the model draws random numbers in eval mode: {', '.join(random)}; use nn.Dropout modules")
    if any(module.training for module in compiled.modules()):
        raise ExportError("a part of the model is still in training mode")
    return len(operators)


def _operators(graph: Any) -> Iterator[str]:
    for node in graph.nodes():
        kind = str(node.kind())
        yield kind
        if not kind.startswith(_WITHOUT_BLOCKS):
            for block in node.blocks():
                yield from _operators(block)


def to_bytes(compiled: torch.jit.ScriptModule, extra_files: Mapping[str, bytes | str]) -> bytes:
    """Return the archive of a compiled module as bytes.

    It is written to memory: on a full disk, `torch.jit.save` to a path aborts the process.

    Args:
        compiled: Compiled module.
        extra_files: Further files to include, by name.
    """
    buffer = io.BytesIO()
    with _no_deprecation_warnings():
        torch.jit.save(compiled, buffer, _extra_files=dict(extra_files))
    return _without_debug_entries(buffer)


def _without_debug_entries(archive: io.BytesIO) -> bytes:
    """Copy an archive without the entries that record where each line was compiled.

    They hold absolute paths, which would be published and make the bytes depend on the machine. LibTorch
    only uses them for longer error messages. torch's own writer aligns the tensors and renews checksums and archive id.
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
    """Load a compiled module onto a device. This executes the program in the file.

    Raises:
        RuntimeError: If LibTorch can't load it.
    """
    with _no_deprecation_warnings():
        return torch.jit.load(file, map_location=device)


@contextmanager
def _no_deprecation_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=FutureWarning)
        yield
