"""Networks inside wrappers, and state dicts with the names that wrappers give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import segnets
from segnets.weights.wrappers import clean_names, find_network
from tests.oracle import randomised

NAME = "lraspp_mobilenet_v3_small"
# torch's compiler imports deprecated parts of torch.
pytestmark = pytest.mark.filterwarnings("ignore:.*script_method.* is deprecated:DeprecationWarning")


def _network(seed: int = 0) -> segnets.SegmentationModel:
    return randomised(segnets.create_model, NAME, seed=seed, num_classes=3).eval()


def _compiled(network: Any) -> Any:
    return torch.compile(network)


def _compiled_backbone(network: Any) -> Any:
    network.backbone = torch.compile(network.backbone)
    return network


def _compiled_in_place(network: Any) -> Any:
    network.compile()
    return network


def _checkpointed(network: Any) -> Any:
    network.backbone["4"] = checkpoint_wrapper(network.backbone["4"])
    return network


def _cast_as_by_accelerate(network: Any) -> Any:
    network._original_forward = network.forward
    network.forward = torch.autocast("cpu", torch.bfloat16)(network.forward)
    return network


def _parallel_backbone(network: Any) -> Any:
    network.backbone = nn.DataParallel(network.backbone)
    return network


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "compiled": _compiled,
    "compiled in place": _compiled_in_place,
    "DataParallel": nn.DataParallel,
    "averaged": AveragedModel,
    "averaged, parallel and compiled": lambda network: AveragedModel(nn.DataParallel(_compiled(network))),
    "a compiled backbone": _compiled_backbone,
    "a checkpointed block": _checkpointed,
    "a parallel backbone": _parallel_backbone,
    "mixed precision of accelerate": _cast_as_by_accelerate,
}


def _same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_network_is_saved_and_filled(tmp_path: Path, wrapper: str) -> None:
    plain = _network()
    wrapped = WRAPPERS[wrapper](_network())
    segnets.save(plain, tmp_path / "plain.safetensors")
    segnets.save(wrapped, tmp_path / "w.safetensors", provenance={})
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    other = _network(1)
    report = segnets.load_weights(wrapped, other.state_dict())
    assert (report.loaded, report.stripped) == (len(other.state_dict()), ())
    segnets.save(wrapped, tmp_path / "w.safetensors")
    assert _same(segnets.load(tmp_path / "w.safetensors"), other)


def test_a_wrapped_network_is_exported(tmp_path: Path) -> None:
    wrapped = AveragedModel(_compiled_backbone(_checkpointed(_network())))
    report = segnets.export(wrapped, tmp_path / "w.ts", target="portable")
    assert report.verification.passed
    assert segnets.load_exported(tmp_path / "w.ts").contract.config == _network().config


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_distributed_networks(tmp_path: Path) -> None:
    plain = _network()
    segnets.save(DistributedDataParallel(_network()), tmp_path / "ddp.safetensors")
    assert _same(segnets.load(tmp_path / "ddp.safetensors"), plain)
    sharded: Any = _network()
    fully_shard(sharded, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
    segnets.save(sharded, tmp_path / "fsdp.safetensors")
    assert _same(segnets.load(tmp_path / "fsdp.safetensors"), plain)
    with pytest.raises(segnets.ExportError, match=r"is sharded \(FSDP\).*Load its full state dict into a network"):
        segnets.export(sharded, tmp_path / "w.ts")
    with pytest.raises(segnets.WeightsError, match=r"is sharded \(FSDP\).*before it is sharded"):
        segnets.load_weights(sharded, plain.state_dict())
    next(module for module in sharded.modules() if isinstance(module, nn.BatchNorm2d)).eps = 0.1
    with pytest.raises(segnets.WeightsError, match=r"eps=0\.1 instead of 0\.001 in backbone\.0\.1"):
        segnets.save(sharded, tmp_path / "fsdp.safetensors")


class _Trainer(nn.Module):
    """A module around networks, like a LightningModule: what it computes is its own."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, _network())
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = next(self.children())(image)["out"]
        return logits


