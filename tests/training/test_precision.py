"""bfloat16 is recommended where it was measured to be faster, and never chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import segnets
from segnets.training import precision
from segnets.training.precision import bfloat16_advice
from tests.training.runs import config_of, folder, toys, trainer_of

__all__ = ["folder", "toys"]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor have bfloat16, and let it be 1.7 times as fast."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "measure_gain", lambda *_: 1.7)


@pytest.mark.usefixtures("fast")
def test_a_training_recommends_it_once(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    trainer = trainer_of(config_of(folder, tmp_path / "run"), tell=told.append)
    trainer._parts.build()
    assert [message for message in told if "1.7 times as fast in bfloat16" in message]
    assert "--set amp=bfloat16" in told[-1]
    assert trainer.config.amp == "no"


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("options", [{"amp": "bfloat16"}, {"compile": True}])
def test_other_trainings_get_no_advice(options: dict[str, object], tmp_path: Path) -> None:
    model = segnets.create_model("lraspp_toy", num_classes=3)
    assert bfloat16_advice(model, config_of(tmp_path, tmp_path, **options)) is None


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(("name", "value"), [("has_bfloat16", False), ("measure_gain", 1.1)])
def test_no_gain_gives_no_advice(name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = segnets.create_model("lraspp_toy", num_classes=3)
    assert bfloat16_advice(model, config_of(tmp_path, tmp_path)) is not None
    monkeypatch.setattr(precision, name, lambda *_: value)
    assert bfloat16_advice(model, config_of(tmp_path, tmp_path)) is None


def test_a_measurement_leaves_everything_alone(tmp_path: Path) -> None:
    model = segnets.create_model("fcn_toy", num_classes=3).train()  # has dropout and batch norms
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    gain = precision.measure_gain(model, config_of(tmp_path, tmp_path), 3)
    assert 0.01 < gain < 100
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
