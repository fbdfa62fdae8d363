"""What one does with a network besides running it: script, compile, export, copy, half precision, many processes."""

from __future__ import annotations

import copy
import io
import pickle
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

# Networks on ResNets are compiled, traced and exported in every run too, in tests/family with fewer layers.
LIGHT = "lraspp_mobilenet_v3_large"


def random_model(name: str) -> nn.Module:
    return random_pair(name, aux_loss=with_aux(name)).ours


@pytest.mark.parametrize("name", full_but(["fcn_resnet50", "deeplabv3_mobilenet_v3_large", LIGHT], NAMES))
def test_script_saved_and_reloaded_gives_the_same_bits(name: str) -> None:
    model = random_model(name)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own
        torch.jit.save(torch.jit.script(model), buffer)
        buffer.seek(0)
        scripted = torch.jit.load(buffer)
    for size in ((64, 64), (33, 50)):
        x = images(2, *size)
        with torch.inference_mode():
            ours, theirs = model(x), scripted(x)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(Exception, match=r"expected 4D input \(got 3D input\)"):
        scripted(images(1, 8, 8)[0])


@pytest.mark.parametrize(
    ("name", "training"),
    full_but(
        [(LIGHT, False), ("fcn_resnet50", True)],
        [*((name, False) for name in NAMES), ("deeplabv3_mobilenet_v3_large", True), ("fcn_resnet50", True)],
    ),
)
def test_compile_without_a_graph_break(name: str, training: bool) -> None:
    """The "eager" backend runs what was captured with the same kernels, so the bits are the same."""
    torch.compiler.reset()
    model = copy.deepcopy(random_model(name)).train(training)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager", dynamic=True)
    for size in ((64, 64), (33, 50)):
        x = images(2, *size)
        with torch.no_grad():
            torch.manual_seed(0)
            ours = model(x)
            torch.manual_seed(0)
            theirs = compiled(x)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_compile_goes_with_gradient_checkpointing() -> None:
    torch.compiler.reset()
    model = segnets.lraspp_mobilenet_v3_large(num_classes=2, gradient_checkpointing=True).train()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    x = images(2, 64, 64)
    torch.manual_seed(0)
    expected = model(x)["out"]
    torch.manual_seed(0)
    got = compiled(x)["out"]
    got.sum().backward()
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", full_but([LIGHT], NAMES))
def test_torch_export_with_dynamic_batch_height_and_width(name: str) -> None:
    model = random_model(name)
    sizes = {
        0: torch.export.Dim("batch", min=1, max=64),
        2: torch.export.Dim("height", min=17, max=4096),
        3: torch.export.Dim("width", min=17, max=4096),
    }
    program = torch.export.export(model, (images(2, 64, 96),), dynamic_shapes=(sizes,))
    for batch, height, width in ((1, 33, 65), (3, 120, 50)):
        x = images(batch, height, width)
        with torch.no_grad():
            ours, theirs = model(x), program.module()(x)
        assert list(ours) == list(theirs)
        for key in ours:
            torch.testing.assert_close(theirs[key], ours[key], rtol=0, atol=1e-4 * ours[key].abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_meta_device(name: str) -> None:
    with torch.device("meta"):
        model = segnets.create_model(name, aux_loss=with_aux(name))
        output = model.eval()(torch.empty(2, 3, 65, 97))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {key: tuple(tensor.shape) for key, tensor in output.items()} == dict.fromkeys(output, (2, 21, 65, 97))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DEEP_IN_FULL)
def test_half_precision_gives_torchvisions_bits(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = segnets.create_model(name, aux_loss=with_aux(name))
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of the images seen: activations that float16 can hold
    with torch.no_grad():
        ours.train()(images(4, 64, 80, seed=1))
    theirs = torchvision_model(name, aux_loss=with_aux(name))
    theirs.load_state_dict(ours.state_dict())
    x = images(1, 64, 80).to(dtype)
    with torch.inference_mode():
        assert_same_output(ours.to(dtype).eval()(x), theirs.to(dtype).eval()(x))


def _train_in_one_of_two_processes(rank: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.manual_seed(rank)  # different weights: the wrapper must hand out those of rank 0
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


@pytest.mark.parametrize("name", full_but([LIGHT], ["fcn_resnet50", LIGHT]))
def test_distributed_data_parallel(name: str, tmp_path: Path) -> None:
    """Every parameter takes part (DDP would raise at the second step), and the two copies stay the same."""
    mp.spawn(_train_in_one_of_two_processes, args=(str(tmp_path), name), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    torch.manual_seed(0)
    start = segnets.create_model(name, num_classes=5, aux_loss=with_aux(name)).state_dict()
    learnt = [key for key in first if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(torch.equal(first[key], second[key]) for key in learnt)
    assert all(not torch.equal(first[key], start[key]) for key in learnt if key.endswith("weight"))
