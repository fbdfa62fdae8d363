"""Files in the form of segnets with descriptions that segnets never wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segnets.errors import WeightsError
from segnets.preprocessing import Preprocessing
from weights_tools import convert, inspect

LRASPP, MOBILENET = "lraspp_mobilenet_v3_large", "mobilenet_v3_small"
HOSTILE: list[tuple[str, Any]] = [
    (LRASPP, {"num_classes": 2**62}),
    (LRASPP, {"num_classes": 2**70}),
    (LRASPP, {"num_classes": -1}),
    (LRASPP, {"num_classes": "x" * 10_000}),
    (LRASPP, {"aux_loss": True}),
    (LRASPP, {"x" * 10_000: 1}),
    (LRASPP, {"weights": "DEFAULT"}),
    ("resnet18", {"num_classes": 2**62}),
    ("resnet18", {"num_classes": -1}),
    ("resnet18", {"num_classes": 2**70}),
    ("resnet50", {"replace_stride_with_dilation": {"a": 1, "b": 2, "c": 3}}),
    ("resnet50", {"norm_layer": "BatchNorm2d"}),
    (MOBILENET, {"width_mult": 1e308}),
    (MOBILENET, {"width_mult": 1e9}),
    ("eval", {}),
]


def _write(folder: Path, text: str) -> Path:
    path = folder / "own.safetensors"
    save_file({"w": torch.ones(2, 2)}, path, {"segnets": text})
    return path


def _description(name: str, options: Any) -> str:
    card = {"classes": [], "palette": [], "preprocessing": Preprocessing().to_json(), "provenance": {}}
    return json.dumps({"format": 1, "model": {"name": name, "options": options}, **card})


def _check(path: Path, message: str) -> None:
    report = inspect(path)
    assert report.refused is not None
    assert message in report.refused
    with pytest.raises(WeightsError) as error:
        convert(path, path.with_name("out.safetensors"))
    text = str(error.value)
    assert text == f"{path}: {report.refused}"
    assert len(text.splitlines()) == 1
    assert len(text) < len(str(path)) + 400
    assert not path.with_name("out.safetensors").exists()


@pytest.mark.parametrize(("name", "options"), HOSTILE)
def test_networks_that_cannot_be_built(tmp_path: Path, name: str, options: Any) -> None:
    _check(_write(tmp_path, _description(name, options)), name)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "{}", '{"format": 1}', '{"format": 99}'])
def test_damaged_descriptions_are_reported_once(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path, text)
    newer = "99" in text
    _check(path, "was written in format 99 by a newer segnets" if newer else "its description is ")
    assert "it: " not in str(inspect(path).refused)
