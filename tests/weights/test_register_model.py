"""`register_model`: networks from outside segnets, in this process and in others."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import segnets
from segnets.backbones import resnet18
from segnets.builders import Builder
from segnets.cli import main
from segnets.heads import FCN, HeadSpec
from segnets.registry import MODELS
from tests.blocks import blocks_of
from tests.typed import options_of, part

# A user's module, which registers a network when it is imported.
MODULE = """
from torch import nn

import segnets
from segnets.backbones import resnet18
from segnets.builders import Builder
from segnets.heads import HeadSpec


class LinearHead(nn.Sequential):
    last_layers = ("0",)

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(nn.Conv2d(in_channels, num_classes, 1))


LINEAR = HeadSpec(
    name="linear",
    title="A linear classifier of every pixel, https://arxiv.org/abs/1411.4038",
    variants=("plain",),
    defaults=lambda variant, head_input: {},
    build=lambda num_classes, head_input, options, norm_layer: LinearHead(head_input.channels, num_classes),
)
segnets.register_model("linear", Builder(LINEAR, resnet18))
"""


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Unregister the networks of a test afterwards."""
    before = dict(MODELS)
    yield
    MODELS.clear()
    MODELS.update(before)


@pytest.fixture
def linear() -> HeadSpec:
    namespace: dict[str, Any] = {}
    exec(MODULE, namespace)
    head: HeadSpec = namespace["LINEAR"]
    return head


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", script]
    environment = {"PYTHONPATH": f"{Path(segnets.__file__).parents[1]}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_registered_network_is_built_and_listed_by_its_name(linear: HeadSpec) -> None:
    assert "linear" in segnets.list_models()
    assert segnets.list_models("lin*") == ["linear"]
    model = segnets.create_model("linear", num_classes=3, output_stride=16, aux_loss=True)
    assert model.config is not None
    assert model.config.name == "linear"
    assert model.config.options["output_stride"] == 16
    assert isinstance(part(model, "classifier.0"), nn.Conv2d)
    with pytest.raises(ValueError, match=r"atrous_rates=.* would have no effect in this linear: the option needs ASPP"):
        segnets.create_model("linear", atrous_rates=(1, 2))
    assert segnets.cost("linear", 64, 64).output_stride == 8


def test_a_known_head_and_backbone_with_other_numbers() -> None:
    segnets.register_model("thin_fcn", Builder(FCN, resnet18, {"head_channels": 32}))
    model = segnets.create_model("thin_fcn", num_classes=2)
    assert model.config is not None
    assert (model.config.name, model.config.options["head_channels"]) == ("thin_fcn", 32)
    assert options_of(segnets.create_model("fcn_resnet18"))["head_channels"] == 128


def test_weights_of_a_registered_network(linear: HeadSpec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = segnets.create_model("linear", num_classes=3).eval()
    segnets.save(model, tmp_path / "w.safetensors", classes=["a", "b", "c"])
    x = torch.randn(1, 3, 33, 40)
    with torch.inference_mode():
        expected = model(x)["out"]
        for loaded in (
            segnets.load(tmp_path / "w.safetensors"),
            segnets.create_model("linear", weights=tmp_path / "w.safetensors").eval(),
        ):
            assert loaded.config == model.config
            assert torch.equal(loaded(x)["out"], expected)
    backbone = resnet18(num_classes=0)
    segnets.save(backbone, tmp_path / "backbone.safetensors")
    other = segnets.create_model("linear", weights_backbone=tmp_path / "backbone.safetensors")
    assert torch.equal(part(other, "backbone.conv1.weight"), part(backbone, "conv1.weight"))


def test_loading_an_unregistered_network_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    made = run(
        tmp_path,
        "import torch, segnets, mine\n"
        "torch.manual_seed(0)\n"
        "model = segnets.create_model('linear', num_classes=3, backbone_stages=2)\n"
        "segnets.save(model, 'w.safetensors', preprocessing=segnets.Preprocessing())\n"
        "small = segnets.Preprocessing(resize='fixed', size=(64, 80))\n"
        "segnets.export(model, 'model.ts', target='portable', preprocessing=small)\n"
        "print(segnets.load('w.safetensors').config.name)\n",
    )
    assert (made.returncode, made.stdout) == (0, "linear\n"), made.stderr

    # This process doesn't import the module that registers the network.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(segnets.WeightsError) as refused:
        segnets.load("w.safetensors")
    assert str(refused.value) == (
        "w.safetensors: network 'linear' is not registered. Import the module that registers it with "
        "segnets.register_model, or update segnets."
    )
    assert main(["export", "w.safetensors", "other.ts"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "network 'linear' is not registered" in err
    assert main(["info", "w.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert "linear" in out
    assert err == ""
    segnets.load_exported("model.ts")
    assert segnets.verify("model.ts").passed


@pytest.mark.filterwarnings("error")
def test_the_heads_of_the_page_about_adding_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's code runs, and the pyramid adds its four feature maps as it says."""
    page = (Path(segnets.__file__).parents[1] / "docs" / "adding_a_model.md").read_text()
    codes = [code for language, code in blocks_of(page) if language == "python"]
    assert len(codes) == 2
    monkeypatch.chdir(tmp_path)
    for i, code in enumerate(codes):
        path = tmp_path / f"page_{i}.py"  # TorchScript reads the code from its file
        path.write_text(code)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
    model = module.model
    x = torch.randn(1, 3, 33, 50)
    with torch.inference_mode():
        features = model.backbone(x)
        assert {name: each.shape[1] for name, each in features.items()} == {"4": 64, "8": 128, "16": 256, "out": 512}
        added: Any = 0
        for name in ("out", "16", "8", "4"):
            lateral = model.classifier.lateral[name](features[name])
            if name != "out":
                added = nn.functional.interpolate(added, lateral.shape[2:], mode="bilinear")
            added = lateral + added
        expected = nn.functional.interpolate(model.classifier.classify(added), (33, 50), mode="bilinear")
        assert torch.allclose(model(x)["out"], expected, atol=1e-6)


def test_saving_needs_the_registration_too(linear: HeadSpec, tmp_path: Path) -> None:
    model = segnets.create_model("linear", num_classes=3)
    del MODELS["linear"]
    with pytest.raises(segnets.WeightsError, match="network 'linear' is not registered"):
        segnets.save(model, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("fcn_resnet50", ValueError, "name='fcn_resnet50': a network with this name is already registered. Choose"),
        ("resnet18", ValueError, "name='resnet18': a network with this name is already registered"),
        ("", ValueError, "name='': expected a letter followed by letters"),
        ("../x", ValueError, "name='../x': expected a letter"),
        ("a b", ValueError, "name='a b': expected a letter"),
        ("a\n", ValueError, r"name='a\\n': expected a letter"),
        ("x" * 81, ValueError, "80 characters at most"),
        (None, ValueError, "name=None: expected a letter"),
    ],
)
def test_names_that_are_refused(name: Any, error: type[Exception], message: str) -> None:
    before = dict(MODELS)
    with pytest.raises(error, match=message):
        segnets.register_model(name, Builder(FCN, resnet18))
    assert before == MODELS


def test_a_function_is_not_a_builder() -> None:
    with pytest.raises(TypeError, match=r"builder of 'mine': expected a segnets\.builders\.Builder .*, got function"):
        segnets.register_model("mine", lambda: nn.Identity())  # type: ignore[arg-type]


def test_a_name_is_registered_once(linear: HeadSpec) -> None:
    with pytest.raises(ValueError, match="name='linear': a network with this name is already registered"):
        segnets.register_model("linear", Builder(linear, resnet18))


def test_published_defaults_are_checked_when_the_builder_is_made() -> None:
    with pytest.raises(TypeError, match="unknown option 'head_chanels'"):
        Builder(FCN, resnet18, {"head_chanels": 32})
    with pytest.raises(ValueError, match="head_channels='32': expected an integer"):
        Builder(FCN, resnet18, {"head_channels": "32"})