@pytest.mark.parametrize("names", [("model",), ("student", "teacher")])
def test_the_attribute_with_the_network_is_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    module = _Trainer(*names)
    message = rf"ts attribute '{names[0]}' is a {NAME}.*pass model\.{' or model.'.join(names)}"
    with pytest.raises(segnets.WeightsError, match=message):
        segnets.save(module, tmp_path / "w.safetensors")
    with pytest.raises(segnets.ExportError, match=message):
        segnets.export(module, tmp_path / "w.ts")
    with pytest.raises(segnets.WeightsError, match=rf"(?s){message}"):
        segnets.load_weights(module, _network().state_dict())
    with pytest.raises(segnets.WeightsError, match=r"is a module; pass its state_dict\(\)"):
        segnets.load_weights(_network(), module)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prefix", "stripped"),
    [
        ("module.", ("module.",)),
        ("_orig_mod.", ("_orig_mod.",)),
        ("module._orig_mod.", ("module.", "_orig_mod.")),
        ("net.", ("net.",)),
        ("trainer.student.", ("trainer.student.",)),
    ],
)
def test_a_prefix_is_taken_off_and_reported(prefix: str, stripped: tuple[str, ...]) -> None:
    source = _network()
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    target = _network(1)
    report = segnets.load_weights(target, state)
    assert report.stripped == stripped
    assert f"removed from their names: {', '.join(stripped)}" in str(report)
    assert _same(target, source)
    with pytest.warns(UserWarning, match=rf"removed {', '.join(map(repr, stripped))} from the names"):
        built = segnets.create_model(NAME, weights=state)
    assert _same(built, source)
    with pytest.warns(UserWarning, match=r"from the names of its tensors; ignored: .*classifier"):
        built = segnets.create_model(NAME, weights_backbone=state, num_classes=2)
    assert _same(built.backbone, source.backbone)


def test_words_inside_of_names_and_tensors_outside_of_the_network() -> None:
    source = _network()
    state = {
        "model." + name.replace("backbone.", "backbone._orig_mod.module."): each
        for name, each in source.state_dict().items()
    }
    state |= {"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1), "loss.weight": torch.ones(3)}
    target = _network(1)
    report = segnets.load_weights(target, state)
    assert _same(target, source)
    assert report.stripped == ("model.", "_orig_mod.", "module.")
    assert report.ignored == ("mean", "std", "loss.weight")
    assert "ignored: mean, std, loss.weight" in str(report)


def test_what_is_ambiguous_is_refused_and_changes_nothing() -> None:
    target = _network()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    other = _network(1).state_dict()
    two = {f"{prefix}.{name}": tensor for prefix in ("student", "teacher") for name, tensor in other.items()}
    with pytest.raises(segnets.WeightsError, match=r"several networks, whose names begin with 'student\.' and 'teach"):
        segnets.load_weights(target, two)
    lost = {**{f"model.{name}": tensor for name, tensor in other.items()}, "extra.conv.weight": torch.ones(8, 8, 3, 3)}
    with pytest.raises(segnets.WeightsError, match=r"under 'model\.', and other weights .* lost: extra\.conv\.weight"):
        segnets.load_weights(target, lost)
    with pytest.raises(segnets.WeightsError, match="no classifier found"):
        segnets.create_model(
            NAME, weights={f"module.{name}": each for name, each in target.backbone.state_dict().items()}
        )
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_names_that_would_become_the_same_are_kept() -> None:
    names = ["backbone._orig_mod.conv.weight", "backbone.conv.weight"]
    assert clean_names(names) == {name: name for name in names}
    assert clean_names(names[:1]) == {names[0]: "backbone.conv.weight"}
    assert clean_names(["module.conv.weight"]) == {"module.conv.weight": "module.conv.weight"}
    own = ["conv.weight", "conv.bias"]
    assert find_network(["a.conv.weight", "a.conv.bias"], own).stripped == ("a.",)
    assert find_network(["conv.weight", "a.conv.bias"], own).stripped == ()
