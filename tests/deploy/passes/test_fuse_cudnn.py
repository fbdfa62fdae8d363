"""Fused convolutions for cuDNN, run on the CPU and compared with separate layers."""

from __future__ import annotations

import pytest
import torch

from segnets.deploy.passes.context import Context
from segnets.deploy.passes.fuse_cudnn import ConvAddReLU, ConvReLU
from segnets.deploy.passes.pipeline import COMMON, PIPELINES
from tests.deploy.common import random_model, simplified


@pytest.mark.parametrize(
    ("name", "with_relu", "with_addition"),
    [
        # The stem's convolution, one in each of eight blocks, and the head's.
        ("fcn_resnet18", 1 + 8 + 1, 8),
        ("deeplabv3_resnet50", 1 + 2 * 16 + 4 + 1 + 1, 16),
        ("fcn_resnext50_32x4d", 1 + 16 + 1, 16),  # the 3x3 convolutions are grouped
        # Five expansions, eight gates and the head. Activations other than ReLU are not fused.
        ("lraspp_mobilenet_v3_large", 5 + 8 + 1, 0),
    ],
)
def test_convolutions_are_fused(name: str, with_relu: int, with_addition: int) -> None:
    model = random_model(name, num_classes=5)
    image = torch.rand(2, 3, 65, 97)
    context = Context("torchscript", "cuda")
    fused = simplified(model)
    with torch.no_grad():
        expected = fused(image)["out"]
        for step in PIPELINES["torchscript", "cuda"][len(COMMON) : -1]:  # the last one converts to half precision
            fused = step.apply(fused, context).network
        result = fused(image)["out"]
    assert (result - expected).abs().max() < 1e-4 * expected.abs().max()
    types = [type(module) for module in fused.modules()]
    assert (types.count(ConvReLU), types.count(ConvAddReLU)) == (with_relu, with_addition)
