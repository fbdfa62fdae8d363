"""Exports for target "cpu" in float32 and bfloat16, compared with the plain model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from segnets.backbones import Bottleneck
from segnets.deploy import export, load_exported, verify
from segnets.deploy.contract import PIXELS_AT_ONCE
from segnets.deploy.passes.fuse_onednn import PackedConv
from segnets.deploy.passes.winograd import WinogradConv
from segnets.deploy.passes.wrap import images_at_once
from segnets.errors import ExportError
from segnets.segmenter import segment
from tests.deploy.common import SMALL, calm_model, fused_for_cpu, random_image, random_model, simplified, tiny
from tests.tiers import full_but
from tests.typed import part

NETWORKS = (
    "lraspp_mobilenet_v3_large",
    "deeplabv3_resnet18",
    "pspnet_mobilenet_v3_small",
    "deeplabv3plus_resnet18",
    "fcn_resnet50",
    "fcn_resnext50_32x4d",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
)
EVERYDAY = [(NETWORKS[0], "bfloat16")]  # float32 is the default of other tests


@pytest.fixture(scope="module")
def exported_as(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return a function that exports `calm_model(name, num_classes=5)` in a dtype, once, with `output="dict"`."""

    @functools.cache
    def path_of(name: str, dtype: str) -> Path:
        path = tmp_path_factory.mktemp("export") / "m.ts"
        model = calm_model(name, num_classes=5)
        report = export(model, path, target="cpu", dtype=dtype, preprocessing=SMALL, output="dict")
        assert report.verification.passed
        return path

    return path_of


@pytest.mark.parametrize(
    ("name", "dtype"), full_but(EVERYDAY, [(name, dtype) for name in NETWORKS for dtype in ("float32", "bfloat16")])
)
def test_agrees_with_the_model(name: str, dtype: str, exported_as: Callable[[str, str], Path]) -> None:
    again = verify(exported_as(name, dtype), against=calm_model(name, num_classes=5))
    assert again.passed
    assert [again.contract.target, again.contract.dtype] == ["cpu", dtype]
    # The rounding of bfloat16 is visible; that of float32 is much smaller.
    differences = [comparison.difference for comparison in again.comparisons]
    assert (max(differences) > 1e-3) == (dtype == "bfloat16")
    assert all(comparison.tolerance < 0.2 for comparison in again.comparisons)


def test_every_convolution_is_fused() -> None:
    for name in ("lraspp_mobilenet_v3_large", "deeplabv3_resnet18"):
        model = random_model(name)
        count = sum(isinstance(module, nn.Conv2d) for module in simplified(model).modules())
        fused = fused_for_cpu(model)
        types = {type(module) for module in fused.modules()}
        assert not types & {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Hardswish}
        assert sum(isinstance(module, PackedConv | WinogradConv) for module in fused.modules()) == count


def test_layers_that_do_not_run_are_unchanged() -> None:
    model = calm_model(num_classes=5)
    model.unused = nn.Sequential(nn.Conv2d(3, 3, 3), Bottleneck(16, 4))
    fused = fused_for_cpu(model)
    image = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(fused(image)["out"], model(image)["out"], rtol=1e-4, atol=1e-4)


def test_a_batch_in_groups_equals_single_images(exported_as: Callable[[str, str], Path]) -> None:
    sizes = (520, 520), (260, 300), (33, 4096), (4096, 4096), (0, 7)
    assert [images_at_once(*size) for size in sizes] == [1, 3, 2, 1, PIXELS_AT_ONCE]
    model = calm_model("lraspp_mobilenet_v3_small", num_classes=5)
    exported = load_exported(exported_as("lraspp_mobilenet_v3_small", "float32"))
    images = torch.randn(5, 3, 260, 300, generator=torch.Generator().manual_seed(0))  # groups of three and two
    logits = exported.logits(images)
    assert logits.is_contiguous()
    for image, alone in zip(logits, images, strict=True):
        torch.testing.assert_close(image, exported.logits(alone[None])[0], rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(images)["out"], rtol=1e-4, atol=1e-4)


def test_another_network_is_detected(exported_as: Callable[[str, str], Path]) -> None:
    model = calm_model(num_classes=5)
    with torch.no_grad():
        part(model, "backbone.4.block.1.0.weight").mul_(1.5)
    assert not verify(exported_as("lraspp_mobilenet_v3_large", "bfloat16"), against=model).passed


def test_the_mask_agrees_with_the_model(exported_as: Callable[[str, str], Path]) -> None:
    model = calm_model("lraspp_mobilenet_v3_small", num_classes=5)
    image = random_image(50, 70)
    same = load_exported(exported_as("lraspp_mobilenet_v3_small", "float32")).segment(image) == segment(
        model, image, SMALL
    )
    assert same.float().mean() > 0.999


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dtype='bfloat16' needs target='cpu'"):
        export(random_model(), tmp_path / "m.ts", target="portable", dtype="bfloat16")
    with pytest.raises(ExportError, match="target='gpu'"):
        export(random_model(), tmp_path / "m.ts", target="gpu")

    class Identity(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": x}

    with pytest.raises(ExportError, match=r"takes a segnets\.SegmentationModel"):
        export(Identity(), tmp_path / "m.ts", target="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_bfloat16_destroys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"bfloat16 logits differ from float64 by .* of the largest"):
        export(random_model(num_classes=5), tmp_path / "m.ts", target="cpu", dtype="bfloat16", preprocessing=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_libtorch_without_onednn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tiny(), tmp_path / "m.ts", target="cpu", preprocessing=SMALL)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ExportError, match=r"m\.ts: target='cpu' needs oneDNN, which this LibTorch lacks"):
        load_exported(tmp_path / "m.ts")
    with pytest.raises(ExportError, match="export: target='cpu' needs oneDNN"):
        export(random_model(), tmp_path / "n.ts", target="cpu")
    assert not (tmp_path / "n.ts").exists()
