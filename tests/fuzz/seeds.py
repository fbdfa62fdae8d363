"""Real files of every container that the reader reads, small enough to be read in about a millisecond."""

from __future__ import annotations

import argparse
import functools
import io
import json
import pickle
import tarfile
import tempfile
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from segnets.card import ModelCard, ModelConfig
from segnets.registry import build_described
from segnets.weights.description import METADATA_KEY, encode
from tests.weights_tools.files import saved, sharded
from tests.weights_tools.mmseg_text import TEXT

INPUT = "w.pth"  # the name of every input
INDEX = "of-the-input.index.json"  # an index that lists the input
_LEGACY = {"_use_new_zipfile_serialization": False}


@dataclass(frozen=True)
class Seed:
    """A real file, and how often to start from it: recognising a network takes a hundred times longer."""

    name: str
    data: bytes
    weight: float = 1.0


@functools.cache
def all_seeds() -> tuple[Seed, ...]:
    """Return every seed, the same in every process."""
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated; legacy files want a module's source
        plain = {**_checkpoints(), **_scripts(), **_safetensors()}
        plain |= {f"index: {name}": data for name, data in companions().items() if name.endswith(".json")}
        seeds = [Seed(name, data) for name, data in plain.items()]
        seeds += [Seed(f"pickle: protocol {n}", pickle.dumps(_VALUES, n), 0.4) for n in range(6)]
        seeds += [Seed(name, data, 0.02) for name, data in _networks().items()]
        seeds += [Seed(f"other: {name}", data, 0.15) for name, data in _others().items()]
    return tuple(seeds)


