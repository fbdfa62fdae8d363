"""Real files of every container that the reader knows: what the mutations start from.

All are written by the libraries themselves (torch, safetensors, segnets), and small, so that one execution takes less
than a millisecond. A new kind of file is one more entry in `all_seeds`.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import pickle
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from segnets.card import ModelCard, ModelConfig
from segnets.registry import build_described
from segnets.weights.description import METADATA_KEY, encode


@dataclass(frozen=True)
class Seed:
    """A real file. weight: how often it is chosen; recognising a whole network takes a hundred times longer."""

    name: str
    data: bytes
    weight: float = 1.0


@functools.cache
def all_seeds() -> tuple[Seed, ...]:
    """Every seed, equal from run to run."""
    torch.manual_seed(0)
    return (*_zips(), *_scripts(), *_legacy(), *_safetensors(), *_pickles(), *_indices(), *_networks(), *_others())


# The name under which every input is read, and an index that lists it.
INPUT = "w.pth"
INDEX = "of-the-input.index.json"


@functools.cache
def beside() -> dict[str, bytes]:
    """Files that lie beside every input: the parts of a checkpoint in several, and an index that lists the input."""
    state = _state()
    first = {name: state.pop(name) for name in ("conv.weight", "conv.bias")}
    return {
        "model-00001-of-00002.safetensors": save_safetensors(first),
        "model-00002-of-00002.safetensors": save_safetensors(state),
        "pytorch_model-00001-of-00002.bin": saved(first),
        "pytorch_model-00002-of-00002.bin": saved(state),
        INDEX: _index(dict.fromkeys(_state(), INPUT)),
    }


def _index(weight_map: dict[str, str]) -> bytes:
    return json.dumps({"metadata": {"total_size": 80}, "weight_map": weight_map}).encode()


def _indices() -> list[Seed]:
    seeds = []
    for name in ("model-%05d-of-00002.safetensors", "pytorch_model-%05d-of-00002.bin"):
        parts = {"conv.weight": name % 1, "conv.bias": name % 1, "n": name % 2}
        seeds.append(Seed(f"index: {name.partition('-')[0]}", _index(parts)))
    return seeds


def saved(content: object, **options: Any) -> bytes:
    """The bytes that torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _state() -> dict[str, Tensor]:
    return {"conv.weight": torch.arange(16.0).reshape(2, 2, 2, 2), "conv.bias": torch.ones(2), "n": torch.tensor(3)}


def _every_dtype() -> dict[str, Tensor]:
    names = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64")
    return {name: torch.arange(4).to(getattr(torch, name)) for name in (*names, "float8_e4m3fn", "uint16")}


# As mmsegmentation writes it: Python in a text, which is read and never run.
_META = {
    "mmseg_version": "0.30.0",
    "CLASSES": ("road", "car"),
    "PALETTE": [[128, 64, 128], [0, 0, 142]],
    "config": "norm_cfg = dict(type='SyncBN', requires_grad=True)\n"
    "model = dict(type='EncoderDecoder', backbone=dict(type='ResNetV1c', depth=50, strides=(1, 2, 1, 1), "
    "dilations=(1, 1, 2, 4), norm_cfg=norm_cfg, contract_dilation=True), decode_head=dict(type='ASPPHead', "
    "dilations=(1, 12, 24, 36), num_classes=2, align_corners=False, norm_cfg=norm_cfg))\n"
    "img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)\n",
}


def _training() -> dict[str, Any]:
    """What training scripts save: optimizers, arguments, numbers of NumPy, paths beside the weights."""
    return {
        "model": _state(),
        "model_ema": {"module." + name: tensor for name, tensor in _state().items()},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "args": argparse.Namespace(lr=0.1, out=PurePosixPath("/tmp"), names=["a", b"b", None, (1, 2.5)]),
        "best": np.float64(0.5),
        "epoch": 1 << 70,
        "history": np.arange(3),
    }


def _views() -> dict[str, Tensor]:
    """Parameters, tied and overlapping views of one storage, other strides, nothing at all."""
    base = torch.arange(24.0)
    return OrderedDict(
        weight=nn.Parameter(base[:12].reshape(3, 4)),
        tied=base,
        turned=base.reshape(4, 6).t(),
        last=torch.ones(1, 2, 2, 3).contiguous(memory_format=torch.channels_last),
        nothing=torch.empty(0, 3),
        buffer=nn.Buffer(base[5:9]),
    )


def _zips() -> list[Seed]:
    return [
        Seed("zip", saved({"state_dict": _state(), "epoch": 3})),
        Seed("zip: training", saved(_training())),
        Seed("zip: views", saved(_views())),
        Seed("zip: dtypes", saved(_every_dtype())),
        Seed("zip: protocol 4", saved(OrderedDict(_state()), pickle_protocol=4)),
        Seed("zip: whole module", saved(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))),
        Seed("zip: sparse and meta", saved({"s": torch.eye(3).to_sparse(), "m": torch.empty(2, device="meta")})),
        Seed(
            "zip: configuration", saved({"meta": _META, "state_dict": {"decode_head.conv_seg.weight": torch.tensor(3)}})
        ),
        Seed("zip: optimizer", saved(_training()["optimizer"])),
    ]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.norm(self.conv(x))
        return scores


