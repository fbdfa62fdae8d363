"""Messages and exit statuses of the commands, apart from what the tests of their functions check."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segnets
from segnets.cli import main
from segnets.console import progress, run_command
from segnets.errors import ExportError, ImageError, WeightsError
from segnets.inference import overlay, voc_palette
from segnets.interrupts import exit_at_once
from tests.deploy.common import one_thread, random_model, small
from weights_tools.cli import main as weights_tools_main

__all__ = ["one_thread", "small"]


@pytest.mark.parametrize(("program", "name"), [(main, "segnets"), (weights_tools_main, "weights-tools")])
def test_version(program: Callable[[list[str]], int], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        program(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"{name} {segnets.__version__}\n"


_STARTER = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from {0}.__main__ import main; "
    "print('ready', flush=True); sys.argv = sys.argv[1:]; exit(main())"
)


@pytest.mark.parametrize("package", ["segnets", "weights_tools"])
def test_ctrl_c_shows_one_line(package: str, tmp_path: Path) -> None:
    """Also while torch is imported, which takes a second or more."""
    weights = tmp_path / "w.safetensors"
    segnets.save(segnets.create_model("fcn_resnet18"), weights, preprocessing=segnets.Preprocessing())
    words = [package, "export" if package == "segnets" else "convert", str(weights), str(tmp_path / "out.ts")]
    moments = (0.05, 0.15, 0.3)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _STARTER.format(package), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in moments
    ]
    for process, moment in zip(started, moments, strict=True):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
    name = package.replace("_", "-")
    for process in started:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, "", f"{name}: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_ctrl_c_is_an_exception_in_commands_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It removes temporary files there. Before and after a command, the process ends at once."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores Ctrl-C

    def interrupt() -> int:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    try:
        exit_at_once("segnets")
        stop = signal.getsignal(signal.SIGINT)
        assert stop is not before
        assert run_command(interrupt, "segnets") == 130
        assert signal.getsignal(signal.SIGINT) is stop
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
        exit_at_once("segnets")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "segnets: interrupted\n"


def test_long_work_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("segnets", "quick", after=60):
        pass
    with progress("segnets", "exporting\nto x", after=0):
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "segnets: exporting\\nto x\n")


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("nosuch*", "no network matches 'nosuch*'. Names are HEAD_BACKBONE; the heads are deeplabv3, "),
        ("fcn_resnet5", "Similar names: fcn_resnet50, "),
        ("nosuchhead_resnet34", "_resnet34, "),
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
    with pytest.raises(ExportError, match="contains a lraspp_mobilenet_v3_large, but was compared with a fcn_resnet18"):
        segnets.verify(small, against=segnets.create_model("fcn_resnet18", num_classes=6))
    report = segnets.verify(small, against=segnets.create_model("lraspp_resnet18", num_classes=5))
    assert not report.passed
    assert "\n  compared with another network, lraspp_resnet18\n" in str(report)
    assert "another network" not in str(segnets.verify(small, against=random_model(num_classes=5)))


def test_overlay_of_planes_and_gray_images() -> None:
    palette = [(0, 0, 0), (200, 0, 50), (0, 100, 0)]
    planes = np.array([[[1, 0, 0, 1]], [[0, 1, 1, 0]], [[0, 1, 0, 0]]], dtype=np.uint8)
    gray = np.full((1, 4), 100, dtype=np.uint8)
    expected = [[100, 100, 100], [50, 100, 50], [150, 50, 75], [100, 100, 100]]  # of two planes, the last
    assert overlay(gray, planes, palette)[0].tolist() == expected
    assert overlay(gray[..., None], planes, palette)[0].tolist() == expected
    bands = np.dstack([gray, gray + 1, gray + 2, gray + 3])
    assert overlay(bands[..., :2], np.array([[0, 0, 0, 1]]), palette)[0, 2:].tolist() == [[100] * 3, [150, 50, 75]]
    assert overlay(bands, np.array([[0, 0, 0, 1]]), palette)[0, 2:].tolist() == [[100, 101, 102], [150, 51, 76]]
    assert np.array_equal(overlay(gray, planes), overlay(gray, planes, voc_palette(3)))
    with pytest.raises(ImageError, match="the mask has 3 planes, but the palette has 2 colours"):
        overlay(gray, planes, palette[:2])


def test_overlay_reads_files_as_segment_does(tmp_path: Path) -> None:
    path, turned = tmp_path / "turned.png", Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 4, 3)
    Image.fromarray(pixels).save(path, exif=turned)
    assert np.array_equal(overlay(path, np.zeros((4, 1), np.uint8)), pixels.reshape(4, 1, 3))


def test_void_pixels_leave_the_image_unchanged() -> None:
    image = np.full((1, 4, 3), 100, dtype=np.uint8)
    mask = np.array([[0, 1, 255, 2]], dtype=np.uint8)
    shown = overlay(image, mask, [(0, 0, 0), (200, 0, 50), (0, 100, 0)])
    assert shown[0].tolist() == [[100, 100, 100], [150, 50, 75], [100, 100, 100], [50, 100, 50]]
    assert np.array_equal(overlay(image, mask), overlay(image, mask, voc_palette(3)))
    assert np.array_equal(overlay(image, mask + np.int16(1)), overlay(image, mask + np.int16(1), voc_palette(257)))
    assert overlay(image, mask, voc_palette(256))[0, 2].tolist() == [162, 162, 146]  # a class of its own
    for wrong in ([[0, 1, 3, 0]], [[0, 1, 254, 255]]):
        with pytest.raises(ImageError, match=r"the mask has ids 0\.\."):
            overlay(image, np.array(wrong), [(0, 0, 0), (200, 0, 50), (0, 100, 0)])
    with pytest.raises(ImageError, match=r"the mask has ids -1\.\.2"):
        overlay(image, np.array([[-1, 2, 255, 0]]), [(0, 0, 0), (200, 0, 50), (0, 100, 0)])
