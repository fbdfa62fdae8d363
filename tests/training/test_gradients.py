"""Faster gradients equal torch's, and are used where they should be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets.training.gradients import FasterGradients


def _gradients(model: nn.Module, images: Tensor, faster: bool) -> tuple[dict[str, Tensor], list[Tensor], list[str]]:
    """Return the outputs, all gradients and the names of the outputs' last operations."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    gradients = FasterGradients(model)
    torch.manual_seed(2)  # of the dropout
    with gradients.enabled() if faster else contextlib.nullcontext():
        outputs = dict(gradients.replace_resize(model(images)) if faster else model(images))
        weights = {name: torch.randn(output.shape, generator=_generator()) for name, output in outputs.items()}
        total = torch.stack([(output * weights[name]).sum() for name, output in outputs.items()]).sum()
        names = [output.grad_fn.name() for output in outputs.values() if output.grad_fn is not None]
        total.backward()
    assert images.grad is not None
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return outputs, [images.grad, *found], names


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lraspp_mobilenet_v3_small", {}),
        ("lraspp_mobilenet_v3_small", {"output_stride": 8, "gradient_checkpointing": True}),
        ("deeplabv3_mobilenet_v3_large", {"aux_loss": True}),
    ],
)
def test_outputs_are_torchs_and_gradients_agree(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = segnets.create_model(name, num_classes=3, norm_eval=True, **options).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(2, 3, 70, 83, generator=_generator()).contiguous(memory_format=torch.channels_last)
    expected, theirs, before = _gradients(model, images, faster=False)
    outputs, ours, after = _gradients(model, images, faster=True)

    assert set(before) == {"UpsampleBilinear2DBackward0"}
    assert set(after) == {"_ResizeBackward"}
    for key, output in outputs.items():
        assert torch.equal(output, expected[key])
    assert len(ours) == len(theirs) > 100
    for our, their in zip(ours, theirs, strict=True):
        scale = their.abs().max().item()
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", [((5, 7), (40, 51)), ((1, 4), (9, 2))])
def test_the_gradient_of_a_resize(align_corners: bool, sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Conv2d(2, 3, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            size = sizes[1]
            logits = self.classifier(x)
            resized = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
            return {"out": resized, "logits": logits, "other": nn.functional.interpolate(resized, scale_factor=2)}

    model = Network()
    images = torch.randn(2, 2, *sizes[0], generator=_generator())
    _, theirs, _ = _gradients(model, images, faster=False)
    _, ours, names = _gradients(model, images, faster=True)
    assert names[0] == "_ResizeBackward"
    assert names[2] == "UpsampleNearest2DBackward0"
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-5 * their.abs().max().item())


def _convolution(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 3, "groups": 4, "bias": False, **options})


@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        ({"padding": 2, "dilation": 2}, True),
        ({"kernel_size": (5, 3), "padding": (8, 1), "dilation": (4, 2)}, True),
        ({"kernel_size": 2, "padding": 0, "dilation": 3}, True),
        ({"padding": 1}, False),  # not dilated: torch's gradient is fast
        ({"padding": 2, "dilation": 2, "stride": 2}, False),
        ({"padding": 2, "dilation": 2, "groups": 2}, False),
        ({"padding": 2, "dilation": 2, "bias": True}, False),
        ({"padding": 2, "dilation": 2, "padding_mode": "reflect"}, False),
        ({"padding": "same", "dilation": 2}, False),
        ({"padding": 5, "dilation": 2}, False),
    ],
)
def test_the_gradient_of_a_dilated_depthwise_convolution(options: dict[str, Any], replaced: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(_convolution(**options))
    seen: list[str] = []

    def run(faster: bool) -> list[Tensor]:
        x = torch.randn(2, 4, 13, 17, generator=_generator(), requires_grad=True)
        with FasterGradients(model).enabled() if faster else contextlib.nullcontext():
            output = model(x)
            assert output.grad_fn is not None
            seen.append(output.grad_fn.name())
            weights = torch.randn(output.shape, generator=_generator())
            inputs = [x, *model.parameters()]
            return [output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)]

    theirs, ours = run(False), run(True)
    assert (seen[1] == "_DepthwiseConvolutionBackward") is replaced
    assert torch.equal(ours[0], theirs[0])
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-5)


class _Scaled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as in torch
        return super().forward(input) * 3


class _Users(nn.Module):
    """A network as a user might write it."""

    def __init__(self, body: nn.Module, scale: float = 2.0) -> None:
        super().__init__()
        self.body, self.scale = body, scale
        self.classifier, self.aux_classifier = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> dict[str, Any]:
        one, other = self.body(x).contiguous().chunk(2, dim=1)  # two outputs of one operation
        heads = {"out": self.classifier(one), "aux": self.aux_classifier(other)}
        resized = {k: nn.functional.interpolate(v, scale_factor=self.scale, mode="bilinear") for k, v in heads.items()}
        return {**resized, "number": None}


class _Whole(nn.Module):
    """A convolution that is called without a batch and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = _convolution(padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(self.layer(input=x)[0])[None]
        return output


def _hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda _module, _inputs, output: output * 3)
    return module


@pytest.mark.parametrize(
    "body",
    [
        lambda: nn.Sequential(_convolution(padding=2, dilation=2), nn.ReLU(inplace=True)),
        lambda: _Scaled(4, 4, 3, padding=2, dilation=2, groups=4, bias=False),
        lambda: nn.utils.parametrizations.spectral_norm(_convolution(padding=2, dilation=2)),
        lambda: _hooked(_convolution(padding=2, dilation=2)),
        _Whole,
    ],
)
@pytest.mark.parametrize("scale", [2.0, 1.7])
def test_networks_of_users(body: Callable[[], nn.Module], scale: float) -> None:
    results = []
    for faster in (False, True):
        torch.manual_seed(0)
        model = _Users(body(), scale)
        images = torch.randn(1, 4, 9, 11, requires_grad=True)
        gradients = FasterGradients(model)
        with gradients.enabled() if faster else contextlib.nullcontext():
            outputs = gradients.replace_resize(model(images)) if faster else model(images)
            out, aux = outputs["out"], outputs["aux"].mul_(2)
            names = [type(each.grad_fn).__name__ for each in (out, aux)]
            total = (out.square() + aux.square() * 3).sum()
            wanted = [images, *model.parameters()]
            results.append((out, aux, *torch.autograd.grad(total, wanted)))
    assert names == ["_ResizeBackward", "MulBackward0"]  # the second was changed in place
    assert all(map(torch.equal, results[0][:2], results[1][:2]))
    for their, our in zip(*results, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5 * their.abs().max().item())


def test_the_default_dtype_does_not_matter() -> None:
    model = _Users(nn.Identity())
    images = torch.randn(1, 4, 5, 5, requires_grad=True)
    gradients = FasterGradients(model)
    torch.set_default_dtype(torch.float64)
    try:
        with gradients.enabled():
            gradients.replace_resize(model(images))["out"].sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert images.grad is not None


def test_other_types_keep_torchs_gradients() -> None:
    model = nn.Sequential(_convolution(padding=2, dilation=2)).double()
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    with FasterGradients(model).enabled():
        node = model(x).grad_fn
    assert node is not None
    assert node.name() == "ConvolutionBackward0"


def test_no_hooks_stay() -> None:
    model = segnets.create_model("lraspp_mobilenet_v3_small", num_classes=3)
    with FasterGradients(model).enabled():
        assert sum(len(module._forward_hooks) for module in model.modules()) > 1
    assert not any(module._forward_hooks for module in model.modules())
