"""`save` of networks that were changed after they were built: expressed as options, or refused with the reason."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import prune

import segnets
from segnets import backbones
from tests.oracle import randomised
from tests.typed import card_of, options_of


def _network(name: str = "fcn_resnet18", **options: Any) -> segnets.SegmentationModel:
    torch.manual_seed(0)
    return randomised(segnets.create_model, name, **{"num_classes": 4, **options}).eval()


def _outputs(network: nn.Module, channels: int = 3) -> Any:
    with torch.inference_mode():
        return network.eval()(torch.randn((1, channels, 40, 56), generator=torch.Generator().manual_seed(1)))


def _replace_heads(network: Any) -> None:
    network.classifier[4] = nn.Conv2d(128, 7, 1)
    network.aux_classifier[4] = nn.Conv2d(64, 7, 1)


def _replace_lraspp(network: Any) -> None:
    network.classifier.low_classifier = nn.Conv2d(40, 7, 1)
    network.classifier.high_classifier = nn.Conv2d(128, 7, 1)


def _drop_aux(network: Any) -> None:
    network.aux_classifier = None


def _four_channels(network: Any) -> None:
    network.backbone.conv1 = nn.Conv2d(4, 64, 7, 2, 3, bias=False)


def _add_aux(network: Any) -> None:
    network.aux_classifier = segnets.create_model("fcn_resnet18", num_classes=4, aux_loss=True).aux_classifier
    network.backbone.return_layers["layer3"] = "aux"


@pytest.mark.parametrize(
    ("name", "options", "change", "said"),
    [
        ("fcn_resnet18", {"aux_loss": True}, _replace_heads, "num_classes=7 (built with 4)"),
        ("lraspp_mobilenet_v3_large", {}, _replace_lraspp, "num_classes=7 (built with 4)"),
        ("fcn_resnet18", {"aux_loss": True}, _drop_aux, "aux_loss=False (built with True)"),
        ("fcn_resnet18", {}, _add_aux, "aux_loss=True (built with False)"),
        ("fcn_resnet18", {}, _four_channels, "in_channels=4 (built with 3)"),
    ],
)
def test_what_options_can_describe_is_saved(
    tmp_path: Path, name: str, options: dict[str, Any], change: Callable[[Any], None], said: str
) -> None:
    network = _network(name, **options)
    change(network)
    channels = 4 if change is _four_channels else 3
    preprocessing = segnets.Preprocessing(mean=(0.5,) * channels, std=(0.2,) * channels)
    with pytest.warns(UserWarning, match="changed since it was built; saved with") as caught:
        segnets.save(network, tmp_path / "w.safetensors", preprocessing=preprocessing)
    assert [str(each.message).partition("saved with ")[2] for each in caught] == [said]
    loaded = segnets.load(tmp_path / "w.safetensors")
    assert f"{said.split('=')[0]}={options_of(loaded)[said.split('=')[0]]}" == said.split()[0]
    expected, got = _outputs(network, channels), _outputs(loaded, channels)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    fresh = segnets.create_model(name, **{**options, "num_classes": 4, said.split("=")[0]: None})
    assert loaded.config == segnets.create_model(name, **options_of(loaded)).config
    assert options_of(loaded).keys() == options_of(fresh).keys()


@pytest.mark.parametrize(("head", "num_classes"), [(nn.Linear(512, 9), 9), (nn.Identity(), 0)])
def test_a_replaced_layer_of_a_classifier(tmp_path: Path, head: nn.Module, num_classes: int) -> None:
    network: Any = backbones.resnet18(num_classes=5)
    network.fc = head
    with pytest.warns(UserWarning, match=rf"num_classes={num_classes} \(built with 5\)"):
        segnets.save(network, tmp_path / "w.safetensors")
    loaded = segnets.load(tmp_path / "w.safetensors")
    assert options_of(loaded) == {"num_classes": num_classes}
    assert torch.equal(_outputs(loaded), _outputs(network))


def test_a_new_head_has_no_old_class_names(tmp_path: Path) -> None:
    network: Any = _network(backbone_stages=2)
    network.card = segnets.ModelCard(classes=("a", "b", "c", "d"), preprocessing=segnets.Preprocessing(resize="none"))
    network.classifier[4] = nn.Conv2d(32, 2, 1)
    with pytest.warns(UserWarning, match="num_classes=2"):
        segnets.save(network, tmp_path / "w.safetensors")
    card = card_of(segnets.load(tmp_path / "w.safetensors"))
    assert (card.classes, card.preprocessing.resize) == ((), "none")
    with pytest.warns(UserWarning, match="num_classes=2"):
        segnets.save(network, tmp_path / "w.safetensors", classes=["no", "yes"])
    assert card_of(segnets.load(tmp_path / "w.safetensors")).classes == ("no", "yes")


def _every(network: nn.Module, kind: type[nn.Module], change: Callable[[Any], None]) -> None:
    for module in network.modules():
        if isinstance(module, kind):
            change(module)


def _swap(network: nn.Module, kind: type[nn.Module], new: Callable[[], nn.Module]) -> None:
    for name, module in list(network.named_modules()):
        if isinstance(module, kind):
            network.set_submodule(name, new())


def _dilate(network: Any) -> None:
    conv = network.classifier[0].convs[3][0]
    conv.dilation = conv.padding = (30, 30)


def _wrap_forward(network: Any) -> None:
    def doubled(self: Any, x: Tensor) -> dict[str, Tensor]:
        return {name: 2 * logits for name, logits in type(self).forward(self, x).items()}

    network.forward = MethodType(doubled, network)


def _no_bias(network: Any) -> None:
    network.classifier[4] = nn.Conv2d(128, 4, 1, bias=False)


def _other_aux(network: Any) -> None:
    network.classifier[4] = nn.Conv2d(128, 7, 1)


def _dilate_columns(layer: Any) -> None:
    layer.dilation = layer.padding = (12, 36)


CHANGES: dict[str, tuple[str, dict[str, Any], Callable[[Any], object], str]] = {
    "activation": (
        "fcn_resnet18",
        {},
        lambda m: _swap(m, nn.ReLU, nn.ReLU6),
        r"has ReLU6 instead of ReLU in backbone\.relu and 9 more layers \(on a small image 'out' differs by",
    ),
    "eps": (
        "fcn_resnet18",
        {},
        lambda m: _every(m, nn.BatchNorm2d, lambda norm: setattr(norm, "eps", 2e-5)),
        r"has eps=2e-05 instead of 1e-05 in backbone\.bn1 and 20 more layers",
    ),
    "stride": (
        "fcn_resnet18",
        {},
        lambda m: setattr(m.backbone, "maxpool", nn.MaxPool2d(3, 1, 1)),
        r"has stride=1 instead of 2 in backbone\.maxpool",
    ),
    "rounding of a pooling": (
        "fcn_resnet18",
        {"backbone_stages": 2},
        lambda m: setattr(m.backbone.maxpool, "ceil_mode", True),
        r"has ceil_mode=True instead of False in backbone\.maxpool",
    ),
    "dilation beyond a small feature map": (
        "deeplabv3_resnet18",
        {},
        _dilate,
        r"dilation=\(30, 30\) instead of \(36, 36\) in classifier\.0\.convs\.3\.0",
    ),
    "dilation along the columns, beyond the height of a small image": (
        "deeplabv3_resnet18",
        {"backbone_stages": 2},
        lambda m: _dilate_columns(m.classifier[0].convs[3][0]),
        r"dilation=\(12, 36\) instead of \(36, 36\) in classifier\.0\.convs\.3\.0 \(a small image does not show it\)",
    ),
    "align_corners": (
        "fcn_resnet18",
        {},
        lambda m: setattr(m, "align_corners", True),
        "has align_corners=True instead of False in the network itself",
    ),
    "hook": (
        "fcn_resnet18",
        {},
        lambda m: m.classifier.register_forward_hook(_clip),
        r"has the forward hook _clip in classifier \(",
    ),
    "forward": ("fcn_resnet18", {}, _wrap_forward, "has a different forward in the network itself"),
    "an added layer": (
        "fcn_resnet18",
        {},
        lambda m: m.classifier.append(nn.Tanh()),
        r"has an added Tanh in classifier\.5 \(",
    ),
    "bias": ("fcn_resnet18", {}, _no_bias, r"classifier\.4\.bias missing instead of \(4,\)\. Options can describe"),
    "heads that differ": (
        "fcn_resnet18",
        {"aux_loss": True},
        _other_aux,
        r"classifier\.4 has 7 classes and aux_classifier\.4 has 4 classes: replace them together, or set "
        r"model\.aux_classifier = None",
    ),
    "parametrization": (
        "fcn_resnet18",
        {},
        lambda m: nn.utils.parametrizations.weight_norm(m.classifier[4]),
        "call torch.nn.utils.parametrize.remove_parametrizations first",
    ),
    "pruning": (
        "fcn_resnet18",
        {},
        lambda m: prune.l1_unstructured(m.classifier[4], "weight", 0.3),
        "call torch.nn.utils.prune.remove on each pruned layer first",
    ),
}


def _clip(_module: nn.Module, _args: object, logits: Tensor) -> Tensor:
    return logits.clamp(-0.01, 0.01)


@pytest.mark.parametrize("what", CHANGES)
def test_what_no_option_describes_is_refused(tmp_path: Path, what: str) -> None:
    name, options, change, message = CHANGES[what]
    network = _network(name, **options)
    change(network)
    with pytest.raises(segnets.WeightsError, match=rf"(?s)^{tmp_path}/w\.safetensors: not written\. .*{message}"):
        segnets.save(network, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def _look(_module: nn.Module, _args: object, output: Tensor) -> None:
    _SEEN.append(tuple(output.shape))


_SEEN: list[tuple[int, ...]] = []


@pytest.mark.parametrize("mode", [False, True])
def test_what_changes_no_result_is_saved(tmp_path: Path, mode: bool) -> None:
    network: Any = _network().train(mode)
    network.backbone.maxpool = nn.MaxPool2d((3, 3), (2, 2), (1, 1))
    network.freeze_backbone()
    network.backbone.layer1.train()  # a mixture of modes
    network.classifier.register_forward_hook(_look)
    _every(network, nn.Dropout, lambda dropout: setattr(dropout, "p", 0.7))
    _every(network, nn.BatchNorm2d, lambda norm: setattr(norm, "momentum", 0.01))
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    modes = [module.training for module in network.modules()]
    random = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segnets.save(network, tmp_path / "w.safetensors", preprocessing=segnets.Preprocessing())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert _SEEN.pop(), "the hook saw an output"
    assert torch.equal(_outputs(segnets.load(tmp_path / "w.safetensors"))["out"], _outputs(network)["out"])


def test_the_callers_state_changes_nothing(tmp_path: Path) -> None:
    network = _network("lraspp_mobilenet_v3_small")
    kept: list[Tensor] = []
    network.classifier.register_forward_hook(lambda _module, _args, output: kept.append(output))
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
        segnets.save(network, tmp_path / "w.safetensors", preprocessing=segnets.Preprocessing())
    assert [(each.dtype, each.device.type) for each in kept] == [(torch.float32, "cpu")]
    assert not any(each.is_inference() or each.requires_grad for each in kept), "a hook can use what it keeps"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_a_changed_eps_shows_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    """8-bit floats have no kernels, so only settings are compared."""
    network = _network(backbone_stages=2).to(dtype)
    segnets.save(network, tmp_path / "w.safetensors")
    _every(network, nn.BatchNorm2d, lambda norm: setattr(norm, "eps", 0.1))
    with pytest.raises(segnets.WeightsError, match=r"eps=0\.1 instead of 1e-05"):
        segnets.save(network, tmp_path / "w.safetensors")


def test_an_export_of_a_changed_network_names_no_builder(tmp_path: Path) -> None:
    network: Any = _network(backbone_stages=2)
    network.classifier[4] = nn.Conv2d(32, 2, 1)
    report = segnets.export(network, tmp_path / "new_head.ts")
    assert report.verification.passed
    contract = segnets.load_exported(tmp_path / "new_head.ts").contract
    assert (contract.num_classes, contract.config.options["num_classes"]) == (2, 2)
    assert contract.config.name == "fcn_resnet18"

    _swap(network, nn.ReLU, nn.SiLU)
    with pytest.warns(UserWarning, match=r"records no builder: This model has SiLU instead of ReLU in backbone\.relu"):
        report = segnets.export(network, tmp_path / "silu.ts")
    assert report.verification.passed
    assert "another network" not in str(report), "it was compared with the changed network itself"
    contract = segnets.load_exported(tmp_path / "silu.ts").contract
    assert (contract.config.name, contract.config.options) == ("SegmentationModel", {})
    assert contract.card.provenance["changed_from"] == "fcn_resnet18"


def test_the_written_options_are_those_of_the_network(tmp_path: Path) -> None:
    network: Any = _network(backbone_stages=2)
    network.classifier[4] = nn.Conv2d(32, 2, 1)
    with pytest.warns(UserWarning, match="num_classes=2"):
        segnets.save(network, tmp_path / "w.safetensors")
    built = segnets.create_model("fcn_resnet18", num_classes=2, backbone_stages=2)
    built.load_state_dict(network.state_dict())
    segnets.save(built, tmp_path / "built.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "built.safetensors").read_bytes()
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["segnets"])["model"]["options"]["num_classes"] == 2
