"""What can't be exported says so in one line; and where an export is made leaves no trace in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import segnets
from segnets import backbones
from segnets.errors import ExportError
from segnets.export import export, read_contract, verify
from tests.export.common import random_model


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"classes": 5}, "classes=5: expected a list"),
        ({"classes": ["a"] * 4 + ["\ud800"]}, r"classes\[4\]='\\ud800': expected a printable text"),
        ({"palette": [(1, 2)] * 5}, r"palette\[0\]=\(1, 2\): expected three whole numbers"),
        ({"palette": "red"}, "palette='red': expected a list"),
    ],
)
def test_cards_that_can_not_be(card: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(random_model(num_classes=5), tmp_path / "m.ts", **card)  # type: ignore[arg-type]  # mistakes
    assert list(tmp_path.iterdir()) == []


def test_what_was_proven_of_the_weights_is_not_claimed_of_the_export(tmp_path: Path) -> None:
    model = random_model(num_classes=5)
    model.card = segnets.ModelCard(provenance={"source_sha256": "12ab", "proof": "every tensor byte-equal"})  # type: ignore[assignment]
    export(model, tmp_path / "m.ts")
    assert read_contract(tmp_path / "m.ts").provenance == {"derived_from": {"source_sha256": "12ab"}}


def test_a_classifier_has_no_mask(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"this ResNet gives a Tensor .*: export takes a segmentation model"):
        export(backbones.resnet18(num_classes=3), tmp_path / "m.ts")


def test_another_default_dtype_changes_nothing(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = random_model(num_classes=2).float()
        export(model, tmp_path / "m.ts")
    finally:
        torch.set_default_dtype(torch.float32)
    assert verify(tmp_path / "m.ts", against=model).passed


_EXPORT = """
import sys, torch, segnets
torch.set_num_threads(1)
torch.manual_seed(0)
segnets.export(segnets.lraspp_mobilenet_v3_large(num_classes=2), sys.argv[1])
"""


def test_no_paths_of_this_machine_and_the_same_bytes_from_elsewhere(tmp_path: Path) -> None:
    """The second export runs from a copy of the package in another folder.

    With one PYTHONHASHSEED: TorchScript writes the constants of a module in the order of a Python set.
    """
    package = Path(segnets.__file__).parent
    shutil.copytree(package, tmp_path / "elsewhere" / "segnets")
    for name, folder in (("1.ts", package.parent), ("2.ts", tmp_path / "elsewhere")):
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        subprocess.run([sys.executable, "-c", _EXPORT, tmp_path / name], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "1.ts").read_bytes() == (tmp_path / "2.ts").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.ts") as archive:
        for entry in archive.infolist():
            contents = archive.read(entry)
            for folder in (package.parent, Path(torch.__file__).parent.parent, tmp_path):
                assert str(folder).encode() not in contents, entry.filename
            if "/data/" in entry.filename:
                start = entry.header_offset + 30 + len(entry.filename) + len(entry.extra)
                assert start % 64 == 0, entry.filename
