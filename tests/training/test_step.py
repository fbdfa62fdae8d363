"""Single steps: accumulation, clipping, freezing, precision, memory format."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets.errors import TrainingError
from segnets.training import TrainingConfig, TrainingStep, build_optimizer, loss_of, schedule_of
from segnets.training.ema import ExponentialAverage
from segnets.training.optim import parameter_groups
from tests.training.runs import toys

__all__ = ["toys"]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return segnets.create_model("fcn_toy", num_classes=3, aux_loss=True, norm_eval=True).train()


def _config(**options: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {"model": "fcn_toy", "recipe": "torchvision", "epochs": 1, "lr": 0.1}
    return TrainingConfig(**{**defaults, **options})


def _step(model: nn.Module, config: TrainingConfig, **options: Any) -> TrainingStep:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return TrainingStep(
        model, build_optimizer(model, config), loss_of(config), schedule_of(config, 10), config, **options
    )


def _batch(seed: int, count: int = 2, ignored: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 24, 24, generator=generator)
    target = torch.randint(0, 3, (count, 24, 24), generator=generator)
    target[:, :ignored] = 255
    return images, target


def _joined(*batches: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([images for images, _ in batches]), torch.cat([target for _, target in batches])


def test_accumulated_batches_train_like_one(model: nn.Module) -> None:
    """Also if they have different numbers of valid pixels."""
    config, other = _config(), copy.deepcopy(model)
    batches = [_batch(0), _batch(1, ignored=20), _batch(2, ignored=24)]
    whole = _step(model, config)([_joined(*batches)])
    parts = _step(other, config)(batches)
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped(model: nn.Module) -> None:
    before = [parameter.detach().clone() for parameter in model.parameters()]
    config = _config(clip=1e-3, momentum=0.0, weight_decay=0.0, aux_lr_factor=1.0)
    _step(model, config)([_batch(0)])
    moved = [parameter.detach() - old for parameter, old in zip(model.parameters(), before, strict=True)]
    assert torch.cat([each.flatten() for each in moved]).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_a_frozen_backbone_keeps_its_weights() -> None:
    torch.manual_seed(0)
    model = segnets.create_model("fcn_toy", num_classes=3)
    model.freeze_backbone()
    before = copy.deepcopy(model.state_dict())
    _step(model.train(), _config(aux_loss=False))([_batch(0)])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith("backbone.") for name in changed)


def test_the_auxiliary_classifier_learns_faster(model: nn.Module) -> None:
    groups = parameter_groups(model, lr=0.5, aux_lr_factor=10)
    assert [group["lr"] for group in groups] == [0.5, 0.5, 5.0]
    assert sum(len(group["params"]) for group in groups) == len([*model.parameters()])


def test_momentum_reaches_both_optimizers(model: nn.Module) -> None:
    sgd, adamw = (build_optimizer(model, _config(momentum=0.5, optimizer=name)) for name in ("sgd", "adamw"))
    assert {group["momentum"] for group in sgd.param_groups} == {0.5}
    assert {group["betas"] for group in adamw.param_groups} == {(0.5, 0.999)}


def test_parameters_outside_of_the_three_parts_are_trained() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert len(parameter_groups(network, lr=1)[0]["params"]) == 4
    with pytest.raises(TrainingError, match="nothing to train"):
        parameter_groups(network.requires_grad_(False), lr=1)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_lower_precision_trains_almost_alike(amp: str, model: nn.Module) -> None:
    other = copy.deepcopy(model)
    exact = [_step(model, _config())([_batch(0)]).loss.item() for _ in range(1)]
    step = _step(other, _config(amp=amp))
    losses = [step([_batch(0)]).loss.item() for _ in range(1)]
    assert losses == pytest.approx(exact, rel=2e-2)
    assert losses != exact
    assert all(parameter.dtype == torch.float32 for parameter in other.parameters())


def test_channels_last_trains_alike(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    plain, last = _step(model, _config()), _step(other, _config(channels_last=True))
    for seed in range(3):
        assert last([_batch(seed)]).loss.item() == pytest.approx(plain([_batch(seed)]).loss.item(), rel=1e-4)
    weight = next(parameter for parameter in other.parameters() if parameter.ndim == 4 and parameter.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_losses_get_contiguous_logits(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    step = _step(model, _config(channels_last=True))
    seen: list[bool] = []

    def spy(outputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        seen.extend(output.is_contiguous() for output in outputs.values())
        return sum(output.mean() for output in outputs.values()) + torch.zeros(())

    monkeypatch.setattr(step, "_loss", spy)
    step([_batch(0)])
    assert seen == [True, True]
    output = model(_batch(0)[0].contiguous(memory_format=torch.channels_last))["out"]
    assert not output.is_contiguous(), "the network itself was changed"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_head_is_trained(model: nn.Module) -> None:
    """It takes no hooks."""
    setattr(model, "classifier", torch.jit.script(model.classifier))  # noqa: B010
    assert _step(model, _config(channels_last=True, ema=0.0))([_batch(0)]).loss.isfinite()


def test_a_teacher_adds_to_the_loss(model: nn.Module) -> None:
    torch.manual_seed(1)
    teacher = segnets.create_model("lraspp_toy", num_classes=3).eval()
    other = copy.deepcopy(model)
    alone, taught = _step(model, _config()), _step(other, _config(), teacher=teacher)
    assert taught([_batch(0)]).loss.item() > alone([_batch(0)]).loss.item()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_batch_of_ignored_pixels_changes_nothing_but_decay(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    for batches in ([_batch(0, ignored=24)], [_batch(0, ignored=24), _batch(1, ignored=24)]):
        result = _step(model, _config(weight_decay=0.0))(batches)
        assert result.loss.item() == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_state_restores_a_step_exactly(model: nn.Module) -> None:
    config, other = _config(optimizer="adamw", lr=1e-3, ema=0.9), copy.deepcopy(model)
    step = _step(model, config)
    for seed in range(3):
        step([_batch(seed)])
    resumed = _step(other, config)
    resumed.load_state_dict(copy.deepcopy(step.state_dict()))
    for seed in (3, 4):
        expected, got = step([_batch(seed)]), resumed([_batch(seed)])
        assert torch.equal(got.loss, expected.loss)
        assert got.lr == expected.lr
    assert step.average is not None
    assert resumed.average is not None
    ours, theirs = resumed.average.module.state_dict(), step.average.module.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_the_average_follows_its_formula() -> None:
    network: Any = nn.BatchNorm1d(1)
    average = ExponentialAverage(network, 0.5)
    values, expected = [1.0, 2.0, 4.0, 8.0], 0.0
    for number, value in enumerate(values):
        with torch.no_grad():
            network.weight.fill_(value)
        network.num_batches_tracked += 1
        average.update()
        decay = min(0.5, (1 + number) / (10 + number)) if number else 0.0
        expected = decay * expected + (1 - decay) * value
    kept: Any = average.module
    assert kept.weight.item() == pytest.approx(expected, rel=1e-6)
    assert kept.num_batches_tracked.item() == 4
    assert not kept.training
    assert not kept.weight.requires_grad
