"""`export`: a file of segnets under the names of another project, every tensor byte for byte the same.

The tables that recognise a project's networks are read backwards. What comes out is then recognised once more, and
must be the very same network: so nothing is written that the project would compute otherwise.
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
from segnets.registry import MODELS
from segnets.weights.geometry import describe
from weights_tools.check.peers import PROJECTS
from weights_tools.reader import TensorReader, open_checkpoint, prefix_errors
from weights_tools.reader.values import StorageRef, TensorRef
from weights_tools.recognise._recognise import recognise
from weights_tools.recognise.layouts import LAYOUTS, ExportNames, Match, match_layout

SUFFIXES = (".pth", ".pt", ".safetensors")
# The same names and the same results in eval mode, whatever their values.
_EQUAL_IN_USE = {"head_dropout", "dropout", "norm_layer", "head_norm_layer"}


@dataclass(frozen=True)
class StateDictExportReport:
    """What was written. call: what makes the network in the project that takes these tensors, strictly."""

    source: str
    output: str
    network: str
    project: str
    call: str
    tensors: int

    def to_json(self) -> dict[str, JSON]:
        """Plain numbers and strings."""
        return dict(asdict(self))

    def __str__(self) -> str:
        rows = [
            ("exported", self.source),
            ("to", self.output),
            ("network", self.network),
            ("tensors", f"{self.tensors}, every one byte for byte as it was"),
            ("for", self.call),
        ]
        return "\n".join(f"{title:<11}{text}" for title, text in rows)


def export(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], *, project: str, overwrite: bool = False
) -> StateDictExportReport:
    """Write the weights of `src`, a file of segnets, as a state dict of another project.

    project: "torchvision", "timm", "smp", "mmseg" or "transformers". dst: `.pth` or `.pt`, as torch.save writes, or
    `.safetensors`. overwrite: replace `dst`.

    Raises WeightsError if the project has no network that computes the same with these tensors, and OutputError if
    `dst` can't be written.
    """
    if project not in PROJECTS:
        raise WeightsError(f"unknown project {project!r}; known are {', '.join(PROJECTS)}")
    target = check_writable_target(Path(dst), overwrite=overwrite)
    if target.suffix not in SUFFIXES:
        raise OutputError(f"{dst}: give it a name that ends in one of {', '.join(SUFFIXES)}")
    with open_checkpoint(src) as (source, container):
        found = recognise(container)
        if found.card is None:
            raise WeightsError("it is no file of segnets; `weights-tools convert` makes one of it first")
        config = found.match.config
        names = _their_names(project, config, found.tensors)
        call = PROJECTS[project].call(config, names.names.values())
        reader = TensorReader(source, container)
        tensors = {}
        for ours, theirs in names.names.items():
            tensor = reader.read(ours, found.tensors[ours])
            tensors[theirs] = tensor[..., None, None] if ours in names.flattened else tensor
        data = _serialised(tensors, target.suffix)
    with prefix_errors(src), atomic_write(target, overwrite=overwrite) as file:
        file.write(data)
    return StateDictExportReport(str(src), str(target), describe(config), project, str(call), len(tensors))


def _their_names(project: str, config: ModelConfig, tensors: Mapping[str, TensorRef]) -> ExportNames:
    """The names under which the project's layout finds this very network again."""
    reasons = []
    for way in LAYOUTS[project].export_names(config, list(tensors)):
        try:
            match = match_layout(_described(way, tensors), project, way.chosen)
        except ValueError as error:
            reasons.append(str(error).partition("\n")[0])
            continue
        reason = _difference(way, match, config)
        if not reason:
            return way
        reasons.append(reason)
    title = PROJECTS[project].title
    if config.options.get("backbone_stages", 4) != 4:
        reasons = [f"it wants the stages of the {config.name.partition('_')[2]} that are not used, which are not here"]
    raise WeightsError(
        f"{title} has no network that computes what {describe(config)} does"
        + (f": {'; '.join(dict.fromkeys(reasons))}" if reasons else "")
    )


def _described(way: ExportNames, tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """The tensors as a file of the project would have them."""
    described = {}
    for ours, theirs in way.names.items():
        shape = tensors[ours].shape + ((1, 1) if ours in way.flattened else ())
        storage = StorageRef(theirs, tensors[ours].dtype, tensors[ours].numel)
        stride = torch.empty(shape, device="meta").stride()
        described[theirs] = TensorRef(storage, tensors[ours].dtype, 0, shape, tuple(stride))
    return described


def _difference(way: ExportNames, match: Match, config: ModelConfig) -> str:
    """Say how the network that was recognised differs from the one that is exported; "" if it is the same."""
    if match.config.name != config.name or dict(match.names) != dict(way.names):
        return f"under its names it would be a {match.config.name}"
    theirs, ours = _settled(match.config), _settled(config)
    differing = [
        f"{name} is {ours.get(name)} here and {theirs.get(name)} there"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name) and name not in _EQUAL_IN_USE
    ]
    return ", ".join(differing)


def _settled(config: ModelConfig) -> Mapping[str, JSON]:
    builder = MODELS.get(config.name)
    return config.options if builder is None else builder.resolve(config.options)


def _serialised(tensors: Mapping[str, Tensor], suffix: str) -> bytes:
    """The bytes of the file, after they were read back and found to hold the same."""
    # Clones: torch.save writes the whole storage of a view, which here is the file that was read.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    if suffix == ".safetensors":
        data = safetensors_bytes(own, {"format": "pt"})
        written = safetensors_tensors(data)
    else:
        buffer = io.BytesIO()
        torch.save(own, buffer)
        data = buffer.getvalue()
        written = torch.load(io.BytesIO(data), weights_only=True)  # our own bytes of a moment ago
    if written.keys() != own.keys() or any(not _same_bytes(written[name], own[name]) for name in own):
        raise OutputError("what was to be written does not read back as it was; nothing was written")
    return data


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    first, second = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(first, second)
