"""Weights that fit, that fit with an intended difference, and that don't fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import segnets
from tests.oracle import randomised
from tests.typed import part


def network(num_classes: int = 4, *, aux_loss: bool = False) -> nn.Module:
    return randomised(segnets.deeplabv3_mobilenet_v3_large, num_classes=num_classes, aux_loss=aux_loss)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return dict(network(aux_loss=True).state_dict())


def test_everything_fits(state: dict[str, Tensor]) -> None:
    model = segnets.deeplabv3_mobilenet_v3_large(num_classes=4, aux_loss=True)
    report = segnets.load_weights(model, state)
    assert str(report) == "360 tensors loaded"
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_an_auxiliary_classifier_only_in_the_file(state: dict[str, Tensor]) -> None:
    report = segnets.load_weights(network(), state)
    assert report.loaded == 352
    assert len(report.ignored) == 8
    assert all(name.startswith("aux_classifier.") for name in report.ignored)
    assert not report.fresh


def test_an_auxiliary_classifier_only_in_the_model(state: dict[str, Tensor]) -> None:
    model = network(aux_loss=True)
    without = {key: tensor for key, tensor in state.items() if not key.startswith("aux_classifier.")}
    head = {key: tensor.clone() for key, tensor in part(model, "aux_classifier").state_dict().items()}
    report = segnets.load_weights(model, without)
    assert [name.removeprefix("aux_classifier.") for name in report.fresh] == list(head)
    assert all(torch.equal(tensor, head[key]) for key, tensor in part(model, "aux_classifier").state_dict().items())


def test_another_number_of_classes_keeps_everything_but_the_last_convolutions(state: dict[str, Tensor]) -> None:
    model = network(num_classes=9, aux_loss=True)
    last = part(model, "classifier.4.weight").detach().clone()
    with pytest.warns(
        UserWarning, match=r"has 4 classes, but the model 9: classifier\.4\.weight, .* newly initialised"
    ) as caught:
        report = segnets.load_weights(model, state)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert set(report.fresh) == {
        f"{head}.4.{leaf}" for head in ("classifier", "aux_classifier") for leaf in ("weight", "bias")
    }
    assert torch.equal(part(model, "classifier.4.weight"), last)
    assert torch.equal(part(model, "classifier.1.weight"), state["classifier.1.weight"])
    assert torch.equal(part(model, "aux_classifier.0.weight"), state["aux_classifier.0.weight"])


def test_old_files_without_counters(state: dict[str, Tensor]) -> None:
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    model = network(aux_loss=True)
    report = segnets.load_weights(model, old)
    assert len(report.zeroed) == sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert all(model.state_dict()[name] == 0 for name in report.zeroed)
    assert "start at 0" in str(report)


def test_every_difference_is_named_at_once_and_nothing_changes(state: dict[str, Tensor]) -> None:
    model = network(aux_loss=True)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    wrong = dict(state)
    del wrong["backbone.0.0.weight"]
    del wrong["classifier.4.bias"]
    wrong["backbone.99.weight"] = torch.zeros(3)
    wrong["backbone.1.block.0.0.weight"] = torch.zeros(16, 1, 5, 5)
    wrong["backbone.1.block.0.1.weight"] = torch.ones(16, dtype=torch.int8)
    wrong["backbone.1.block.0.1.bias"] = torch.ones(16, dtype=torch.complex64)
    with pytest.raises(segnets.WeightsError) as caught:
        segnets.load_weights(model, wrong)
    assert str(caught.value).splitlines() == [
        "the state dict does not fit deeplabv3_mobilenet_v3_large(num_classes=4, aux_loss=True): "
        "2 missing, 1 unexpected, 1 of a different shape, 2 of a different dtype",
        "  - backbone.0.0.weight",
        "  - classifier.4.bias",
        "  + backbone.99.weight",
        "  ~ backbone.1.block.0.0.weight: file (16, 1, 5, 5), model (16, 1, 3, 3)",
        "  ! backbone.1.block.0.1.weight: file torch.int8, model torch.float32",
        "  ! backbone.1.block.0.1.bias: file torch.complex64, model torch.float32",
    ]
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("key", ["classifier.4.weight", "classifier.4.bias"])
def test_inconsistent_numbers_of_classes_are_an_error(state: dict[str, Tensor], key: str) -> None:
    wrong = dict(state) | {key: torch.zeros(7, *state[key].shape[1:])}
    with pytest.raises(segnets.WeightsError, match="1 of a different shape"):
        segnets.load_weights(network(aux_loss=True), wrong)


def test_tensors_without_values_do_not_fit(state: dict[str, Tensor]) -> None:
    model = network(aux_loss=True)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    wrong = state | {"backbone.0.0.weight": state["backbone.0.0.weight"].to("meta")}
    with pytest.raises(segnets.WeightsError, match=r"! backbone\.0\.0\.weight: file torch\.float32 without values"):
        segnets.load_weights(model, wrong)
    wrong = state | {"backbone.0.0.weight": state["backbone.0.0.weight"].to_sparse()}
    with pytest.raises(segnets.WeightsError, match=r"file torch\.float32 torch\.sparse_coo"):
        segnets.load_weights(model, wrong)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    with torch.device("meta"):
        empty = segnets.deeplabv3_mobilenet_v3_large(num_classes=4, aux_loss=True)
    with pytest.raises(segnets.WeightsError, match="has no values to fill"):
        segnets.load_weights(empty, state)


def test_running_statistics_are_never_treated_as_absent(state: dict[str, Tensor]) -> None:
    """Group norms have the same tensor names as batch norms, except the statistics."""
    wrong = {key: tensor for key, tensor in state.items() if "running_" not in key and "num_batches" not in key}
    with pytest.raises(segnets.WeightsError, match="missing"):
        segnets.load_weights(network(aux_loss=True), wrong)
