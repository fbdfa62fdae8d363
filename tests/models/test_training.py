"""Training against torchvision's with the same seed: outputs, gradients, buffers, ten losses."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segnets
from tests.models.pairs import NAMES, Pair, assert_same_output, images, random_pair, with_aux
from tests.tiers import full_but
from tests.typed import gradient_of


def fresh_copies(name: str) -> Pair:
    ours, theirs = random_pair(name, aux_loss=with_aux(name))
    return Pair(copy.deepcopy(ours).train(), copy.deepcopy(theirs).train())


def targets(batch: int, height: int, width: int) -> Tensor:
    labels = torch.randint(0, 7, (batch, height, width), generator=torch.Generator().manual_seed(1))
    labels[:, :4] = 255  # unlabelled
    return labels


def loss_of(output: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Return torchvision's loss: cross entropy, weighted by 0.5 for the auxiliary classifier."""
    loss = F.cross_entropy(output["out"], labels, ignore_index=255)
    if "aux" in output:
        loss = loss + 0.5 * F.cross_entropy(output["aux"], labels, ignore_index=255)
    return loss


def assert_same_buffers(ours: nn.Module, theirs: nn.Module) -> None:
    expected = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        assert torch.equal(buffer, expected[name]), name


@pytest.mark.parametrize("name", full_but(["fcn_resnet50", *(name for name in NAMES if "mobilenet" in name)], NAMES))
def test_one_step_has_the_same_outputs_gradients_and_buffers(name: str) -> None:
    ours, theirs = fresh_copies(name)
    x, labels = images(2, 65, 81), targets(2, 65, 81)
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(11)  # dropout draws from it
        output = model(x)
        loss_of(output, labels).backward()
        outputs.append(output)
    assert_same_output(*outputs)
    gradients = {key: gradient_of(parameter) for key, parameter in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), f"{key}: all gradients are zero"
        assert torch.equal(parameter.grad, gradients[key]), key
    assert_same_buffers(ours, theirs)


@pytest.mark.parametrize("name", full_but(["lraspp_mobilenet_v3_large"], NAMES))
def test_ten_steps_give_the_same_ten_losses(name: str) -> None:
    losses = []
    models = fresh_copies(name)
    for model in models:
        torch.manual_seed(12)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        history = []
        for step in range(10):
            optimizer.zero_grad()
            loss = loss_of(model(images(2, 33, 48, seed=step)), targets(2, 33, 48))
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 10
    assert_same_buffers(*models)


CHECKPOINTED = ["fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"]


@pytest.mark.parametrize("name", full_but(["fcn_resnet50", "lraspp_mobilenet_v3_large"], CHECKPOINTED))
def test_gradient_checkpointing_only_changes_memory(name: str) -> None:
    plain = fresh_copies(name).ours
    checkpointed = segnets.create_model(name, num_classes=7, aux_loss=with_aux(name), gradient_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.train()
    for model in (plain, checkpointed):
        for norm in [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][::5]:
            norm.eval()  # some norms in eval mode, as in fine-tuning
    x, labels = images(2, 64, 64), targets(2, 64, 64)
    kept: list[list[int]] = [[], []]
    outputs = []
    for model, sizes in zip((plain, checkpointed), kept, strict=True):
        torch.manual_seed(13)

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs.append(model(x))
        loss_of(outputs[-1], labels).backward()
    assert_same_output(*outputs)
    for (key, ours), theirs in zip(checkpointed.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert torch.equal(ours.grad, gradient_of(theirs)), key
    assert_same_buffers(checkpointed, plain)
    assert sum(kept[1]) < 0.6 * sum(kept[0]), "fewer activations are kept"
    assert checkpointed.config == plain.config, "checkpointing is not recorded"
