"""Read any source that `weights=` accepts: a state dict, a file, or a published file's name in torch's hub cache.

Nothing is downloaded here.
"""

from __future__ import annotations

import enum
import hashlib
import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor, nn

from segnets.card import ModelCard, ModelConfig
from segnets.catalog import Published, find_published, published_for
from segnets.errors import WeightsError
from segnets.files import is_export
from segnets.weights.weights_file import read_start, read_weights_file
from segnets.weights.wrappers import find_network

WeightsSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, Tensor] | enum.Enum"


@dataclass(frozen=True)
class FoundWeights:
    """Tensors and their description.

    Attributes:
        tensors: State dict.
        where: Name of the weights in messages.
        config: Network that the weights were made for, if known.
        card: Classes, preprocessing and origin of the weights, if known.
        stripped: Wrappers' prefixes and infixes that were removed from the tensor names.
        outside: Names of tensors that are not part of the network and were left out.
    """

    tensors: Mapping[str, Tensor]
    where: str
    config: ModelConfig | None = None
    card: ModelCard | None = None
    stripped: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


def read_source(source: WeightsSource, *, model: str | None = None) -> FoundWeights:
    """Read weights.

    Args:
        source: File, state dict or published name.
        model: Name of the network or backbone to load, which is needed to look up a published name.

    Raises:
        WeightsError: If the weights do not exist or cannot be read.
    """
    if isinstance(source, Mapping):
        _check_state_dict(source, "the state dict")
        return FoundWeights(source, "the state dict")
    published = find_published(source, model) if model is not None else None
    if published is not None:
        return _read_published(published)
    if isinstance(source, enum.Enum):
        raise WeightsError(f"{source}: is not published for {model}; pass its file's path, or a state dict")
    if isinstance(source, nn.Module):
        raise WeightsError(f"weights of type {type(source).__name__}: is a module; pass its state_dict()")
    if not isinstance(source, str | os.PathLike):
        raise WeightsError(
            f"weights of type {type(source).__name__}: expected a file's path, a state dict or a published name"
        )
    if model is not None and str(source) and not Path(source).exists():
        names = ", ".join(row.name for row in published_for(model))
        raise WeightsError(f"{source}: no such file; published for {model}: {names or 'nothing'}")
    if not str(source):
        raise WeightsError("weights='': expected a file's path, a state dict or a published name")
    return _read_file(Path(source))


def unwrap_source(found: FoundWeights, own: Collection[str], *, keep_all: bool = True) -> FoundWeights:
    """Remove what wrappers added to the names of a state dict.

    Args:
        found: Weights.
        own: Names of the tensors of the network to fill.
        keep_all: Whether weights outside the network are an error, because they would be lost.

    Raises:
        WeightsError: If the state dict holds several such networks, or also other weights.
    """
    if found.config is not None:
        return found
    network = find_network(found.tensors, own)
    if len(network.prefixes) > 1:
        raise WeightsError(
            f"{found.where}: holds several networks, whose names begin with "
            f"{' and '.join(repr(prefix) for prefix in network.prefixes)}; pass a state dict with one of them"
        )
    lost = [name for name in network.dropped if found.tensors[name].ndim > 1 and found.tensors[name].numel() > 4]
    if lost and keep_all:
        raise WeightsError(
            f"{found.where}: holds the network under {''.join(network.stripped)!r}, and other weights that would be "
            f"lost: {', '.join(lost[:3])}; pass a state dict with the network alone"
        )
    tensors = {new: found.tensors[old] for new, old in network.kept.items()}
    return replace(found, tensors=tensors, stripped=network.stripped, outside=network.dropped)


def _read_file(path: Path) -> FoundWeights:
    start = read_start(path)
    if start[8:9] == b"{" or start[:1] not in (b"P", b"\x80") or is_export(path):
        found = read_weights_file(path)
        return FoundWeights(found.tensors, str(path), found.config, found.card)
    return FoundWeights(_read_pytorch(path), str(path))


def _read_pytorch(path: Path) -> Mapping[str, Tensor]:
    """Read a `.pth` with a plain state dict; `weights-tools convert` handles all other contents."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning about TorchScript archives, which are refused below
            if is_zipfile(path):
                _check_checksums(path)  # torch does not check them
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:  # files older than the zip format can't be mapped
                state = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception:  # torch raises many exception types for a damaged file
        # torch's message recommends weights_only=False, which executes code in the file.
        raise WeightsError(
            f"{path}: is not a plain state dict; describe it with `weights-tools inspect {path}`, and convert it to a "
            f"safe file with `weights-tools convert {path} OUT.safetensors`"
        ) from None
    _check_state_dict(state, str(path))
    tensors: Mapping[str, Tensor] = state
    return tensors


def _check_checksums(path: Path) -> None:
    """Raise WeightsError if an entry of the archive does not match its checksum; archives without checksums pass."""
    with ZipFile(path) as archive:
        if any(entry.CRC for entry in archive.infolist()) and (damaged := archive.testzip()) is not None:
            raise WeightsError(f"{path}: is damaged: {damaged} does not match its checksum; fetch or copy it again")


def _check_state_dict(state: object, where: str) -> None:
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{where}: no tensors found in it ({type(state).__name__}); expected a state dict")
    wrong = [str(key)[:80] for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if wrong:
        raise WeightsError(
            f"{where}: is not a plain state dict, it also holds {', '.join(wrong[:5])}; pass the state dict inside, or "
            "let `weights-tools convert` find it"
        )


def _read_published(published: Published) -> FoundWeights:
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file
    if not path.is_file():
        raise WeightsError(
            f"{published.file} ({published.name} of {published.model}) was not found in {path.parent}; nothing is "
            f"downloaded automatically: run `weights-tools fetch {published.model}:{published.name}`, or put "
            f"{published.url} there, or pass the file's path as weights="
        )
    check_hash(path, published)
    return FoundWeights(_read_pytorch(path), str(path), published.config(), published.card())


def check_hash(path: Path, published: Published) -> None:
    """Raise WeightsError unless the file has the published sha256, or its first eight digits if no more are known."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(published.sha256 or published.hash_prefix):
        raise WeightsError(
            f"{path}: is not the published file: its sha256 begins with {digest[:8]}, not {published.hash_prefix}; "
            f"it is damaged or a different file; remove it and fetch {published.url} again"
        )
