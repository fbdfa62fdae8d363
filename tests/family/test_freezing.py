"""Training of a part of a network: frozen backbone, batch norms in eval mode, batches of one image."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets import SegmentationModel
from segnets.layers import is_batch_norm
from segnets.registry import MODELS
from tests.family.common import HEAD_NAMES, images, narrow_head, random_network
from tests.tiers import full_but
from tests.typed import gradient_of

SMALL = "mobilenet_v3_small"
# Heads that pool the whole image, and the name of that part in the error for a batch of one image.
POOLING = {
    "deeplabv3": "the pooling branch of ASPP",
    "deeplabv3plus": "the pooling branch of ASPP",
    "pspnet": "the coarsest level of the pyramid",
}
COPIERS: list[Callable[[nn.Module], Any]] = [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]


def network(name: str, **options: object) -> SegmentationModel:
    """Return a network with a narrow head in training mode, with an auxiliary classifier if it can have one."""
    model = random_network(name, **narrow_head(name), **options).train()
    assert isinstance(model, SegmentationModel)
    return model


def loss_of(output: dict[str, Tensor]) -> Tensor:
    return torch.stack([logits.square().mean() for logits in output.values()]).sum()


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model(images(2, 33, 41, seed=step))).backward()
        optimizer.step()


def moved_by(model: nn.Module, batch: int = 2) -> set[str]:
    """Return the names that a training step changes: parameters with a gradient, and buffers with another value.

    Values of parameters would not do: a batch norm cancels the bias of the norm before it. The gradient of that bias is
    a rounding error, too small to change a float32.
    """
    before = snapshot(model)
    model.zero_grad()
    loss_of(model(images(batch, 33, 41))).backward()
    moved = changed(model, before)
    for key, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            assert parameter.grad.isfinite().all(), key
            moved.add(key)
    return moved


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def of_backbone(keys: set[str] | dict[str, Tensor]) -> set[str]:
    return {key for key in keys if key.startswith("backbone.")}


def buffers(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers()}


def trained_parts(model: SegmentationModel) -> set[str]:
    """Return the names of the children in which some module is in training mode."""
    return {name for name, child in model.named_children() if any(module.training for module in child.modules())}


def test_the_list_of_heads_that_pool_the_whole_image_is_complete() -> None:
    """They are the heads with a norm in that branch, by default or as an option."""
    assert [name for name in HEAD_NAMES if "pool_norm" in MODELS[f"{name}_{SMALL}"].resolve({})] == list(POOLING)


@pytest.mark.parametrize("backbone", full_but([SMALL], [SMALL, "resnet18"]))
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_a_frozen_backbone_is_unchanged_while_the_rest_trains(head: str, backbone: str) -> None:
    model = network(f"{head}_{backbone}")
    model.freeze_backbone()
    before = snapshot(model)
    left = [parameter for parameter in model.parameters() if parameter.requires_grad]
    train(model, torch.optim.SGD(left, lr=0.01, weight_decay=1e-4))
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert changed(model, before) == set(before) - of_backbone(before), "everything else, including its statistics"


def test_an_optimizer_of_all_parameters_does_not_change_a_frozen_backbone() -> None:
    model = network(f"fcn_{SMALL}")
    model.freeze_backbone()
    before = snapshot(model)
    train(model, torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1))
    assert not of_backbone(changed(model, before))


def test_a_backbone_frozen_during_training_stops_at_once() -> None:
    """Gradients and momentum from earlier steps don't move it."""
    model = network(f"fcn_{SMALL}")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, optimizer)
    model.freeze_backbone()
    before = snapshot(model)
    train(model, optimizer)
    assert not of_backbone(changed(model, before))


@pytest.mark.parametrize("in_training", [True, False])
def test_frozen_after_train_and_after_eval(in_training: bool) -> None:
    model = network(f"deeplabv3_{SMALL}").train(in_training)
    model.freeze_backbone()
    heads = {"classifier", "aux_classifier"}
    assert model.training == in_training
    assert trained_parts(model) == (heads if in_training else set())
    for _ in range(2):
        assert model.train() is model
        assert trained_parts(model) == heads
        assert trained_parts(model.eval()) == set()
    assert model.train().training
    assert trained_parts(model) == heads


def test_an_unfrozen_backbone_trains_again() -> None:
    model = network(f"pspnet_{SMALL}")
    model.freeze_backbone()
    model.freeze_backbone()  # no effect the second time
    model.eval().unfreeze_backbone()
    assert not model.training
    assert trained_parts(model) == set(), "unfreezing keeps eval mode"
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert moved_by(model.train()) == set(model.state_dict())

    model.freeze_backbone()
    model.unfreeze_backbone()
    assert all(module.training for module in model.modules()), "unfreezing in training mode applies to all modules"


@pytest.mark.parametrize("copier", COPIERS, ids=["deepcopy", "pickle"])
def test_a_copy_is_frozen_too(copier: Callable[[nn.Module], Any]) -> None:
    model = network(f"lraspp_{SMALL}", norm_eval="backbone")
    model.freeze_backbone()
    other = copier(model)
    assert trained_parts(other.eval().train()) == {"classifier"}
    assert not any(parameter.requires_grad for parameter in other.backbone.parameters())
    other.unfreeze_backbone()
    assert not any(module.training for module in other.backbone.modules() if is_batch_norm(module)), "norm_eval stays"
    assert trained_parts(model.train()) == {"classifier"}, "the original is unchanged"


