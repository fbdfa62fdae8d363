"""Compiled models (.pt2): agreement, bounds, and refused files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from segnets.card import ModelCard, ModelConfig
from segnets.deploy import Contract, export, load_exported, read_contract, verify
from segnets.deploy.formats import _inductor
from segnets.deploy.formats._cpu import check_cpu, this_cpu
from segnets.deploy.formats.aoti import check_folder
from segnets.deploy.passes import pipeline
from segnets.deploy.passes.context import Context
from segnets.deploy.passes.convolutions import OnePixelConv, choose_forms
from segnets.deploy.passes.pooling import GridAverage, MeanByLines
from segnets.deploy.passes.winograd import WinogradProducts
from segnets.errors import ExportError, ImageError
from segnets.preprocessing import preprocess
from segnets.segmenter import segment
from tests.deploy.common import (
    SMALL,
    calm_model,
    changed,
    compiled,
    needs_compiler,
    quick_compiler,
    random_image,
    rewrite,
    tiny,
    without,
)

__all__ = ["compiled"]  # a fixture

CONTEXT = Context("aoti", "cpu", image_size=(64, 80), largest_side=4096)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "pspnet_resnet18"])
def test_the_compiled_model_computes_the_same(name: str) -> None:
    model = calm_model(name, num_classes=5)
    rewritten = pipeline.rewrite(model, CONTEXT).network
    kinds = {type(module) for module in rewritten.modules()}
    assert nn.AdaptiveAvgPool2d not in kinds
    assert kinds >= ({MeanByLines, OnePixelConv} if name.startswith("lraspp") else {MeanByLines, GridAverage})
    for size in ((33, 33), (65, 97), (130, 200)):
        image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            torch.testing.assert_close(rewritten(image), model(image)["out"], rtol=1e-4, atol=1e-5)


def test_feature_maps_larger_than_the_image_have_no_table() -> None:
    """Their rows and columns could exceed those of the largest allowed image."""
    for padding, kind in ((0, WinogradProducts), (3, nn.Conv2d)):
        model = nn.Sequential(nn.Conv2d(3, 256, 1, padding=padding), nn.Conv2d(256, 256, 3, padding=1))
        choose_forms(model, CONTEXT)
        assert type(model.get_submodule("1")) is kind


@needs_compiler
def test_agrees_at_other_sizes_and_batches(compiled: Path) -> None:
    model = tiny()
    report = verify(compiled, against=model)
    assert report.passed
    assert (report.contract.kind, report.contract.target) == ("aoti", "cpu")
    threads: Any = report.contract.processor["threads"]
    assert threads >= 1
    exported = load_exported(compiled)
    # The last three are computed in groups of 3, 1 and 50 images.
    for shape in (
        *((1, 3, 33, 33), (7, 3, 40, 501), (64, 3, 33, 34)),
        *((5, 3, 260, 300), (2, 3, 600, 520), (60, 3, 64, 84)),
    ):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            torch.testing.assert_close(exported.logits(image), model(image)["out"], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        model.backbone.get_parameter("convolution.weight").mul_(1.01)
    assert not verify(compiled, against=model).passed


@needs_compiler
def test_pixels_at_once_comes_from_the_contract(compiled: Path, tmp_path: Path) -> None:
    assert json.loads(read_contract(compiled).to_json())["pixels_at_once"] == 520 * 520
    image = torch.randn(5, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    expected = load_exported(compiled).logits(image)
    split = load_exported(rewrite(compiled, tmp_path / "split.pt2", changed(pixels_at_once=2 * 40 * 50)))
    assert split.contract.pixels_at_once == 4000
    torch.testing.assert_close(split.logits(image), expected, rtol=1e-5, atol=1e-5)


def test_files_without_pixels_at_once_have_the_default() -> None:
    """Version 0.1 did not write the key."""
    contract = Contract(
        config=ModelConfig("m"),
        card=ModelCard(),
        num_classes=2,
        tolerance=1.0,
        sample_step=1,
        segnets_version="0.1.0",
        torch_version="2.13.0",
        kind="aoti",
        pixels_at_once=7,
    )
    assert Contract.from_json(contract.to_json(), "m.pt2") == contract
    older = {key: value for key, value in json.loads(contract.to_json()).items() if key != "pixels_at_once"}
    assert Contract.from_json(json.dumps(older), "m.pt2").pixels_at_once == 520 * 520


@needs_compiler
def test_images_are_prepared_bit_for_bit(compiled: Path) -> None:
    exported = load_exported(compiled)
    for height, width in ((1, 1), (47, 33), (100, 64), (64, 80)):
        image = random_image(height, width)
        assert torch.equal(exported.preprocess(image), preprocess(image, SMALL))
        mask = exported.segment(image)
        assert (mask.shape, mask.dtype) == ((1, height, width), torch.uint8)
        assert (mask == segment(tiny(), image, SMALL)).float().mean() > 0.99


@needs_compiler
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 32, 64), "a height of 32, but this file was compiled for 33 to 4096"),
        ((1, 3, 64, 5000), "a width of 5000"),
        ((65, 3, 40, 40), "a batch of 65, but this file was compiled for 1 to 64"),
        ((1, 4, 64, 64), "with 4 channels"),
        ((3, 64, 64), "3-D shape"),
    ],
)
def test_sizes_that_the_model_was_not_compiled_for(compiled: Path, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_exported(compiled).logits(torch.zeros(shape))


@needs_compiler
def test_loading_compiles_nothing(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own loader asks the compiler about this CPU first: 15 seconds of work on a new machine."""
    monkeypatch.delattr("torch._inductor.codecache.get_device_information")
    assert load_exported(compiled).logits(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 64, 64)


