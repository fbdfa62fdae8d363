"""Models that can't be exported are refused in one line, and an export has no trace of the machine that made it."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import segnets
from segnets import backbones
from segnets.card import ModelCard
from segnets.cli import main
from segnets.deploy import export, load_exported, read_contract, verify
from segnets.deploy._reason import reason_of
from segnets.errors import ExportError, ImageError
from segnets.preprocessing import Preprocessing
from tests.deploy.common import SMALL, random_image, random_model, tiny


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"classes": 5}, "classes=5: expected a list"),
        ({"classes": ["a"] * 4 + ["\ud800"]}, r"classes\[4\]='\\ud800': expected a printable string"),
        ({"palette": [(1, 2)] * 5}, r"palette\[0\]=\(1, 2\): expected three integers"),
        ({"palette": "red"}, "palette='red': expected a list"),
    ],
)
def test_invalid_cards(card: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(random_model(num_classes=5), tmp_path / "m.ts", **card)
    assert list(tmp_path.iterdir()) == []


def test_proofs_of_the_weights_are_dropped_from_the_export(tmp_path: Path) -> None:
    model = tiny()
    model.card = ModelCard(
        preprocessing=SMALL, provenance={"source_sha256": "12ab", "proof": "every tensor byte-equal"}
    )
    export(model, tmp_path / "m.ts", target="portable")
    assert read_contract(tmp_path / "m.ts").card.provenance == {"derived_from": {"source_sha256": "12ab"}}


def test_a_classifier_has_no_mask(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"this ResNet returns a Tensor, .*Export a segmentation model"):
        export(backbones.resnet18(num_classes=3), tmp_path / "m.ts")
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_cannot_be_compared_with_a_file(small: Path) -> None:
    with pytest.raises(ExportError, match=r"this ResNet returns a Tensor, .* has no mask"):
        verify(small, against=backbones.resnet18(num_classes=5))


class NotScriptable(nn.Module):
    """A model that runs in Python only. The compiler's message has many lines of source code."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": next(iter(self.backbone(x).values())) + len({str(i) for i in range(3)} & {"1"})}


@pytest.mark.parametrize("path", ["layer1", "layer1.0"])
def test_torchscript_errors_become_one_line(path: str, tmp_path: Path) -> None:
    getter = backbones.IntermediateLayerGetter(backbones.resnet18(), {path: "out"})
    with pytest.raises(ExportError) as caught:
        export(NotScriptable(getter), tmp_path / "m.ts", target="portable")
    text = str(caught.value)
    assert text.startswith("the model can't be compiled by TorchScript: ")
    assert "\n" not in text
    assert len(text) < 400
    assert str(Path(__file__).parent) not in text
    assert ("return_layers layer1.0 are dotted paths" in text) == (path == "layer1.0")
    assert list(tmp_path.iterdir()) == []


def test_a_reason_is_one_short_line() -> None:
    assert reason_of(RuntimeError("\n  first \n/home/me/second")) == "first"
    assert reason_of(RuntimeError("")) == "RuntimeError"
    assert len(reason_of(RuntimeError("x" * 1000))) == 300


def test_provenance_that_is_not_json(tmp_path: Path) -> None:
    model = tiny(2)
    model.card = ModelCard(preprocessing=SMALL, provenance={"author": "\ud800"})
    with pytest.raises(ExportError, match=r"options or provenance can't be written as JSON: .*surrogates not allowed"):
        export(model, tmp_path / "m.ts", target="portable")
    assert list(tmp_path.iterdir()) == []