def _scripts() -> list[Seed]:
    files = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(_Net().eval())
        traced = torch.jit.trace(_Net().eval(), torch.ones(1, 1, 2, 2))
        for module in (scripted, traced, torch.jit.freeze(scripted)):
            file = io.BytesIO()
            torch.jit.save(module, file)
            files.append(file.getvalue())
    names = ("script", "trace", "frozen")
    return [Seed(f"TorchScript: {name}", data) for name, data in zip(names, files, strict=True)]


def _legacy() -> list[Seed]:
    old = {"_use_new_zipfile_serialization": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the source code of a whole module can't always be found
        module = saved(nn.Linear(1, 1), **old)
    return [
        Seed("legacy", saved(_state(), **old)),
        Seed("legacy: training", saved(_training(), **old)),
        Seed("legacy: views", saved(_views(), **old)),
        Seed("legacy: whole module", module),
    ]


def _safetensors() -> list[Seed]:
    plain = {name: tensor for name, tensor in _every_dtype().items() if name != "complex64"}
    return [
        Seed("safetensors", save_safetensors(_state(), {"format": "pt"})),
        Seed("safetensors: dtypes", save_safetensors(plain)),
        Seed("safetensors: empty", save_safetensors({"nothing": torch.empty(0)})),
        Seed("safetensors: described", _described({"conv.weight": torch.ones(2, 1)}), 0.1),
    ]


def _described(tensors: dict[str, Tensor], name: str = "lraspp_mobilenet_v3_small", **options: Any) -> bytes:
    """A file with the description that segnets writes into its own."""
    card = ModelCard(classes=("background", "cat"), palette=((0, 0, 0), (255, 0, 0)), provenance={"source": "seed"})
    return save_safetensors(tensors, {METADATA_KEY: encode(ModelConfig(name, {"num_classes": 2, **options}), card)})


def _pickles() -> list[Seed]:
    content = {"a": [1, 2.0, "x", b"y", (None, True), {1}, frozenset((2,))], "b": ValueError("x"), "c": -(1 << 80)}
    return [Seed(f"pickle: protocol {n}", pickle.dumps(content, n), 0.4) for n in range(6)]


def _networks() -> list[Seed]:
    """The names and shapes of whole networks, whose tensors are views of one small storage."""
    shapes = _shapes("lraspp_mobilenet_v3_large", num_classes=2)
    room = torch.full((max(shape.numel() for shape in shapes.values()),), 0.5).to(torch.float8_e4m3fn)
    one = torch.tensor(1)
    state = {
        name: one if name.endswith("num_batches_tracked") else room[: shape.numel()].reshape(shape)
        for name, shape in shapes.items()
    }
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    small = _shapes("lraspp_mobilenet_v3_small", num_classes=2)
    own = {name: torch.ones(shape).to(torch.float8_e4m3fn) for name, shape in small.items()}
    return [
        Seed("zip: network", saved({"state_dict": state, "epoch": 1}), 0.02),
        Seed("zip: backbone alone", saved(backbone), 0.02),
        Seed("legacy: network", saved(state, _use_new_zipfile_serialization=False), 0.02),
        Seed(
            "zip: shapes of ResNet", saved({"module." + name: t for name, t in _claimed("fcn_resnet18").items()}), 0.02
        ),
        Seed("zip: shapes of another project", saved(_claimed_of_smp()), 0.02),
        Seed("safetensors: network", _described(own), 0.003),
    ]


def _shapes(name: str, **options: Any) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in build_described(name, options).state_dict().items()}


def _claimed(name: str, **options: Any) -> dict[str, Tensor]:
    """Tensors that repeat one number: the file stays small, and is refused after the network was recognised."""
    return {key: torch.tensor(1.0).expand(shape) for key, shape in _shapes(name, **options).items()}


def _claimed_of_smp() -> dict[str, Tensor]:
    """As segmentation_models_pytorch names them."""
    prefixes = {
        "backbone.": "encoder.",
        "classifier.0.": "decoder.aspp.",
        "classifier.1.": "decoder.conv.",
        "classifier.2.": "decoder.bn.",
        "classifier.4.": "segmentation_head.0.",
    }
    found = {}
    for name, tensor in _claimed("deeplabv3_resnet18").items():
        ours = next(prefix for prefix in prefixes if name.startswith(prefix))
        found[prefixes[ours] + name.removeprefix(ours)] = tensor
    return found


def _others() -> list[Seed]:
    """Files that people mistake for weights, and heads of other formats."""
    npz, tar, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(npz, a=np.arange(3))
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as box:
        box.writestr("inner/w.pth", b"x" * 100)
    graph, opset = b"\x12\x04main", b"\x0a\x00\x10\x11"
    onnx = b"\x08\x08\x12\x07pytorch\x1a\x062.13.0\x3a" + bytes((len(graph),)) + graph
    texts = {
        "html": b"<!DOCTYPE html><html><head><title>404</title></head></html>",
        "json": b'{"message": "Not Found"}',
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "text": b"conv.weight 1 2 3\n",
        "onnx": onnx + b"\x42" + bytes((len(opset),)) + opset,
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "npz": npz.getvalue(),
        "tar": tar.getvalue(),
        "archive": archive.getvalue(),
        "zeros": bytes(1000),
    }
    return [Seed(f"other: {name}", data, 0.15) for name, data in texts.items()]
