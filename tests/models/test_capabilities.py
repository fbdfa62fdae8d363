"""Training under torch.compile and in several processes, the meta device, copies, and half precision.

`tests/family/test_deployment.py` covers TorchScript, torch.export and torch.compile in eval mode.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import segnets
from tests.models.pairs import DEEP_IN_FULL, NAMES, assert_same_output, images, random_pair, torchvision_model, with_aux
from tests.tiers import full_but


def random_model(name: str) -> nn.Module:
    return random_pair(name, aux_loss=with_aux(name)).ours


@pytest.mark.parametrize("name", full_but([], ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"]))
def test_compile_in_training_mode_without_a_graph_break(name: str) -> None:
    """The "eager" backend runs the captured graph with the same kernels, so the outputs are bit-identical."""
    torch.compiler.reset()
    model = copy.deepcopy(random_model(name)).train()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager", dynamic=True)
    for size in ((64, 64), (33, 50)):
        x = images(2, *size)
        with torch.no_grad():
            torch.manual_seed(0)
            expected = model(x)
            torch.manual_seed(0)
            actual = compiled(x)
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", full_but(["lraspp_resnet18"], ["lraspp_resnet18", "lraspp_mobilenet_v3_large"]))
def test_compile_with_gradient_checkpointing(name: str) -> None:
    torch.compiler.reset()
    model = segnets.create_model(name, num_classes=2, gradient_checkpointing=True).train()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    x = images(2, 64, 64)
    torch.manual_seed(0)
    expected = model(x)["out"]
    torch.manual_seed(0)
    actual = compiled(x)["out"]
    actual.sum().backward()
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", DEEP_IN_FULL)
def test_meta_device(name: str) -> None:
    with torch.device("meta"):
        model = segnets.create_model(name, aux_loss=with_aux(name))
        output = model.eval()(torch.empty(2, 3, 65, 97))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {key: tuple(tensor.shape) for key, tensor in output.items()} == dict.fromkeys(output, (2, 21, 65, 97))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("name", full_but(["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"], NAMES))
def test_deepcopy_and_pickle(name: str, copier: Callable[[nn.Module], nn.Module]) -> None:
    model = random_model(name)
    other = copier(model)
    assert other.config == model.config
    x = images(1, 40, 56)
    with torch.inference_mode():
        before = model(x)
        after = other(x)
        for parameter in other.parameters():
            parameter.zero_()
        again = model(x)
    for key in before:
        assert torch.equal(before[key], after[key])
        assert torch.equal(before[key], again[key]), "the copy shares no tensor with the original"


HALF = list(itertools.product(NAMES, [torch.float16, torch.bfloat16]))
HALF_EVERY_RUN = [case for case in HALF if case[0].startswith("lraspp") or case == ("fcn_resnet50", torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), full_but(HALF_EVERY_RUN, HALF), ids=str)
def test_half_precision_is_bit_identical_to_torchvision(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = segnets.create_model(name, aux_loss=with_aux(name))
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # averages over all images, so that float16 can represent the activations
    with torch.no_grad():
        ours.train()(images(4, 64, 80, seed=1))
    theirs = torchvision_model(name, aux_loss=with_aux(name))
    theirs.load_state_dict(ours.state_dict())
    x = images(1, 64, 80).to(dtype)
    with torch.inference_mode():
        assert_same_output(ours.to(dtype).eval()(x), theirs.to(dtype).eval()(x))


START = "fork" if sys.platform == "linux" else "spawn"  # a spawned process imports torch again


def _train_in_one_of_two_processes(rank: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    if START == "fork":
        signal.alarm(120)  # ends a process that waits for a thread of its parent
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.manual_seed(rank)  # different weights, which the wrapper must replace by those of rank 0
        model = segnets.create_model(name, num_classes=5, aux_loss=with_aux(name))
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
        for step in range(2):
            optimizer.zero_grad()
            sum(
                out.float().square().mean() for out in parallel(images(2, 33, 48, seed=2 * step + rank)).values()
            ).backward()
            optimizer.step()
        torch.save(model.state_dict(), f"{folder}/{rank}.pth")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", full_but(["lraspp_mobilenet_v3_large"], ["fcn_resnet50", "lraspp_mobilenet_v3_large"]))
def test_distributed_data_parallel(name: str, tmp_path: Path) -> None:
    """Check that every parameter gets a gradient (else DDP raises at the second step) and the copies stay equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks next to threads
        mp.start_processes(_train_in_one_of_two_processes, (str(tmp_path), name), nprocs=2, start_method=START)
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    torch.manual_seed(0)
    start = segnets.create_model(name, num_classes=5, aux_loss=with_aux(name)).state_dict()
    learnt = [key for key in first if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(torch.equal(first[key], second[key]) for key in learnt)
    assert all(not torch.equal(first[key], start[key]) for key in learnt if key.endswith("weight"))
