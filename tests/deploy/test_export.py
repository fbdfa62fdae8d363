"""Every model exports, and its file computes the same as the plain model."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segnets.card import ModelCard
from segnets.deploy import _export as api
from segnets.deploy import export, load_exported, read_contract, verify
from segnets.deploy._load import Exported
from segnets.deploy.check.tolerance import TOLERANCE_CEILINGS, ToleranceEstimator, relative_difference
from segnets.errors import ExportError, OutputError
from segnets.preprocessing import Preprocess, Preprocessing
from segnets.segmenter import segment
from tests.deploy.common import SMALL, random_image, random_model, simplified, tiny
from tests.oracle import NAMES
from tests.output_paths import LINK, REFUSED
from tests.tiers import full_but
from tests.typed import part


@pytest.mark.parametrize("name", full_but(["lraspp_mobilenet_v3_large"], NAMES))
def test_every_model_exports_and_agrees(name: str, tmp_path: Path) -> None:
    options = {} if name.startswith("lraspp") else {"aux_loss": True}
    model = random_model(name, num_classes=7, **options)
    report = export(model, tmp_path / "m.ts", preprocessing=SMALL, target="portable")
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert report.folded_batch_norms == norms - bool(options)  # the auxiliary head has one, and is dropped
    assert report.dropped_aux_classifier == bool(options)
    assert report.verification.passed
    assert len(report.verification.comparisons) == 3
    assert all(c.difference <= c.tolerance < TOLERANCE_CEILINGS["float32"] for c in report.verification.comparisons)
    assert "passed" in str(report)
    assert [p.name for p in tmp_path.iterdir()] == ["m.ts"]


def test_the_file_gives_the_mask_of_the_plain_model(small: Path) -> None:
    """Folded batch norms round differently, so the mask may differ where two logits are closer than this difference."""
    model = random_model(num_classes=5)
    exported = load_exported(small)
    sizes = [(64, 80), (33, 130), (1, 1), (1, 300), (97, 65)]
    batch = torch.cat([random_image(40, 50, seed) for seed in (1, 2)])
    for images in [*(random_image(height, width) for height, width in sizes), batch]:
        inputs = Preprocess(SMALL)(images)
        with torch.inference_mode():
            logits = model(inputs)["out"]
        difference = (exported.logits(inputs) - logits).abs().max()
        assert difference < 1e-3 * logits.abs().max()
        at_image = nn.functional.interpolate(logits, images.shape[1:3], mode="bilinear", align_corners=False)
        first, second = at_image.topk(2, dim=1).values.unbind(1)
        clear = first - second > 2 * difference
        assert clear.float().mean() > 0.99
        assert torch.equal(exported.segment(images)[clear], segment(model, images, SMALL)[clear])


def test_running_twice_gives_the_same_bits(small: Path) -> None:
    exported = load_exported(small)
    image = torch.randn(1, 3, 65, 97)
    first = exported.logits(image)
    assert all(torch.equal(exported.logits(image), first) for _ in range(3))


def test_the_contract_describes_the_file(small: Path) -> None:
    contract = read_contract(small)
    assert contract.card.classes == ("background", "cat", "dög", "tree", "sky")
    assert contract.card.palette[4] == (255, 255, 0)
    assert contract.card.preprocessing == SMALL
    assert contract.config.name == "lraspp_mobilenet_v3_large"
    assert contract.config.options["num_classes"] == 5
    assert contract.card.provenance == {"licence": "BSD-3-Clause"}
    assert contract.torch_version == torch.__version__
    with zipfile.ZipFile(small) as archive:
        names = {Path(name).name for name in archive.namelist() if "/extra/" in name}
        text = next(archive.read(name) for name in archive.namelist() if name.endswith("extra/segnets.json"))
    assert names == {"segnets.json", "golden.safetensors"}
    assert list(json.loads(text)) == sorted(json.loads(text))


@pytest.mark.full
def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """A traced file is the same from a new process only (test_inputs.py): torch numbers the types of a process."""
    model = random_model("lraspp_mobilenet_v3_small", num_classes=3)
    for name in ("a.ts", "b.ts"):
        export(model, tmp_path / name, preprocessing=SMALL, target="cpu")
    assert (tmp_path / "a.ts").read_bytes() == (tmp_path / "b.ts").read_bytes()


def test_a_model_in_training_mode_is_exported_in_eval_mode_and_not_changed(tmp_path: Path) -> None:
    model = random_model("fcn_mobilenet_v3_small", num_classes=3, aux_loss=True).train()
    before = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "m.ts", preprocessing=SMALL, target="portable")
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    exported = load_exported(tmp_path / "m.ts")
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(exported.logits(image), exported.logits(image))  # no dropout
    assert torch.equal(exported.segment(random_image(30, 40)), segment(model.eval(), random_image(30, 40), SMALL))


def test_folding_error_is_comparable_to_float32_rounding() -> None:
    plain_error, folded_error = 0.0, 0.0
    for seed in range(2):
        model = random_model("deeplabv3_mobilenet_v3_large", seed, num_classes=7)
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        exact = ToleranceEstimator(model, "float32").exact(image)
        with torch.inference_mode():
            plain, folded = model(image)["out"], simplified(model)(image)["out"]
        assert not torch.equal(folded, plain)
        plain_error += relative_difference(plain, exact)
        folded_error += relative_difference(folded, exact)
    assert folded_error < 2 * plain_error


def test_output_dict(tmp_path: Path) -> None:
    model = random_model("fcn_mobilenet_v3_small", num_classes=3, aux_loss=True)
    export(model, tmp_path / "m.ts", output="dict", preprocessing=SMALL, target="portable")
    exported = load_exported(tmp_path / "m.ts")
    image = torch.randn(1, 3, 40, 50)
    assert list(exported.module(image)) == ["out"]
    assert exported.logits(image).shape == (1, 3, 40, 50)
    assert verify(tmp_path / "m.ts", against=model).passed


def test_many_classes_give_an_int16_mask(tmp_path: Path) -> None:
    export(tiny(300), tmp_path / "m.ts", preprocessing=SMALL, target="portable")
    mask = load_exported(tmp_path / "m.ts").segment(random_image(20, 30))
    assert mask.dtype == torch.int16
    assert mask.shape == (1, 20, 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tensorrt"}, "format='tensorrt': expected one of 'torchscript'"),
        ({"dtype": "float8"}, "dtype='float8': expected one of 'float32'"),
        ({"device": "tpu"}, "device='tpu': expected one of 'cpu', 'cuda'"),
        ({"output": "list"}, "output='list': expected one of 'tensor', 'dict'"),
        ({"classes": ["a", "b"]}, "classes: 2 names for a model with 5 classes"),
        ({"palette": [(0, 0, 0)]}, "palette: 1 colours for a model with 5 classes"),
        ({"palette": [(0, 0, 256)] * 5}, "expected three integers 0..255"),
        ({"preprocessing": "none"}, "preprocessing='none': expected a segnets"),
        ({"minimum_agreement": "0.5"}, "minimum_agreement='0.5': expected a share"),
        ({"classes": [1, 2, 3, 4, 5]}, r"classes\[0\]=1: expected a printable string"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(random_model(num_classes=5), tmp_path / "m.ts", **{"preprocessing": SMALL, **arguments})
    assert list(tmp_path.iterdir()) == []


class Wrapper(nn.Module):
    """A model of one convolution that was not made by a builder."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.tail = tail
        self.config = None
        self.card = ModelCard(preprocessing=Preprocessing(resize="none"))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.tail(self.convolution(x))}


class AlwaysDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class SometimesRandom(nn.Module):
    """A layer that draws numbers in one branch only."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[0] < 65 else x + torch.rand_like(x)


class Untypable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + len({str(i) for i in range(3)} & set(map(str, [1])))


class Shared(nn.Module):
    """A convolution whose output a batch norm and an addition read. Folding it would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        result: Tensor = y + 3 * self.norm(y)
        return result


def test_a_model_without_a_builder_is_exported(tmp_path: Path) -> None:
    report = export(Wrapper(nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5))), tmp_path / "m.ts")
    assert (report.folded_batch_norms, report.removed_dropouts) == (1, 1)
    assert report.verification.contract.config.name == "Wrapper"


def test_networks_that_cannot_be_exported_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(ExportError, match="draws random numbers in eval mode: aten::dropout"):
        export(Wrapper(AlwaysDropout()), tmp_path / "m.ts")
    with pytest.raises(ExportError, match="draws random numbers in eval mode: aten::rand_like"):
        export(Wrapper(SometimesRandom()), tmp_path / "m.ts")
    with pytest.raises(ExportError, match="can't be compiled by TorchScript"):
        export(Wrapper(Untypable()), tmp_path / "m.ts")
    shared = Wrapper(Shared())
    part(shared, "tail.norm.running_mean").fill_(2.0)
    with pytest.raises(ExportError, match="disagrees with the model, so it was not kept"):
        export(shared, tmp_path / "m.ts")
    broken = Wrapper(nn.Identity())
    with torch.no_grad():
        broken.convolution.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match="not finite"):
        export(broken, tmp_path / "m.ts")
    for unfinished in (Wrapper(nn.Identity()).to("meta"), Wrapper(nn.LazyConv2d(4, 1))):
        with pytest.raises(ExportError, match="this Wrapper can't be copied to the CPU in float32"):
            export(unfinished, tmp_path / "m.ts")
    with pytest.raises(ExportError, match=r"doesn't run on a float32 \(1, 3, 64, 64\) input"):
        export(Wrapper(nn.Linear(5, 5)), tmp_path / "m.ts")
    with pytest.raises(ExportError, match=r"expected a torch\.nn\.Module, got str"):
        export("model", tmp_path / "m.ts")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.ts"
    target.write_bytes(b"the old file")
    logits = Exported.logits
    monkeypatch.setattr(Exported, "logits", lambda self, image: logits(self, image) * 1.01)
    with pytest.raises(ExportError, match="disagrees with the model"):
        export(tiny(), target, preprocessing=SMALL, target="portable")
    assert target.read_bytes() == b"the old file"
    assert [p.name for p in tmp_path.iterdir()] == ["m.ts"]


