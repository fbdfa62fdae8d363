"""Archives written with torch::save by a C++ program (`cpp_archive/main.cpp`)."""

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
def test_network_of_a_cpp_program_is_converted(tmp_path: Path, torch_save: Save, name: str) -> None:
    state = dict(network(name, num_classes=3).state_dict())
    path = torch_save(state)
    report = convert(path, tmp_path / "out.safetensors")
    assert (report.container, report.model) == ("C++ archive", name)
    assert "the archive's program was neither run nor read: only the parameters were read" in report.notes
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tensors", r"a list of 319 tensors without names .* can't be told apart\. Save the module itself"),
        ("tensor", "a list of 1 tensors without names"),
        ("optimizer", r"only the state of an optimizer, no weights of a network\. Save the module itself"),
    ],
)
def test_cpp_archives_without_a_network_are_refused(
    tmp_path: Path, torch_save: Save, state: State, kind: str, message: str
) -> None:
    path = torch_save(state, kind)
    report = inspect(path)
    assert report.container == "C++ archive"
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_cpp_archive_has_no_keys(torch_save: Save, state: State) -> None:
    refused = inspect(torch_save(state), key="model").refused
    assert refused == "the file is a C++ archive, which has no keys to choose from. Leave out --key."


class Module(nn.Module):
    """A module of Python with the class name that all modules of a C++ archive have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def test_python_class_called_module_is_not_a_cpp_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Module, "__module__", "__main__")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        made = torch.jit.trace(Module(), torch.ones(2, 3))
        torch.jit.save(made, tmp_path / "w.pt")
    with open_checkpoint(tmp_path / "w.pt") as (_, container):
        assert "__torch__.Module" in container.globals
        assert container.kind == "TorchScript archive"