@needs_compiler
def test_torchs_own_loader_reads_it(compiled: Path) -> None:
    with quick_compiler():
        network = torch._inductor.aoti_load_package(compiled)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 64, 64)


@needs_compiler
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(processor={"platform": "win32", "machine": "AMD64"}), "was compiled for platform win32"),
        (changed(format_version=3), "has version 3, but this segnets reads 1 to 2. Upgrade segnets"),
        (changed(kind="torchscript"), "declares kind 'torchscript', but the file is aoti"),
        (changed(kind="tensorrt"), "kind='tensorrt': expected one of"),
        (changed(bounds={"depth": [1, 2]}), "bounds.depth"),
        (changed(pixels_at_once=0), "pixels_at_once=0: expected at least 1"),
        (changed(dtype="int4"), "dtype='int4': expected one of"),
        (without("segnets.json"), "an archive of torch.export, but has no segnets.json"),
        (without("golden.safetensors"), "has no golden.safetensors"),
        (without("image.ts"), "has no image.ts"),
        (without(".so"), "LibTorch can't load it"),
    ],
)
def test_files_that_were_changed(
    compiled: Path, tmp_path: Path, change: Callable[[str, bytes], bytes | None], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        load_exported(rewrite(compiled, tmp_path / "changed.pt2", change))


@needs_compiler
def test_damaged_files(compiled: Path, tmp_path: Path) -> None:
    data = bytearray(compiled.read_bytes())
    for name, damaged in (
        ("cut", data[: len(data) // 2]),
        ("flipped", data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]),
    ):
        path = tmp_path / f"{name}.pt2"
        path.write_bytes(damaged)
        with pytest.raises(ExportError, match="damaged"):
            load_exported(path)
        with pytest.raises(ExportError, match="damaged"):
            read_contract(path)


def test_another_cpu_is_refused() -> None:
    here = this_cpu()
    check_cpu(here, "m.pt2")
    instructions = here["instructions"]
    assert isinstance(instructions, list)
    if instructions:
        with pytest.raises(ExportError, match=r"m\.pt2: uses instructions that this CPU lacks: avx1024\. Export"):
            check_cpu({**here, "instructions": [*instructions, "avx1024"]}, "m.pt2")
    with pytest.raises(ExportError, match=r"m\.pt2: was compiled for machine z80"):
        check_cpu({**here, "machine": "z80"}, "m.pt2")


def test_refused_options(tmp_path: Path) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"output": "dict"}, "output='dict' needs format='torchscript'"),
        ({"target": "cpu"}, "target='cpu' needs format='torchscript'"),
    ]
    for options, message in refused:
        with pytest.raises(ExportError, match=message):
            export(tiny(), tmp_path / "m.pt2", format="aoti", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_older_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inductor, "CAN_COMPILE", False)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1+cpu"))
    with pytest.raises(ExportError, match=r"format='aoti' needs torch 2\.13 or newer, but this is 2\.9\.1\+cpu"):
        export(tiny(), tmp_path / "m.pt2", format="aoti")


@pytest.mark.full
@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_resnet50", "pspnet_resnet18"])
def test_networks(name: str, dtype: str, tmp_path: Path) -> None:
    model = calm_model(name, num_classes=5)
    assert export(model, tmp_path / "m.pt2", format="aoti", dtype=dtype, preprocessing=SMALL).verification.passed


def test_folders_that_would_fail_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    fields = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")}

    def report(**changed: int) -> None:
        monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(**{**fields, **changed}))

    report(f_flag=os.ST_NOEXEC)
    with pytest.raises(ExportError, match=r"^x: is unpacked in .*/new, where .* \(noexec\)\. Set TMPDIR"):
        check_folder(tmp_path / "new", "x: is unpacked in", 1)
    with pytest.raises(ExportError, match=r"format='aoti': compiles in .* \(noexec\)\. Set TMPDIR"):
        export(tiny(), tmp_path / "m.pt2", preprocessing=SMALL)
    report(f_bavail=1000, f_frsize=4096, f_flag=0)
    with pytest.raises(ExportError, match=r"compiles in .*, which has 4 MB free, but 67 MB are needed"):
        export(tiny(), tmp_path / "m.pt2", preprocessing=SMALL)
    report(f_flag=0)
    check_folder(tmp_path, "x: is unpacked in", 0)