def test_output_path_is_checked(tmp_path: Path) -> None:
    model = random_model(num_classes=3)
    REFUSED["link"][0](tmp_path / "link")
    with pytest.raises(OutputError, match=LINK):
        export(model, tmp_path / "link", preprocessing=SMALL)
    (tmp_path / "old.ts").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        export(model, tmp_path / "old.ts", preprocessing=SMALL, overwrite=False)
    assert (tmp_path / "old.ts").read_bytes() == b"old"


def test_verify_finds_another_model(small: Path) -> None:
    assert verify(small).passed
    assert verify(small, against=random_model(num_classes=5)).passed
    report = verify(small, against=random_model(num_classes=5, seed=1))
    assert not report.passed
    assert report.golden.passed
    assert "FAILED" in str(report)
    with pytest.raises(ExportError, match=r"the file returns logits \(1, 5, 64, 64\), but the model \(1, 6, 64, 64\)"):
        verify(small, against=random_model(num_classes=6))


@pytest.mark.parametrize("target", full_but(["portable"], ["portable", "cpu"]))
def test_export_and_verify_emit_no_warnings(target: str, tmp_path: Path) -> None:
    program = (
        "import sys, torch; from segnets.registry import find_builder; from segnets.deploy import export, verify\n"
        "from segnets.preprocessing import Preprocessing\n"
        "m = find_builder('fcn_resnet18')(num_classes=3, backbone_stages=2, head_channels=8)\n"
        "small = Preprocessing(resize='fixed', size=(32, 32))\n"
        f"export(m, {str(tmp_path / 'm.ts')!r}, target={target!r}, preprocessing=small)\n"
        f"assert verify({str(tmp_path / 'm.ts')!r}, against=m).passed\n"
        "assert 'torchvision' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_export_works_inside_inference_mode(tmp_path: Path) -> None:
    with torch.inference_mode():
        report = export(tiny(), tmp_path / "m.ts", preprocessing=SMALL, target="portable")
    assert report.folded_batch_norms == 1


def test_the_written_version_is_a_string() -> None:
    assert isinstance(api._version(), str)
