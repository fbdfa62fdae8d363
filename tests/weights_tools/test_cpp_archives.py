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
from tests.weights_tools.cpp_archive import build as cpp_archive
from tests.weights_tools.files import assert_same, network
from weights_tools import convert, inspect
from weights_tools.reader import open_checkpoint

State = dict[str, Tensor]
Archive = Callable[[str], Path]


@pytest.fixture(params=["written before", pytest.param("built", marks=pytest.mark.full)])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, state: State) -> Archive:
    """Return a function that gives an archive of a kind; building the C++ program that writes it takes a minute."""
    folder = tmp_path_factory.mktemp("cpp")
    if request.param == "written before":
        return lambda kind: cpp_archive.sample(kind, folder / "cpp.pt")
    program = cpp_archive.build()
    return lambda kind: cpp_archive.torch_save(program, cpp_archive.patterned(state), folder / "cpp.pt", kind)


def test_network_of_a_cpp_program_is_converted(tmp_path: Path, archive: Archive, state: State) -> None:
    report = convert(archive("module"), tmp_path / "out.safetensors")
    assert (report.container, report.model) == ("C++ archive", "lraspp_mobilenet_v3_large")
    assert "the archive's code was neither run nor read: only the parameters were read" in report.notes
    converted = dict(segnets.load(tmp_path / "out.safetensors").state_dict())
    assert_same(converted, cpp_archive.patterned(state))


@pytest.mark.full
def test_backbone_of_a_cpp_program_is_converted(tmp_path: Path) -> None:
    state = dict(network("resnet18", num_classes=3).state_dict())
    path = cpp_archive.torch_save(cpp_archive.build(), state, tmp_path / "cpp.pt")
    assert convert(path, tmp_path / "out.safetensors").model == "resnet18"
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tensors", r"tensors without names \(319 in a list, .* can't be told apart\. Save the module itself"),
        ("tensor", r"tensors without names \(1 in a list"),
        ("optimizer", r"only the state of an optimizer, no weights of a network\. Save the module itself"),
    ],
)
def test_cpp_archives_without_a_network_are_refused(tmp_path: Path, archive: Archive, kind: str, message: str) -> None:
    path = archive(kind)
    report = inspect(path)
    assert report.container == "C++ archive"
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_cpp_archive_has_no_keys(archive: Archive) -> None:
    refused = inspect(archive("module"), key="model").refused
    assert refused == "the file is a C++ archive, which has no keys to choose from. Omit --key."


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
