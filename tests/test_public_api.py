"""The public names and commands, frozen: a change here is a change for users, and wants a line in CHANGELOG.md."""

from __future__ import annotations

import contextlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import segnets
import segnets.cli
import weights_tools
from segnets.registry import BACKBONES, HEADS
from tests.oracle import NAMES as NAMES_OF_TORCHVISION

NAMES = [
    "Cost",
    "DataError",
    "Decoding",
    "ExportError",
    "ExportReport",
    "FrameRing",
    "FrameRingError",
    "ImageError",
    "IntermediateLayerGetter",
    "LoadReport",
    "ModelCard",
    "ModelConfig",
    "OutputError",
    "PeerGoneError",
    "PredictError",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "SegmentationModel",
    "SegnetsError",
    "TrainingError",
    "VerifyReport",
    "WeightsError",
    "cost",
    "create_model",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet101",
    "deeplabv3_resnet50",
    "export",
    "fcn_resnet101",
    "fcn_resnet50",
    "join_onnx",
    "list_models",
    "load",
    "load_exported",
    "load_weights",
    "lraspp_mobilenet_v3_large",
    "preprocess",
    "register_model",
    "save",
    "segment",
    "verify",
]

COMMANDS = ["list", "info", "check-data", "train", "evaluate", "predict", "export", "verify", "join"]


def test_public_names() -> None:
    assert sorted(segnets.__all__) == sorted(NAMES)
    assert all(callable(getattr(segnets, name)) for name in NAMES)
    assert sorted(weights_tools.__all__) == [
        "CompareReport",
        "ConversionReport",
        "FetchReport",
        "InspectReport",
        "StateDictExportReport",
        "compare",
        "convert",
        "export",
        "fetch",
        "inspect",
    ]
    assert all(callable(getattr(weights_tools, name)) for name in weights_tools.__all__)


def test_names_are_imported_when_first_used() -> None:
    """So that the commands can set up Ctrl-C before torch is imported, and show their help at once."""
    script = """
import sys, segnets.cli, weights_tools.cli
print('torch' in sys.modules, segnets.save, segnets.layers)
print('segnets._cost' in sys.modules, segnets.Cost, segnets.cost)
import segnets.deploy._verify, segnets.preprocessing
print(segnets.export, segnets.preprocess)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    of_torch, of_cost, after_a_submodule = out.splitlines()
    assert re.match(r"False <function save at \w+> <module 'segnets.layers'", of_torch)
    assert of_cost.startswith("False <class 'segnets._cost.Cost'> <function cost")
    assert after_a_submodule.count("<function") == 2, "functions, not the modules with these names"
    assert set(segnets.__all__) < set(dir(segnets))


@pytest.mark.parametrize("name", NAMES_OF_TORCHVISION)
def test_builders_accept_and_show_torchvisions_arguments(name: str) -> None:
    signature = inspect.signature(getattr(segnets, name))
    defaults = {p.name: p.default for p in signature.parameters.values()}
    assert list(defaults.items())[:5] == [
        ("weights", None),
        ("progress", True),
        ("num_classes", None),
        ("aux_loss", None),
        ("weights_backbone", None),
    ]
    # Then the options that this network has, with its own defaults.
    assert defaults["output_stride"] == (16 if "mobilenet" in name else 8)
    assert ("atrous_rates" in defaults) == name.startswith("deeplabv3")
    assert ("stem" in defaults) == ("resnet" in name)
    assert all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())
    assert "https://arxiv.org/abs/" in getattr(segnets, name).__doc__


def test_the_version_is_defined_once() -> None:
    root = Path(segnets.__file__).parents[1]
    for name in ("pyproject.toml", "cpp/pyproject.toml", "cpp/CMakeLists.txt"):
        text = (root / name).read_text()
        assert segnets.__version__ not in text, name
        assert "segnets/__init__.py" in text or "segnets.__version__" in text, name


def test_list_models() -> None:
    names = segnets.list_models()
    assert names == sorted(names)
    assert set(names) == {f"{head.name}_{backbone}" for head in HEADS for backbone in BACKBONES}
    assert len(names) == len(HEADS) * len(BACKBONES)
    assert segnets.list_models("fcn_resnet???") == ["fcn_resnet101", "fcn_resnet152"]
    assert set(NAMES_OF_TORCHVISION) <= set(names)


@pytest.mark.parametrize("program", ["segnets", "weights_tools"])
def test_commands_have_help(program: str) -> None:
    out = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True).stdout
    commands = {
        "segnets": COMMANDS,
        "weights_tools": ["inspect", "convert", "compare", "export-torchvision", "fetch"],
    }[program]
    assert all(command in out for command in commands)
    wrong = subprocess.run([sys.executable, "-m", program, "frobnicate"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_description_and_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        segnets.cli.main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    examples = text.partition("examples:\n")[2].splitlines()
    assert examples
    assert all(f"segnets {command}" in line for line in examples)
    plain = [line for line in examples if line.startswith(f"  segnets {command}")]  # without torchrun and pipes
    assert plain
    for line in plain:
        with contextlib.suppress(SystemExit):
            options = segnets.cli._parser().parse_args(shlex.split(line)[1:])
            assert callable(options.run)
            continue
        pytest.fail(f"not a valid call: {line}")
