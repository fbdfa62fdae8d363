"""Messages and exit statuses of the commands, apart from what the tests of their functions check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import segnets
from segnets.cli import main
from segnets.console import run_command
from segnets.errors import ExportError, ImageError, WeightsError
from segnets.inference import overlay, voc_palette
from tests.deploy.common import one_thread, random_model, small
from weights_tools.cli import main as weights_tools_main

__all__ = ["one_thread", "small"]


@pytest.mark.parametrize(("program", "name"), [(main, "segnets"), (weights_tools_main, "weights-tools")])
def test_version(program: Callable[[list[str]], int], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        program(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"{name} {segnets.__version__}\n"


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("unet*", "no network matches 'unet*'. Names are HEAD_BACKBONE; the heads are deeplabv3, deeplabv3plus, fcn"),
        ("fcn_resnet5", "Near names: fcn_resnet50, "),
        ("unet_resnet34", "Near names: pspnet_resnet34, "),
    ],
)
def test_a_pattern_without_a_match_fails(pattern: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", pattern]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert near in err
    assert err.count("\n") == 1
    assert len(err) < 350


def test_a_line_feed_in_a_file_name_does_not_split_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "no\nsuch\r\nfile.safetensors"]) == 1
    assert capsys.readouterr().err == "segnets: no\\nsuch\\r\\nfile.safetensors: no such file\n"

    def refuse() -> int:
        raise WeightsError("a\nb.pth: 2 missing\n  - backbone.layer1\n  + other")

    assert run_command(refuse, "segnets") == 1
    assert capsys.readouterr().err == "segnets: a\\nb.pth: 2 missing\n  - backbone.layer1\n  + other\n"


def test_another_network_is_named_by_verify(small: Path) -> None:
    with pytest.raises(ExportError, match="holds a lraspp_mobilenet_v3_large, and was compared with a fcn_resnet18"):
        segnets.verify(small, against=segnets.create_model("fcn_resnet18", num_classes=6))
    report = segnets.verify(small, against=segnets.create_model("lraspp_resnet18", num_classes=5))
    assert not report.passed
    assert "\n  compared with another network, lraspp_resnet18\n" in str(report)
    assert "another network" not in str(segnets.verify(small, against=random_model(num_classes=5)))


def test_void_pixels_leave_the_image_unchanged() -> None:
    image = np.full((1, 4, 3), 100, dtype=np.uint8)
    mask = np.array([[0, 1, 255, 2]], dtype=np.uint8)
    shown = overlay(image, mask, [(0, 0, 0), (200, 0, 50), (0, 100, 0)])
    assert shown[0].tolist() == [[100, 100, 100], [150, 50, 75], [100, 100, 100], [50, 100, 50]]
    assert overlay(image, mask, voc_palette(256))[0, 2].tolist() == [162, 162, 146]  # a class of its own
    for wrong in ([[0, 1, 3, 0]], [[0, 1, 254, 255]]):
        with pytest.raises(ImageError, match=r"mask with ids 0\.\."):
            overlay(image, np.array(wrong), [(0, 0, 0), (200, 0, 50), (0, 100, 0)])
    with pytest.raises(ImageError, match=r"mask with ids -1\.\.2"):
        overlay(image, np.array([[-1, 2, 255, 0]]), [(0, 0, 0), (200, 0, 50), (0, 100, 0)])
