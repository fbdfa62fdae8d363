"""Build checkpoints for the tests: real ones, and files assembled byte by byte."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from weights_tools.reader.values import StorageRef, TensorRef


def network(name: str = "lraspp_mobilenet_v3_large", **options: Any) -> nn.Module:
    """Build a network of torchvision with random values in every parameter and buffer."""
    from tests.oracle import NAMES, randomised, torchvision  # two seconds that the processes of the fuzzer don't need

    if name in NAMES:
        options = {"weights_backbone": None, **options}
    model: nn.Module = randomised(torchvision.models.get_model, name, weights=None, **options)
    return model.eval()


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in dtype, shape and every byte (NaN equals NaN, 0 differs from -0)."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*flat)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    different = [name for name in expected if not same_bytes(found[name], expected[name])]
    assert different == []


class Bomb:
    """An object that creates a folder when it is unpickled with `pickle.loads`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def saved(content: object, **options: Any) -> bytes:
    """Return the bytes that torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def rezip(path: Path, entries: Mapping[str, bytes], *, compressed: tuple[str, ...] = (), root: str = "archive") -> Path:
    """Write a zip archive with these entries in the folder `root`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            kind = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
            archive.writestr(f"{root}/{name}", data, compress_type=kind)
    return path


def unzip(data: bytes) -> dict[str, bytes]:
    """Return the entries of an archive of torch.save, without their folder."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


class _Storage:
    """A stand-in that is pickled as the persistent id of a float32 storage."""

    def __init__(self, key: str, numel: int) -> None:
        self.identity = ("storage", torch.FloatStorage, key, "cpu", numel)


class _TensorCall:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return torch._utils._rebuild_tensor_v2, self.arguments


def tensor_pickle(shape: tuple[int, ...], stride: tuple[int, ...], *, numel: int, offset: int = 0) -> bytes:
    """Return a data.pkl with {"w": tensor}, whose storage "0" claims `numel` elements of float32."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return value.identity if isinstance(value, _Storage) else None

    file = io.BytesIO()
    Pickler(file, protocol=2).dump({"w": _TensorCall(_Storage("0", numel), offset, shape, stride, False, {})})
    return file.getvalue()


def described(state: Mapping[str, Tensor]) -> dict[str, TensorRef]:
    """Describe tensors, also of the meta device, as the reader does."""
    found = {}
    for name, tensor in state.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        storage = StorageRef(name, dtype, tensor.numel())
        found[name] = TensorRef(storage, dtype, 0, tuple(tensor.shape), tuple(tensor.contiguous().stride()))
    return found


def sharded(
    folder: Path, state: Mapping[str, Tensor], kind: str = "safetensors", parts: int = 3, **options: Any
) -> Path:
    """Write a checkpoint in several files named like those of transformers; return the index."""
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    weight_map: dict[str, str] = {}
    for number in range(parts):
        names = list(state)[number::parts]
        file = folder / f"{stem}-{number + 1:05}-of-{parts:05}.{suffix}"
        tensors = {name: state[name].contiguous() for name in names}
        file.write_bytes(
            save_safetensors(tensors, {"format": "pt"}) if kind == "safetensors" else saved(tensors, **options)
        )
        weight_map |= dict.fromkeys(names, file.name)
    index = folder / f"{stem}.{suffix}.index.json"
    total = sum(tensor.nbytes for tensor in state.values())
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    index.write_text(json.dumps(content, indent=2) + "\n")
    return index
