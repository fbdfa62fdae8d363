"""`convert`: other ways in which programs keep the weights of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.utils import parametrizations, prune

import segnets
from segnets.errors import WeightsError
from tests.oracle import randomise_
from tests.typed import card_of
from tests.weights_tools.files import assert_same, network
from weights_tools import convert, inspect

State = Mapping[str, Tensor]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _convert(tmp_path: Path, content: object, **options: Any) -> Any:
    torch.save(content, tmp_path / "source.pth")
    return convert(tmp_path / "source.pth", tmp_path / "out.safetensors", **options)


def _loaded(tmp_path: Path) -> dict[str, Tensor]:
    return dict(segnets.load(tmp_path / "out.safetensors", dtype=None).state_dict())


def _arrays(state: State) -> dict[str, object]:
    return {
        name: np.asfortranarray(tensor.numpy()) if tensor.ndim == 2 else tensor.numpy()
        for name, tensor in state.items()
    }


CONTAINERS: dict[str, Callable[[State], object]] = {
    "a tuple": lambda s: (3, s),
    "a list of items": lambda s: list(s.items()),
    "a list of items in a dictionary": lambda s: {"epoch": 1, "state_dict": list(s.items())},
    "a list of dictionaries": lambda s: [{"epoch": 1}, {"model": s}],
    "NumPy arrays": _arrays,
    "NumPy arrays in a dictionary": lambda s: {"model": _arrays(s), "history": np.zeros(3)},
    "a compiled backbone": lambda s: {_inside(name, "_orig_mod."): tensor for name, tensor in s.items()},
    "a parallel backbone in a compiled model": lambda s: {
        f"_orig_mod.{_inside(name, 'module.')}": tensor for name, tensor in s.items()
    },
    "FSDP and checkpointed blocks": lambda s: {
        f"model._fsdp_wrapped_module.{name.replace('.block.', '._checkpoint_wrapped_module.block.')}": tensor
        for name, tensor in s.items()
    },
}


def _inside(name: str, words: str) -> str:
    return name.replace("backbone.", f"backbone.{words}")


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_tensors(tmp_path: Path, state: State, container: str) -> None:
    report = _convert(tmp_path, CONTAINERS[container](state))
    assert_same(_loaded(tmp_path), state)
    assert report.model == "lraspp_mobilenet_v3_large"
    said = any("wrapper parts were removed from" in note for note in report.notes)
    assert said == any(word in container for word in ("backbone", "FSDP"))


@pytest.mark.parametrize("how", ["pruned", "weight_norm", "old weight_norm"])
def test_tensors_in_parts_are_those_that_the_network_computes_with(tmp_path: Path, how: str) -> None:
    model = network(num_classes=3)
    randomise_(model)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = [f"classifier.{name}" for name in ("low_classifier", "high_classifier")]
    for layer in layers:
        module: Any = model.get_submodule(layer)
        if how == "pruned":
            prune.l1_unstructured(module, "weight", 0.3)
        elif how == "weight_norm":
            parametrizations.weight_norm(module)
        else:
            with pytest.warns(FutureWarning):
                nn.utils.weight_norm(module)
            module(torch.rand(1, module.in_channels, 2, 2))  # computes the weight
        expected[f"{layer}.weight"] = module.weight.detach()
    report = _convert(tmp_path, model.state_dict())
    assert_same(_loaded(tmp_path), expected)
    text = {"pruned": "2 pruned tensors are the products of X_orig and X_mask"}.get(
        how, "2 tensors with weight norm are computed from magnitude and direction"
    )
    assert report.changed == (text,)
    proof = card_of(segnets.load(tmp_path / "out.safetensors")).provenance["proof"]
    assert proof == {"tensors": f"renamed only; every tensor byte-equal to the source's, except: {text}"}


def test_what_does_not_determine_the_weights_is_named(tmp_path: Path, state: State) -> None:
    def refused(content: object, message: str) -> None:
        with pytest.raises(WeightsError, match=message):
            _convert(tmp_path, content)

    shadow = [tensor for name, tensor in state.items() if name.endswith("weight")]
    refused({"ema": {"shadow_params": shadow}}, rf"tensors without names \({len(shadow)} in a list under 'ema\.shadow_")
    refused(shadow, rf"tensors without names \({len(shadow)} in a list\), as in model\.parameters\(\) and")
    model: Any = network(num_classes=3)
    parametrizations.spectral_norm(model.classifier.low_classifier)
    refused(model.state_dict(), r"3 tensors are stored in parts by a parametrization that only its own code")
    quantized = {**state, "fc._packed_params._packed_params": (torch.zeros(1), None)}
    refused(
        quantized, r"the layer 'fc\._packed_params\._packed_params' is quantized .*Save the state dict of the float"
    )


def test_distributed_tensors(tmp_path: Path, state: State) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        sharded = {
            name: distribute_tensor(tensor, mesh, [Shard(0)]) if tensor.ndim else tensor
            for name, tensor in state.items()
        }
        _convert(tmp_path, sharded)
        assert_same(_loaded(tmp_path), state)
        half: Any = sharded["backbone.0.0.weight"]
        half._local_tensor = half._local_tensor[:8].clone()
        with pytest.raises(
            WeightsError,
            match=r"'backbone\.0\.0\.weight' is a sharded DTensor, \(8, 3, 3, 3\) of \(16, 3, 3, 3\) .*full_tensor\(\)",
        ):
            _convert(tmp_path, sharded, overwrite=True)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("key", [None, "model", "state_dict.model"])
@pytest.mark.parametrize(("scale", "said"), [(1, ""), (255, ", divided by 255")])
def test_mean_and_std_of_a_training_module_become_the_preprocessing(
    tmp_path: Path, state: State, key: str | None, scale: int, said: str
) -> None:
    buffers = {
        "std": scale * torch.tensor(STD).view(1, 3, 1, 1),
        "mean": scale * torch.tensor(MEAN).view(1, 3, 1, 1),
    }
    if scale == 255:  # other values than the default's
        buffers["mean"] = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
        buffers["std"] = torch.ones(3, 1, 1)
    content = {"state_dict": {**{f"model.{name}": tensor for name, tensor in state.items()}, **buffers}, "epoch": 1}
    report = _convert(tmp_path, content, key=key)
    assert_same(_loaded(tmp_path), state)
    assert set(report.dropped) == {"mean", "std"}
    assert f"mean and std of the images are those of the checkpoint's buffers{said}" in report.notes
    preprocessing = card_of(segnets.load(tmp_path / "out.safetensors")).preprocessing
    expected = (MEAN, STD) if scale == 1 else ((0.407843, 0.458824, 0.482353), (0.003922,) * 3)
    assert (preprocessing.mean, preprocessing.std) == expected
    assert inspect(tmp_path / "source.pth").model == "lraspp_mobilenet_v3_large"


def test_key_is_named_where_it_helps(tmp_path: Path, state: State) -> None:
    content = {**{f"model.{name}": tensor for name, tensor in state.items()}, "extra.weight": torch.ones(8, 8, 3, 3)}
    with pytest.raises(WeightsError, match=r"would be lost: 'extra\.weight'\. Choose that network with --key model$"):
        _convert(tmp_path, content)
    _convert(tmp_path, content, key="model")
    assert_same(_loaded(tmp_path), state)
