"""`aspp_norm_eps`: which norms have it, what it changes, and weights that were made under another."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import segnets
from tests.models.test_options import on_meta
from tests.oracle import randomised
from tests.tiers import full_but
from tests.typed import options_of
from tests.weights.test_geometry import network as network_of
from tests.weights.test_geometry import same_output

ASPP_HEADS = [
    ("deeplabv3", "torchvision"),
    ("deeplabv3", "mmseg"),
    ("deeplabv3plus", "smp"),
    ("deeplabv3plus", "vainf"),
]


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("batch", nn.BatchNorm2d),
        ("sync", nn.SyncBatchNorm),
        ("frozen", segnets.layers.FrozenBatchNorm2d),
        ("group", nn.GroupNorm),
    ],
)
@pytest.mark.parametrize(("head", "variant"), ASPP_HEADS)
def test_norms_inside_aspp_can_have_their_own_eps(
    head: str, variant: str, norm: str, kind: type[nn.BatchNorm2d]
) -> None:
    options: dict[str, Any] = {"head_variant": variant, "norm_eps": 1e-4, "head_norm_layer": norm, "aux_loss": True}
    model = on_meta(f"{head}_resnet18", head_norm_eps=1e-3, aspp_norm_eps=1e-5, **options)
    aspp = next(module for module in model.modules() if isinstance(module, segnets.layers.ASPP))
    inside = [module for module in aspp.modules() if isinstance(module, kind)]
    assert len(inside) == 6, "1x1, three rates, pooling, fusing"
    assert {module.eps for module in inside} == {1e-5}
    assert model.aux_classifier is not None
    others = [m for each in (model.classifier, model.aux_classifier) for m in each.modules() if isinstance(m, kind)]
    others = [module for module in others if module not in inside]
    assert len(others) == {"torchvision": 2, "mmseg": 1, "smp": 4, "vainf": 3}[variant]
    assert {module.eps for module in others} == {1e-3}
    assert {m.eps for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-4}


def test_an_aspp_eps_equal_to_the_heads_is_not_recorded() -> None:
    plain = on_meta("deeplabv3_resnet18", head_norm_eps=1e-3)
    assert "aspp_norm_eps" not in options_of(plain)
    aspp = next(module for module in plain.modules() if isinstance(module, segnets.layers.ASPP))
    assert {m.eps for m in aspp.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert on_meta("deeplabv3_resnet18", head_norm_eps=1e-3, aspp_norm_eps=1e-3).config == plain.config
    default = on_meta("deeplabv3_resnet18", aspp_norm_eps=1e-5)
    assert default.config == on_meta("deeplabv3_resnet18").config


@pytest.mark.parametrize(("head", "variant"), full_but([ASPP_HEADS[0], ASPP_HEADS[2]], ASPP_HEADS))
def test_an_eps_of_aspp_changes_what_is_computed_and_compiles(head: str, variant: str) -> None:
    options: dict[str, Any] = {"head_variant": variant, "num_classes": 3, "head_norm_eps": 1e-3, "head_channels": 32}
    whole = randomised(segnets.create_model, f"{head}_resnet18", **options).eval()
    other = segnets.create_model(f"{head}_resnet18", aspp_norm_eps=1e-1, **options).eval()
    other.load_state_dict(whole.state_dict(), strict=True)
    x = torch.randn(2, 3, 33, 49, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own
        result = other(x)["out"]
        assert (result - whole(x)["out"]).abs().max() > 1e-3 * result.abs().max()
        assert torch.equal(torch.jit.script(other)(x)["out"], result)


def network(name: str, **options: Any) -> segnets.SegmentationModel:
    return network_of(name, head_channels=32, **options)


def warning_of(model: nn.Module, path: Path) -> str:
    """What loading the file into the model warns of, "" if of nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        segnets.load_weights(model, path)
    return "; ".join(str(each.message) for each in caught)


def test_another_aspp_eps_gives_a_warning(tmp_path: Path) -> None:
    name, path = "deeplabv3_mobilenet_v3_small", tmp_path / "w.safetensors"
    model = network(name, head_norm_eps=1e-3, aspp_norm_eps=1e-5)
    segnets.save(model, path)
    for loaded in (segnets.load(path), segnets.create_model(name, weights=path)):
        assert loaded.config == model.config
        assert same_output(loaded, model)
    # ASPP of a model without the option has the head's eps.
    assert "made for aspp_norm_eps=1e-05 (here 0.001): the" in warning_of(network(name, head_norm_eps=1e-3), path)
    assert "made for head_norm_eps=0.001 (here 1e-05): the" in warning_of(network(name), path), "ASPP's is the same"
    assert warning_of(network(name, head_norm_eps=1e-3, aspp_norm_eps=1e-5), path) == ""
    # And so has a file without it.
    segnets.save(network(name, head_norm_eps=1e-3), path)
    assert "made for aspp_norm_eps=0.001 (here 1e-05): the" in warning_of(model, path)
    assert "made for head_norm_eps=0.001 (here 1e-05): the" in warning_of(network(name, aspp_norm_eps=1e-3), path)
    assert warning_of(network(name, head_norm_eps=1e-3, aspp_norm_eps=1e-3), path) == ""
    # Given, it wins; given as the head's, nothing is left of it.
    with pytest.warns(UserWarning, match=r"made for aspp_norm_eps=0\.001 \(here 1e-05\): the same"):
        other = segnets.create_model(name, weights=path, aspp_norm_eps=1e-5)
    assert other.config == model.config
    assert "aspp_norm_eps" not in options_of(segnets.create_model(name, weights=path, aspp_norm_eps=1e-3))