def test_another_default_dtype_changes_nothing(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = random_model("fcn_resnet18", num_classes=2, backbone_stages=2, head_channels=8).float()
        export(model, tmp_path / "m.ts", target="portable", preprocessing=SMALL)
    finally:
        torch.set_default_dtype(torch.float32)
    assert verify(tmp_path / "m.ts", against=model).passed


# Each export has its own process, because torch numbers the types of a process. Importing torch once saves seconds.
_EXPORT = """
import os, sys, torch
torch.set_num_threads(1)
torch.manual_seed(0)
path, folder = sys.argv[1:3]
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    path, folder = sys.argv[3:5]
sys.path.insert(0, folder)
import segnets
assert segnets.__file__.startswith(folder)
small = segnets.Preprocessing(resize="fixed", size=(64, 80))
model = segnets.create_model("fcn_resnet18", num_classes=2, backbone_stages=2, head_channels=8)
segnets.export(model, path, target="portable", preprocessing=small)
"""


def test_no_local_paths_and_the_same_bytes_from_another_folder(tmp_path: Path) -> None:
    """The second export runs from a copy of the package in another folder.

    With one PYTHONHASHSEED: TorchScript writes the constants of a module in the order of a Python set.
    """
    package = Path(segnets.__file__).parent
    shutil.copytree(package, tmp_path / "elsewhere" / "segnets")
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    arguments = [tmp_path / "1.ts", package.parent, tmp_path / "2.ts", tmp_path / "elsewhere"]
    subprocess.run([sys.executable, "-c", _EXPORT, *arguments], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "1.ts").read_bytes() == (tmp_path / "2.ts").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.ts") as archive:
        for entry in archive.infolist():
            contents = archive.read(entry)
            for folder in (package.parent, Path(torch.__file__).parent.parent, tmp_path):
                assert str(folder).encode() not in contents, entry.filename
            if "/data/" in entry.filename:
                # Only the entry's own header has the padding, not the directory.
                local = (tmp_path / "1.ts").read_bytes()[entry.header_offset : entry.header_offset + 30]
                start = entry.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
                assert start % 64 == 0, entry.filename


def test_inputs_that_are_not_finite(small: Path) -> None:
    exported = load_exported(small)
    for value in (float("nan"), float("inf"), -float("inf")):
        image = torch.zeros(1, 3, 40, 50)
        image[0, 1, 20, 30] = value
        with pytest.raises(ImageError, match="input: NaN or infinite values; expected finite values"):
            exported.logits(image)
    with pytest.raises(ImageError, match="got the 3-D shape"):
        exported.logits(torch.zeros(3, 40, 50))


def test_invalid_images(small: Path) -> None:
    exported = load_exported(small)
    image = torch.zeros(1, 40, 50, 3, dtype=torch.uint8)
    wrong: list[tuple[Any, str]] = [
        (image.numpy(), "image: expected a torch.Tensor, got ndarray; convert arrays with torch.from_numpy"),
        (image.to("meta"), "image: is on meta, but this file runs on cpu"),
        (image.float(), "got torch.float32; convert with"),
        (image.permute(0, 3, 1, 2), "looks like \\(N, 3, H, W\\)"),
        (image[..., :2], "with 2 channels"),
    ]
    for given, message in wrong:
        for call in (exported.segment, exported.preprocess):
            with pytest.raises(ImageError, match=message):
                call(given)
    with pytest.raises(ImageError, match="input: is on meta"):
        exported.logits(torch.zeros(1, 3, 40, 50, device="meta"))


def test_an_export_does_not_replace_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, link = tmp_path / "w.safetensors", tmp_path / "same"
    segnets.save(random_model(num_classes=5), weights)
    link.symlink_to(tmp_path)
    before = weights.read_bytes()
    for target in (weights, link / weights.name):
        assert main(["export", str(weights), str(target), "--force"]) == 1
        assert "is the weights file itself" in capsys.readouterr().err
    assert weights.read_bytes() == before


@pytest.fixture(scope="module")
def every_format(tiny_translated_once: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Exports of one network with torchvision's preprocessing, and one of images as they are."""
    folder, whole = tmp_path_factory.mktemp("formats"), Preprocessing()
    export(tiny(), folder / "portable.ts", target="portable", preprocessing=whole)
    export(tiny(), folder / "cpu.ts", target="cpu", preprocessing=whole)
    export(tiny(), folder / "network.onnx", format="onnx", preprocessing=whole)
    export(tiny(), folder / "unchanged.ts", preprocessing=Preprocessing(resize="none"))
    return sorted(folder.iterdir())


def test_dtypes_of_the_input(every_format: list[Path]) -> None:
    image = load_exported(every_format[0]).preprocess(random_image(30, 40))[:, :, :40, :50]
    for path in every_format:
        exported = load_exported(path)
        for dtype in (torch.float16, torch.bfloat16):
            assert torch.equal(exported.logits(image.to(dtype)), exported.logits(image.to(dtype).float())), path
        with pytest.raises(
            ImageError, match=r"input: is torch.float64, expected torch.float32; round it with image\.float"
        ):
            exported.logits(image.double())
        with pytest.raises(ImageError, match="got integers"):
            exported.logits(image.long())
        large = torch.full((1, 3, 8, 8), 1e37)  # finite, unlike its sum
        assert exported.logits(large).shape == (1, 5, 8, 8)


def test_every_size_from_one_pixel(every_format: list[Path]) -> None:
    for path in every_format:
        exported = load_exported(path)
        for height, width in ((1, 1), (3, 1), (1, 20)):
            mask = exported.segment(torch.zeros(1, height, width, 3, dtype=torch.uint8))
            assert mask.shape == (1, height, width), path
        strip = torch.zeros(1, 1, 300, 3, dtype=torch.uint8)
        if path.stem == "unchanged":
            assert exported.segment(strip).shape == (1, 1, 300)
            continue
        for call in (exported.segment, exported.preprocess):
            with pytest.raises(ImageError, match=r"^image: 1x300 .* would be 520x156000.* \(--resize none\)$"):
                call(strip)


def test_a_batch_that_exceeds_the_memory(every_format: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A million images that share one image's memory would have ended the process."""
    monkeypatch.setattr("segnets.memory.available_memory", lambda: 8_000_000_000)
    image = torch.zeros(1, 64, 64, 3, dtype=torch.uint8).expand(1_000_000, 64, 64, 3)
    for path in every_format:
        exported = load_exported(path)
        for call in (exported.segment, exported.preprocess):
            with pytest.raises(ImageError, match=r"1000000 images, .* take at least .* GB, but 8.0 GB are free"):
                call(image)
        with pytest.raises(ImageError, match="1000000 images"):
            exported.logits(torch.zeros(1, 3, 64, 64).expand(1_000_000, 3, 64, 64))


@pytest.mark.parametrize(
    "compute",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.random_structured(layer, "weight", amount=2, dim=0),
        pytest.param(torch.nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore::FutureWarning")),
        torch.nn.utils.spectral_norm,
    ],
    ids=["weight_norm", "spectral_norm", "pruned", "pruned channels", "old weight_norm", "old spectral_norm"],
)
def test_weights_that_are_computed_in_every_call(compute: Callable[[nn.Module], object], tmp_path: Path) -> None:
    model = tiny()
    compute(model.get_submodule("backbone.convolution"))
    image = torch.randn(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    expected = model.eval()(image)["out"].detach()
    keys = set(model.state_dict())
    assert export(model, tmp_path / "m.ts", preprocessing=SMALL, target="portable").verification.passed
    assert torch.allclose(load_exported(tmp_path / "m.ts").logits(image), expected, atol=1e-5)
    assert torch.equal(model(image)["out"], expected)
    assert set(model.state_dict()) == keys


def test_a_file_for_onednn_is_not_copied(every_format: list[Path]) -> None:
    portable = load_exported(next(path for path in every_format if path.stem == "portable"))
    image = random_image(20, 30)
    assert torch.equal(copy.deepcopy(portable).segment(image), portable.segment(image))
    exported = load_exported(next(path for path in every_format if path.stem == "cpu"))
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ExportError, match=r"cpu\.ts: a loaded file of target 'cpu' can't be copied or pickled"):
            act(exported)