@functools.cache
def companions() -> dict[str, bytes]:
    """Return the files next to every input: sharded checkpoints, their indices, and an index of the input."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("safetensors", "bin"):
            sharded(Path(folder), _STATE, kind, parts=2)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    return {**files, INDEX: json.dumps({"weight_map": dict.fromkeys(_STATE, INPUT)}).encode()}


_VALUES = {"a": [1, 2.0, "x", b"y", (None, True), {1}, frozenset((2,))], "b": ValueError("x"), "c": -(1 << 80)}
_STATE = {"conv.weight": torch.arange(16.0).reshape(2, 2, 2, 2), "conv.bias": torch.ones(2), "n": torch.tensor(3)}
_DTYPES = (
    "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "float8_e4m3fn",
    "uint16",
)  # fmt: skip
# mmsegmentation writes its configuration as Python text, which is read and never run.
_META = {"mmseg_version": "1.2.2", "CLASSES": ("road", "car"), "PALETTE": [[9, 8, 7], [0, 0, 142]], "config": TEXT}
_TRAINING = {
    "model": _STATE,
    "model_ema": {"module." + name: tensor for name, tensor in _STATE.items()},
    "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    "args": argparse.Namespace(lr=0.1, out=PurePosixPath("/tmp"), names=["a", b"b", None, (1, 2.5)]),
    "best": np.float64(0.5),
    "epoch": 1 << 70,
    "history": np.arange(3),
}


def _every_dtype() -> dict[str, Tensor]:
    return {name: torch.arange(4).to(getattr(torch, name)) for name in _DTYPES}


def _checkpoints() -> dict[str, bytes]:
    """Return files that torch.save wrote, of both formats."""
    base = torch.arange(24.0)
    views = OrderedDict(
        weight=nn.Parameter(base[:12].reshape(3, 4)),
        tied=base,
        transposed=base.reshape(4, 6).t(),
        last=torch.ones(1, 2, 2, 3).contiguous(memory_format=torch.channels_last),
        empty=torch.empty(0, 3),
        buffer=nn.Buffer(base[5:9]),
    )
    both = {"training": _TRAINING, "views": views, "whole module": nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))}
    return {
        "zip": saved({"state_dict": _STATE, "epoch": 3}),
        "zip: dtypes": saved(_every_dtype()),
        "zip: protocol 4": saved(OrderedDict(_STATE), pickle_protocol=4),
        "zip: sparse and meta": saved({"s": torch.eye(3).to_sparse(), "m": torch.empty(2, device="meta")}),
        "zip: config": saved({"meta": _META, "state_dict": {"decode_head.conv_seg.weight": torch.tensor(3)}}),
        "zip: optimizer": saved(_TRAINING["optimizer"]),
        "legacy": saved(_STATE, **_LEGACY),
        **{f"zip: {name}": saved(content) for name, content in both.items()},
        **{f"legacy: {name}": saved(content, **_LEGACY) for name, content in both.items()},
    }


def _scripts() -> dict[str, bytes]:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    scripted = torch.jit.script(net)
    traced = torch.jit.trace(net, torch.ones(1, 1, 2, 2))
    modules = {"script": scripted, "frozen": torch.jit.freeze(scripted), "trace": traced}
    return {f"TorchScript: {name}": module.save_to_buffer() for name, module in modules.items()}


def _safetensors() -> dict[str, bytes]:
    plain = {name: tensor for name, tensor in _every_dtype().items() if name != "complex64"}
    return {
        "safetensors": save_safetensors(_STATE, {"format": "pt"}),
        "safetensors: dtypes": save_safetensors(plain),
        "safetensors: empty": save_safetensors({"empty": torch.empty(0)}),
        "safetensors: described": _described({"conv.weight": torch.ones(2, 1)}),
    }


def _described(tensors: dict[str, Tensor]) -> bytes:
    """Return a file with the description that segnets writes."""
    card = ModelCard(classes=("background", "cat"), palette=((0, 0, 0), (255, 0, 0)), provenance={"source": "seed"})
    config = ModelConfig("lraspp_mobilenet_v3_small", {"num_classes": 2})
    return save_safetensors(tensors, {METADATA_KEY: encode(config, card)})


def _networks() -> dict[str, bytes]:
    """Return files with all tensors of a network; most repeat one number, so that the file stays small."""
    state = _claimed("lraspp_mobilenet_v3_large", num_classes=2)
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    own = {name: t.to(torch.float8_e4m3fn) for name, t in _claimed("lraspp_mobilenet_v3_small", num_classes=2).items()}
    ours = ("backbone.", "classifier.0.", "classifier.1.", "classifier.2.", "classifier.4.")
    smp = ("encoder.", "decoder.aspp.", "decoder.conv.", "decoder.bn.", "segmentation_head.0.")
    renamed = {
        new + name.removeprefix(old): tensor
        for name, tensor in _claimed("deeplabv3_resnet18").items()
        for old, new in zip(ours, smp, strict=True)
        if name.startswith(old)
    }
    return {
        "zip: network": saved({"state_dict": state, "epoch": 1}),
        "zip: backbone alone": saved(backbone),
        "legacy: network": saved(state, **_LEGACY),
        "zip: ResNet": saved({"module." + name: tensor for name, tensor in _claimed("fcn_resnet18").items()}),
        "zip: another project": saved(renamed),
        "safetensors: network": _described({name: tensor.contiguous() for name, tensor in own.items()}),
    }


def _claimed(name: str, **options: Any) -> dict[str, Tensor]:
    """Return a state dict whose tensors are views of one number."""
    state = build_described(name, options).state_dict()
    return {key: torch.tensor(0.5).to(tensor.dtype).expand(tensor.shape) for key, tensor in state.items()}


def _others() -> dict[str, bytes]:
    """Return files that people mistake for weights, and heads of other formats."""
    npz, tar = io.BytesIO(), io.BytesIO()
    np.savez(npz, a=np.arange(3))
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return {
        "html": b"<!DOCTYPE html><html><head><title>404</title></head></html>",
        "json": b'{"message": "Not Found"}',
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "text": b"conv.weight 1 2 3\n",
        "onnx": b"\x08\x08\x12\x07pytorch\x1a\x062.13.0\x3a\x06\x12\x04main\x42\x04\x0a\x00\x10\x11",
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "npz": npz.getvalue(),
        "tar": tar.getvalue(),
        "zeros": bytes(1000),
    }
