"""Winograd's convolution, compared with float64, and its use in exports for CPUs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.deploy import export, load_exported
from segnets.deploy.formats import _script as torchscript
from segnets.deploy.formats import aoti
from segnets.deploy.passes import convolutions, winograd
from segnets.deploy.passes.context import Context
from segnets.deploy.passes.fuse_onednn import PackedConv
from segnets.deploy.passes.winograd import WinogradConv, WinogradMatrices, WinogradProducts, winograd_is_faster
from segnets.preprocessing import Preprocessing
from tests.deploy.common import calm_model, fused_for_cpu, needs_compiler, simplified
from tests.tiers import full_but

LARGER = Preprocessing(resize="fixed", size=(128, 160))


def loaded(module: nn.Module) -> Any:
    """Compile, save and load a module, as in an export."""
    return torchscript.from_file(io.BytesIO(torchscript.to_bytes(torchscript.script(module), {})))


def convolution_of(dilation: int, *, bias: bool = True, outputs: int = 256) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(256, outputs, 3, padding=dilation, dilation=dilation, bias=bias).requires_grad_(False)


def exact(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    bias = None if convolution.bias is None else convolution.bias.double()
    return F.conv2d(
        x.double(), convolution.weight.double(), bias, padding=convolution.padding, dilation=convolution.dilation
    )


@pytest.mark.parametrize("tiles", [1024, 6])
@pytest.mark.parametrize(
    ("dilation", "height", "width"), [(1, 9, 12), (1, 1, 1), (2, 13, 7), (2, 16, 16), (4, 5, 23), (12, 30, 31)]
)
def test_exact(dilation: int, height: int, width: int, tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_TILES", tiles)  # with few tiles, an image is many strips
    convolution = convolution_of(dilation, outputs=300)
    x = torch.randn(2, 256, height, width).contiguous(memory_format=torch.channels_last)
    expected = exact(convolution, x)
    result = loaded(WinogradConv(convolution, relu=False))(x)
    assert result.shape == expected.shape
    assert result.is_contiguous(memory_format=torch.channels_last)
    # Sums of 2304 products of about 0.02; the plain convolution in float32 differs by as much.
    assert (result - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("dilation", "height", "width"), [(1, 9, 12), (1, 1, 1), (2, 13, 7), (3, 10, 8), (4, 5, 23), (12, 30, 31)]
)
def test_matrices_are_exact(dilation: int, height: int, width: int) -> None:
    convolution = convolution_of(dilation, outputs=300)
    x = torch.randn(2, 256, height, width).contiguous(memory_format=torch.channels_last)
    module = WinogradMatrices(convolution)
    traced = torchscript.trace(module, torch.zeros(1, 256, 14, 19))
    assert traced is not None
    for each in (module, loaded(module), traced):
        assert (each(x) - exact(convolution, x)).abs().max() < 1e-5


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_activation_and_addition(relu: bool, bias: bool) -> None:
    convolution = convolution_of(1, bias=bias)
    module = loaded(WinogradConv(convolution, relu=relu))
    x, other = torch.randn(2, 256, 11, 10), torch.randn(2, 256, 11, 10)
    plain, added = exact(convolution, x), exact(convolution, x) + other
    kept = x.clone()
    torch.testing.assert_close(module(x).double(), plain.relu() if relu else plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(module(x, other).double(), added.relu() if relu else added, rtol=0, atol=1e-5)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("dilation", "height", "width"), [(1, 9, 12), (1, 1, 1), (2, 13, 7), (3, 10, 8), (4, 5, 23), (12, 30, 31)]
)
def test_products_are_exact(dilation: int, height: int, width: int) -> None:
    convolution = convolution_of(dilation, outputs=300)
    x = torch.randn(2, 256, height, width).contiguous(memory_format=torch.channels_last)
    assert (WinogradProducts(convolution, 40)(x) - exact(convolution, x)).abs().max() < 1e-5


@pytest.mark.full
@needs_compiler
def test_compiled_without_it_as_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the compiler fails on Winograd's sums, the network is compiled without them."""
    tried = []

    def compile_plain_only(model: nn.Module, *rest: Any) -> None:
        tried.append(sum(isinstance(module, WinogradProducts) for module in model.modules()))
        if tried[-1]:
            raise RuntimeError("invalid ranges")
        compile_(model, *rest)

    compile_ = aoti._compile
    monkeypatch.setattr(aoti, "_compile", compile_plain_only)
    model = wide()
    assert export(model, tmp_path / "m.pt2", format="aoti", preprocessing=LARGER).verification.passed
    assert tried == [2, 0]


