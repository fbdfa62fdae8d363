"""Read one file: identify its format, then read its structure."""

from __future__ import annotations

from segnets.errors import WeightsError
from weights_tools.reader import onnx_model, safetensors_file, torch_legacy, torch_zip
from weights_tools.reader._constructors import construct
from weights_tools.reader._machine import Machine
from weights_tools.reader.container import Container
from weights_tools.reader.identify import HEAD_BYTES, explain_other, identify
from weights_tools.reader.source import Source
from weights_tools.reader.values import Foreign, Value


def kind_of_file(source: Source) -> str:
    """Return the result of `identify` for a file."""
    return identify(bytes(source.view(0, min(source.size, HEAD_BYTES))), source.size)


def read_file(source: Source, *, data: bool) -> Container:
    """Read the structure of a file; with `data`, load all bytes and verify the format's checksums, if any.

    Raises:
        WeightsError: If the file is not a checkpoint or is damaged. The message lacks the file's name.
    """
    kind = kind_of_file(source)
    if kind == "pickle":
        raise WeightsError(_explain_pickle(source))
    if kind == "protobuf":
        head = bytes(source.view(0, min(source.size, HEAD_BYTES)))
        raise WeightsError(onnx_model.explain(source) or explain_other(head, source.size))
    if kind == "index":
        raise WeightsError("the file is an index of other files, not a file with tensors")
    if kind not in ("zip", "legacy", "safetensors"):
        raise WeightsError(kind)
    if data:
        source.load()
    if kind == "zip":
        return torch_zip.read(source, check=data)
    if kind == "legacy":
        return torch_legacy.read(source)
    return safetensors_file.read(source)


def _explain_pickle(source: Source) -> str:
    """Explain why a bare pickle is refused. The pickle is read as inert values, like any other."""
    machine = Machine(source.view(0, min(source.size, 16 << 20)), 0, construct, _no_reference)
    reason = "the file is a bare pickle, which torch.save did not write"
    try:
        machine.run()
    except WeightsError:
        reason = "the file is a bare pickle that is damaged or uses features no checkpoint needs"
    hostile = Container("", None, {}, globals=tuple(machine.globals)).hostile()
    if hostile:
        named = ", ".join(hostile[:3])
        return f"{reason}. The pickle names {named}, which runs commands: the file is an attack. Nothing in it was run."
    return f"{reason}. Nothing in it was run. Save the state dict with torch.save(model.state_dict(), ...) instead."


def _no_reference(_identity: Value) -> Value:
    return Foreign(None)
