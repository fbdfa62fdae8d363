"""The network that comes with segnets, which is used if no model is named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import segnets
from segnets import shipped
from segnets.cli import main
from tests.data.common import write_folder
from tests.inference.common import random_image


@pytest.fixture(scope="module")
def model() -> Any:
    return segnets.load(shipped.WEIGHTS)


def test_the_file_is_small_and_says_what_it_is(model: Any) -> None:
    assert shipped.WEIGHTS.stat().st_size < 3_000_000
    assert {str(tensor.dtype) for tensor in load_file(shipped.WEIGHTS).values()} == {"torch.float16", "torch.int64"}
    assert f"{len(model.card.classes)} classes" in shipped.NOTICE
    assert len(set(model.card.palette)) == len(model.card.classes)
    assert model.card.provenance["licence"] == "CC BY-NC 4.0"
    terms = shipped.WEIGHTS.with_name("LICENSE").read_text()
    assert shipped.WEIGHTS.name in terms
    assert "Attribution-NonCommercial 4.0 International Public License" in " ".join(terms.split())


def test_the_default_of_a_predictor(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    photo = random_image()
    with caplog.at_level(logging.WARNING, "segnets"):
        predictor = segnets.Predictor(deterministic=True)
    assert [record.getMessage() for record in caplog.records] == [f"{shipped.NOTICE}; Predictor(FILE) for yours"]
    np.testing.assert_array_equal(predictor.predict(photo).mask, segnets.segment(model, photo))
    assert predictor.classes == model.card.classes


def test_the_default_of_the_command(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = random_image()
    Image.fromarray(photo).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "street.png", "--deterministic"]) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"segnets: {shipped.NOTICE}; --model FILE for yours"
    with Image.open(tmp_path / "results" / "street.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), segnets.segment(model, photo))


def test_evaluate_refuses_data_of_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(write_folder(tmp_path))]) == 1
    notice, error = capsys.readouterr().err.splitlines()
    assert notice == f"segnets: {shipped.NOTICE}; --model FILE for yours"
    assert "classes" in error


def test_evaluate_scores_it(model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "classes = " + json.dumps(list(model.card.classes))
    assert main(["evaluate", str(write_folder(tmp_path, train=0, val=1, description=names)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1
