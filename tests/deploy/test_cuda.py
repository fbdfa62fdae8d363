"""Exports for CUDA, run on the CPU everywhere and on a GPU if there is one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from segnets.deploy import export, load_exported
from segnets.deploy.check.reference import evaluation_copy
from segnets.deploy.check.tolerance import compare
from segnets.deploy.formats import _script as torchscript
from segnets.deploy.formats.torchscript_cuda import compile_segmenter
from segnets.deploy.passes import pipeline
from segnets.deploy.passes.context import Context
from segnets.errors import ExportError
from segnets.preprocessing import preprocess
from segnets.segmenter import Segmenter, segment
from tests.deploy.common import SMALL, calm_model, changed, random_image, rewrite
from tests.tiers import full_but

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA finds no GPU")


NETWORKS = ("lraspp_mobilenet_v3_large", "fcn_resnet18", "deeplabv3_resnet50")
EVERYDAY = [(NETWORKS[0], "float16"), (NETWORKS[1], "bfloat16")]


@pytest.mark.parametrize(
    ("name", "dtype"), full_but(EVERYDAY, [(name, dtype) for name in NETWORKS for dtype in ("float16", "bfloat16")])
)
def test_the_program_agrees_with_the_model(name: str, dtype: str) -> None:
    model = calm_model(name, num_classes=5)
    network = pipeline.rewrite(model, Context("torchscript", "cuda", getattr(torch, dtype))).network
    compiled = compile_segmenter(Segmenter(network, SMALL))
    loaded = torchscript.from_file(io.BytesIO(torchscript.to_bytes(compiled, {})))
    with torch.inference_mode():
        results = compare(loaded, evaluation_copy(model), dtype)
        assert all(each.passed for each in results)
        assert max(each.difference for each in results) > 1e-4, "it computes in half precision"
        image = random_image(50, 70)
        assert torch.equal(loaded.preprocess(image), preprocess(image, SMALL))
        assert (loaded.segment(image) == segment(model.eval(), image, SMALL)).float().mean() > 0.95


def test_refused_without_a_gpu(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ExportError, match=r"export: device='cuda' needs a GPU, .* device='cpu' runs everywhere"):
        export(calm_model(), tmp_path / "m.ts", device="cuda", dtype="float16")
    assert list(tmp_path.iterdir()) == []
    elsewhere = rewrite(small, tmp_path / "m.ts", changed(device="cuda"))
    with pytest.raises(ExportError, match=r"m\.ts: needs a GPU, but CUDA finds none"):
        load_exported(elsewhere)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "dtype='float32': device='cuda' takes 'float16' or 'bfloat16'"),
        ({"device": "cuda", "dtype": "float16", "target": "cpu"}, "target='cpu' is for CPUs"),
        ({"device": "cuda", "format": "aoti"}, "device='cuda' needs format='torchscript'"),
        ({"dtype": "float16", "target": "portable"}, "needs target='cpu'"),
        ({"dtype": "float16", "target": "cpu"}, "dtype='float16' needs device='cuda'"),
        ({"dtype": "float16", "format": "aoti"}, "dtype='float16' needs format='torchscript', device='cuda'"),
        ({"dtype": "float16", "format": "onnx"}, "dtype='float16': format='onnx' takes"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(calm_model(), tmp_path / "m", **{"format": "torchscript", **options})
    assert list(tmp_path.iterdir()) == []


@needs_gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet18", "lraspp_mobilenet_v3_large"])
def test_on_a_gpu(name: str, dtype: str, tmp_path: Path) -> None:
    model = calm_model(name, num_classes=5)
    report = export(model, tmp_path / "m.ts", device="cuda", dtype=dtype, preprocessing=SMALL)
    assert report.verification.passed
    exported = load_exported(tmp_path / "m.ts")
    image = random_image(50, 70)
    on_the_gpu = exported.segment(image.cuda())
    assert on_the_gpu.is_cuda
    assert (on_the_gpu.cpu() == exported.segment(image)).float().mean() > 0.99
