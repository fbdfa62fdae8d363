"""Export a segnets file as a state dict of another project, with every tensor byte for byte the same.

The tables that recognise a project's networks are applied in reverse. The result is then recognised and must be the
same network, so no file is written that would compute something else in the project.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load as safetensors_tensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from segnets.card import JSON, ModelConfig
from segnets.errors import OutputError, WeightsError
from segnets.files import atomic_write, check_writable_target
from segnets.options import ALL_OPTIONS
from segnets.registry import MODELS
from segnets.weights.geometry import describe
from weights_tools.check.peers import PEERS
from weights_tools.extract.state_dict import find_state_dict
from weights_tools.reader import TensorReader, open_checkpoint, prefix_errors
from weights_tools.reader.values import StorageRef, TensorRef
from weights_tools.recognise import recognise
from weights_tools.recognise.layouts import LAYOUTS, ExportNames, Match, match_layout

_SUFFIXES = (".pth", ".pt", ".safetensors")
# Options that change neither the names nor the outputs in eval mode.
_WITHOUT_EFFECT = frozenset(option.name for option in ALL_OPTIONS if not option.changes_inference)


@dataclass(frozen=True)
class StateDictExportReport:
    """Result of an export.

    Attributes:
        source: Path of the segnets file.
        output: Path of the written state dict.
        network: Short description of the network.
        project: Project that loads the state dict.
        call: Call that builds the project's network, which loads the tensors strictly.
        tensors: Number of tensors.
    """

    source: str
    output: str
    network: str
    project: str
    call: str
    tensors: int

    def to_json(self) -> dict[str, JSON]:
        """Return the report as plain numbers and strings."""
        return dict(asdict(self))

    def __str__(self) -> str:
        rows = [
            ("exported", self.source),
            ("to", self.output),
            ("network", self.network),
            ("tensors", f"{self.tensors}, byte for byte unchanged"),
            ("for", self.call),
        ]
        return "\n".join(f"{title:<11}{text}" for title, text in rows)


def export(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], *, project: str, overwrite: bool = False
) -> StateDictExportReport:
    """Write the weights in a segnets file as a state dict of another project.

    Args:
        src: A `.safetensors` file that segnets or `convert` wrote.
        dst: Output path, ending in `.pth` or `.pt` (as torch.save writes) or `.safetensors`.
        project: "torchvision", "timm", "smp", "mmseg" or "transformers"; need not be installed.
        overwrite: Whether to replace an existing `dst`.

    Raises:
        WeightsError: If the project has no network with these tensors and the same outputs.
        OutputError: If `dst` can't be written.
    """
    if project not in PEERS:
        raise WeightsError(f"unknown project {project!r}; known are {', '.join(PEERS)}")
    target = check_writable_target(Path(dst), overwrite=overwrite)
    if target.suffix not in _SUFFIXES:
        raise OutputError(f"{dst}: the name of the output must end in one of {', '.join(_SUFFIXES)}")
    with open_checkpoint(src) as (source, container):
        found = recognise(container, find_state_dict(container))
        if found.card is None:
            raise WeightsError("the file was not written by segnets. Convert it first: weights-tools convert")
        config = found.match.config
        way = _find_names(project, config, found.tensors)
        call = PEERS[project].call(config, way.names.values())
        reader = TensorReader(source, container)
        tensors = {}
        for ours, theirs in way.names.items():
            tensor = reader.read(ours, found.tensors[ours])
            tensors[theirs] = tensor[..., None, None] if ours in way.flattened else tensor
        data = _serialise(tensors, target.suffix)
    with prefix_errors(src), atomic_write(target, overwrite=overwrite) as file:
        file.write(data)
    return StateDictExportReport(str(src), str(target), describe(config), project, str(call), len(tensors))


def _find_names(project: str, config: ModelConfig, tensors: Mapping[str, TensorRef]) -> ExportNames:
    """Return names under which the project's layout recognises exactly this network."""
    reasons = []
    for way in LAYOUTS[project].export_names(config, list(tensors)):
        try:
            match = match_layout(_as_exported(way, tensors), project, way.chosen)
        except ValueError as error:
            reasons.append(str(error).partition("\n")[0])
            continue
        reason = _differences(way, match, config)
        if not reason:
            return way
        reasons.append(reason)
    title = PEERS[project].title
    if config.options.get("backbone_stages", 4) != 4:
        reasons = [f"the project keeps unused stages of {config.name.partition('_')[2]}, which this file lacks"]
    raise WeightsError(
        f"{title} has no network that computes what {describe(config)} does"
        + (f": {'; '.join(dict.fromkeys(reasons))}" if reasons else "")
    )


def _as_exported(way: ExportNames, tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Describe the tensors as they would appear in an exported file."""
    described = {}
    for ours, theirs in way.names.items():
        shape = tensors[ours].shape + ((1, 1) if ours in way.flattened else ())
        storage = StorageRef(theirs, tensors[ours].dtype, tensors[ours].numel)
        stride = torch.empty(shape, device="meta").stride()
        described[theirs] = TensorRef(storage, tensors[ours].dtype, 0, shape, tuple(stride))
    return described


def _differences(way: ExportNames, match: Match, config: ModelConfig) -> str:
    """Describe how the recognised network differs from the exported one; "" if it is the same."""
    if match.config.name != config.name or dict(match.names) != dict(way.names):
        return f"under its names the network would be a {match.config.name}"
    theirs, ours = _settled(match.config), _settled(config)
    differing = [
        f"{name} is {ours.get(name)} in the file and {theirs.get(name)} in the project"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name) and name not in _WITHOUT_EFFECT
    ]
    return ", ".join(differing)


def _settled(config: ModelConfig) -> Mapping[str, JSON]:
    builder = MODELS.get(config.name)
    return config.options if builder is None else builder.resolve(config.options)


def _serialise(tensors: Mapping[str, Tensor], suffix: str) -> bytes:
    """Return the bytes of the file, verified by reading back and comparing every tensor."""
    # Clones: torch.save writes the whole storage of a view, here the source file.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    if suffix == ".safetensors":
        data = safetensors_bytes(own, {"format": "pt"})
        written = safetensors_tensors(data)
    else:
        buffer = io.BytesIO()
        torch.save(own, buffer)
        data = buffer.getvalue()
        written = torch.load(io.BytesIO(data), weights_only=True)  # trusted: just serialised here
    if written.keys() != own.keys() or any(not _same_bytes(written[name], own[name]) for name in own):
        raise OutputError("the serialised tensors differ when read back; nothing was written")
    return data


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    first, second = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(first, second)
