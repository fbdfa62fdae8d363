"""TorchScript for every LibTorch: channels last, and a `forward` that other runtimes can read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segnets.deploy import Exported, export, load_exported
from segnets.deploy.check.reference import logits_of
from segnets.deploy.check.tolerance import relative_difference
from segnets.model import SegmentationModel
from tests.deploy.common import SMALL, calm_model, tiny
from tests.tiers import full_but

SIZES = ((1, 64, 80), (2, 65, 97))


@pytest.fixture(
    scope="module",
    params=full_but(["lraspp_mobilenet_v3_small"], ["lraspp_mobilenet_v3_small", "deeplabv3plus_resnet18"]),
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentationModel, Path]:
    """Return a network and its portable file."""
    model = calm_model(request.param, num_classes=5)
    path = tmp_path_factory.mktemp("portable") / "m.ts"
    export(model, path, target="portable", preprocessing=SMALL)
    return model, path


def program_of(pair: tuple[SegmentationModel, Path]) -> Any:
    return load_exported(pair[1]).module


def operators(graph: Any) -> Iterator[str]:
    for node in graph.nodes():
        yield str(node.kind())
        for block in node.blocks():
            yield from operators(block)


def test_forward_has_only_operators_that_other_runtimes_read(pair: tuple[SegmentationModel, Path]) -> None:
    program = program_of(pair)
    found = set(operators(program.forward.inlined_graph))
    assert "aten::conv2d" in found or "aten::_convolution" in found
    unread = {"prim::DictConstruct", "aten::__not__", "aten::format", "prim::Loop", "prim::Uninitialized"}
    assert not found & (unread | {"aten::__getitem__"})  # coremltools reads image.size(1), and not image.shape[1]


def test_weights_have_channels_last(pair: tuple[SegmentationModel, Path]) -> None:
    kernels = [value for value in program_of(pair).state_dict().values() if value.dim() == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert not all(kernel.is_contiguous() for kernel in kernels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "floating point"),
        (torch.zeros(3, 8, 8), "floating point"),
        (torch.zeros(1, 4, 8, 8), "number of channels"),
        (torch.zeros(0, 3, 8, 8), "no pixels"),
    ],
)
def test_bad_input(image: Tensor, message: str, pair: tuple[SegmentationModel, Path]) -> None:
    with pytest.raises(torch.jit.Error, match=message):
        program_of(pair)(image)


@pytest.mark.full
def test_openvino_reads_it(pair: tuple[SegmentationModel, Path]) -> None:
    openvino = pytest.importorskip("openvino")
    model = pair[0]
    graph = openvino.convert_model(program_of(pair), input=([-1, 3, -1, -1], openvino.Type.f32))
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count, height, width in SIZES:
        image = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
        logits = torch.from_numpy(compiled([image.numpy()])[0])
        assert relative_difference(logits, logits_of(model, image)) < 1e-4


class Head(nn.Module):
    """A head whose `forward` depends on the feature map's size or on its memory."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.classify = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "size" and x.shape[2] > 20:
            x = x * 2
        if self.kind == "memory":
            x = x.view(-1).view(x.shape)
        logits: Tensor = self.classify(x)
        return logits


@pytest.mark.parametrize("kind", ["size", "memory"])
def test_heads_that_depend_on_size_or_memory(kind: str, tmp_path: Path) -> None:
    model = SegmentationModel(tiny().backbone, Head(kind)).eval()
    export(model, tmp_path / "m.ts", target="portable", preprocessing=SMALL)
    loaded: Exported = load_exported(tmp_path / "m.ts")
    for count, height, width in (*SIZES, (1, 32, 32)):
        image = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
        assert relative_difference(loaded.logits(image), logits_of(model, image)) < 1e-4