@pytest.mark.full
@needs_compiler
def test_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    compile_: Callable[..., object] = aoti._compile

    def compile_and_note(model: nn.Module, *rest: object) -> object:
        compiled.append(model)
        return compile_(model, *rest)

    monkeypatch.setattr(aoti, "_compile", compile_and_note)
    model = wide()
    assert export(model, tmp_path / "m.pt2", format="aoti", preprocessing=LARGER).verification.passed
    assert [sum(isinstance(module, WinogradProducts) for module in each.modules()) for each in compiled] == [2]
    again = load_exported(tmp_path / "m.pt2")
    for shape in ((1, 3, 33, 33), (3, 3, 64, 97), (2, 3, 200, 40)):
        x = torch.rand(shape)
        with torch.inference_mode():
            torch.testing.assert_close(again.logits(x), model(x)["out"], rtol=1e-4, atol=1e-4)


def wide() -> nn.Module:
    """Return a network of two layers of 512 channels, the second dilated, at an eighth of the image's size."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 512, 8, stride=8, padding=4)
            self.layer = nn.Conv2d(512, 512, 3, padding=1)
            self.dilated = nn.Conv2d(512, 512, 3, padding=2, dilation=2)
            self.classify = nn.Conv2d(512, 4, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            features = torch.relu(self.layer(torch.relu(self.stem(x))))
            logits = self.classify(torch.relu(self.dilated(features)))
            return {"out": F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)}

    torch.manual_seed(0)
    return Wide().eval()


def test_cases_where_it_is_faster() -> None:
    """The algorithm is used for many channels, unless products with the padding outweigh the saved ones."""
    assert winograd_is_faster(convolution_of(1), [1, 256, 65, 65])
    assert winograd_is_faster(convolution_of(2), [1, 256, 65, 65])
    assert winograd_is_faster(nn.Conv2d(2048, 256, 3, padding=12, dilation=12), [1, 2048, 65, 65])
    assert not winograd_is_faster(convolution_of(1), [1, 256, 3, 3])
    for dilation in (24, 36):
        assert not winograd_is_faster(convolution_of(dilation), [1, 256, 65, 65])
    for other in (
        nn.Conv2d(255, 256, 3, padding=1),
        nn.Conv2d(256, 255, 3, padding=1),
        nn.Conv2d(256, 256, 3),
        nn.Conv2d(256, 256, 3, padding=1, stride=2),
        nn.Conv2d(256, 256, 1),
        nn.Conv2d(256, 256, 5, padding=1),
        nn.Conv2d(1024, 1024, 3, padding=1, groups=2),
        nn.Conv2d(256, 256, 3, padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(256, 256, 3, padding=1, padding_mode="reflect"),
    ):
        assert not winograd_is_faster(other, [1, other.in_channels, 65, 65])


@pytest.mark.parametrize(
    ("name", "count"),
    full_but([("fcn_resnet18", 7)], [("fcn_resnet18", 7), ("lraspp_resnet50", 8), ("deeplabv3_resnet50", 11)]),
)
def test_networks(name: str, count: int) -> None:
    """Networks with basic and bottleneck blocks use it, also for odd sizes and batches."""
    model = calm_model(name, num_classes=5)
    plain = simplified(model)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in plain.modules())
    x = torch.rand(2, 3, 87, 66)
    with torch.inference_mode():
        expected = plain(x)["out"]
        fused = fused_for_cpu(model, image_size=(520, 520))
        used = sum(isinstance(module, WinogradConv) for module in fused.modules())
        assert used == count
        assert used + sum(isinstance(module, PackedConv) for module in fused.modules()) == convolutions
        difference = (loaded(fused)(x)["out"] - expected).abs().max()
    assert difference < 1e-4 * expected.abs().max()


def test_shapes_are_found_only_if_a_convolution_may_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding them imports torch's compiler, which takes longer than the export of a small network."""

    def find(*_: object) -> None:
        raise AssertionError("shapes are found")

    monkeypatch.setattr(convolutions, "convolution_input_shapes", find)
    context = Context("torchscript", "portable")
    outcome = convolutions.use_winograd(calm_model("lraspp_mobilenet_v3_small"), context)
    assert outcome.counts == {"winograd": 0}
    with pytest.raises(AssertionError, match="shapes are found"):
        convolutions.use_winograd(calm_model("fcn_resnet18"), context)


def test_bfloat16_keeps_its_digits() -> None:
    fused = fused_for_cpu(calm_model("fcn_resnet18"), torch.bfloat16, (520, 520))
    assert not any(isinstance(module, WinogradConv) for module in fused.modules())
