"""Archives that C++ programs write with torch::save, made by one (`cpp_archive/main.cpp`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets.errors import WeightsError
from tests.weights_tools.files import assert_same, network
from weights_tools import convert, inspect
from weights_tools.reader import open_checkpoint

Save = Callable[..., Path]
State = dict[str, Tensor]


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "resnet18"])
def test_network_of_a_cpp_program(tmp_path: Path, torch_save: Save, name: str) -> None:
    state = dict(network(name, num_classes=3).state_dict())
    path = torch_save(state)
    report = convert(path, tmp_path / "out.safetensors")
    assert (report.container, report.model) == ("C++ archive", name)
    assert "its program was not run and not looked at: only its parameters were read" in report.notes
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tensors", r"a list of 319 tensors without names .* nobody can tell which is which; save the module itself"),
        ("tensor", "a list of 1 tensors without names"),
        ("optimizer", "the state of an optimizer only, no weights of a network; save the module itself"),
    ],
)
def test_what_else_torch_save_writes(tmp_path: Path, torch_save: Save, state: State, kind: str, message: str) -> None:
    path = torch_save(state, kind)
    report = inspect(path)
    assert report.container == "C++ archive"
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_cpp_archive_has_no_keys(torch_save: Save, state: State) -> None:
    refused = inspect(torch_save(state), key="model").refused
    assert refused == "it is a C++ archive, which has no keys to choose from; leave out --key"


class Module(nn.Module):
    """Has the name of every module of a C++ archive."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def test_python_module_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Module, "__module__", "__main__")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        made = torch.jit.trace(Module(), torch.ones(2, 3))
        torch.jit.save(made, tmp_path / "w.pt")
    with open_checkpoint(tmp_path / "w.pt") as (_, container):
        assert "__torch__.Module" in container.globals
        assert container.kind == "TorchScript archive"