def test_freezing_is_not_saved(tmp_path: Path) -> None:
    """Freezing affects training, not the network's outputs."""
    model = network(f"lraspp_{SMALL}", norm_eval=True)
    segnets.save(model, tmp_path / "a.safetensors")
    model.freeze_backbone()
    segnets.save(model, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = segnets.load(tmp_path / "b.safetensors")
    assert all(module.training for module in loaded.train().modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("backbone", [SMALL, "resnet18"])
def test_gradient_checkpointing_of_a_frozen_backbone(backbone: str) -> None:
    name = f"fcn_{backbone}"
    plain, frugal = network(name), network(name, gradient_checkpointing=True)
    for model in (plain, frugal):
        model.freeze_backbone()
        torch.manual_seed(5)  # for dropout
        loss_of(model(images(2, 33, 41))).backward()
        model.unfreeze_backbone()
        loss_of(model(images(2, 33, 41, seed=1))).backward()
    for (key, ours), theirs in zip(frugal.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None, key
        assert torch.equal(ours.grad, gradient_of(theirs)), key
    assert not changed(frugal, plain.state_dict())


# Only batch norms that normalise by the batch update their statistics.
@pytest.mark.parametrize("norm_eval", [False, True, "backbone"])
@pytest.mark.parametrize(("head", "norm_layer"), [*((head, "batch") for head in HEAD_NAMES), ("pspnet", "sync")])
def test_norm_eval_keeps_the_statistics(head: str, norm_eval: bool | str, norm_layer: str) -> None:
    model = network(f"{head}_{SMALL}", norm_eval=norm_eval, norm_layer=norm_layer)
    model.eval().train()
    kept = {False: set(), True: buffers(model), "backbone": of_backbone(buffers(model))}[norm_eval]
    assert moved_by(model) == set(model.state_dict()) - kept, "weights and biases of the norms still train"
    for module in model.modules():
        if not is_batch_norm(module):
            assert module.training, "dropout and all other modules are in training mode"


@pytest.mark.parametrize("copier", COPIERS, ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("norm_eval", [True, "backbone"])
def test_norm_eval_is_kept_by_a_copy(norm_eval: bool | str, copier: Callable[[nn.Module], Any]) -> None:
    model = network(f"pspnet_{SMALL}", norm_eval=norm_eval)
    ours, theirs = ([m.training for m in each.eval().train().modules()] for each in (copier(model), model))
    assert ours == theirs
    assert not all(ours)


def test_norm_eval_without_batch_norm_is_refused() -> None:
    refused: list[tuple[Any, Any]] = [("group", True), ("group", "backbone"), ("frozen", "backbone")]
    for norm_layer, norm_eval in refused:
        with pytest.raises(ValueError, match=f"norm_eval={norm_eval!r} would have no effect: there is no batch norm"):
            segnets.create_model(f"fcn_{SMALL}", norm_layer=norm_layer, norm_eval=norm_eval)
    # "frozen" applies to the backbone only; the head has batch norms.
    assert network(f"fcn_{SMALL}", norm_layer="frozen", norm_eval=True).norm_eval is True
    assert network(f"fcn_{SMALL}", norm_layer="frozen", head_norm_layer="group").norm_eval is False


@pytest.mark.parametrize("norm_eval", [False, "backbone"])
@pytest.mark.parametrize("head", POOLING)
def test_a_batch_of_one_is_refused_with_advice(head: str, norm_eval: bool | str) -> None:
    model = network(f"{head}_{SMALL}", norm_eval=norm_eval)
    with pytest.raises(ValueError, match="batch of one image") as raised:
        model(images(1, 33, 41))
    message = str(raised.value)
    assert message.startswith("Expected more than 1 value per channel when training"), (
        "the message of torch and torchvision"
    )
    assert POOLING[head] in message
    for way_out in ("2 or more", "drop_last=True", "norm_eval=True", "pool_norm=False", "head_norm_layer='group'"):
        assert way_out in message
    model.freeze_backbone()
    with pytest.raises(ValueError, match="batch of one image"):
        model(images(1, 33, 41))
    assert model.eval()(images(1, 33, 41))["out"].shape == (1, 3, 33, 41)


ADVISED: list[dict[str, object]] = [{"norm_eval": True}, {"pool_norm": False}, {"head_norm_layer": "group"}]
ADVISED_CASES = list(itertools.product(POOLING, [SMALL, "resnet18"], ADVISED))


@pytest.mark.parametrize(
    ("head", "backbone", "way_out"),
    full_but([case for case in ADVISED_CASES if case[1] == SMALL], ADVISED_CASES),
    ids=str,
)
def test_every_advised_option_trains_a_batch_of_one(head: str, backbone: str, way_out: dict[str, object]) -> None:
    model = network(f"{head}_{backbone}", **way_out)
    kept = buffers(model) if "norm_eval" in way_out else set()
    assert moved_by(model, batch=1) == set(model.state_dict()) - kept


@pytest.mark.parametrize(
    ("name", "options"), [("fcn", {}), ("lraspp", {}), ("pspnet", {"head_variant": "smp"})], ids=str
)
def test_networks_that_train_on_a_batch_of_one(name: str, options: dict[str, object]) -> None:
    model = network(f"{name}_{SMALL}", **options)
    assert moved_by(model, batch=1) == set(model.state_dict())
