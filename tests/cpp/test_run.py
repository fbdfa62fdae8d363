"""segnets-run computes the same masks as Python, pixel for pixel."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from segnets.deploy import load_exported
from segnets.preprocessing import Preprocessing, preprocess
from segnets.resize_rules import scaled_side
from tests.cpp.common import export_tiny, read_pnm, run, run_anew, write_ppm
from tests.deploy.common import SMALL, random_image, rewrite

SIZES = [(64, 80), (65, 97), (33, 130), (1, 1), (1, 300), (300, 1), (200, 301)]


def test_a_forked_program_does_what_a_new_one_does(
    build: Path, small: Path, small_ppm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most tests run forks of a loaded program (cpp/tests/starter.cpp)."""
    monkeypatch.chdir(tmp_path)
    masks = []
    for arguments in (("--help",), ("--repeat", "x"), ("none.ts", small_ppm, "m.pgm"), (small, small_ppm, "m.pgm")):
        results = []
        for start in (run, run_anew):
            done = start(build, *arguments)
            results.append((done.returncode, done.stdout, done.stderr))
            masks += [path.read_bytes() for path in tmp_path.glob("m.pgm")]
            (tmp_path / "m.pgm").unlink(missing_ok=True)
        assert results[0] == results[1]
    assert masks == [masks[0]] * 2


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_mask_equals_that_of_python(height: int, width: int, build: Path, small: Path, tmp_path: Path) -> None:
    image = random_image(height, width)
    ppm = write_ppm(tmp_path / "i.ppm", image)
    result = run(build, small, ppm, tmp_path / "m.pgm", "--overlay", tmp_path / "o.ppm")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{height}x{width} (height x width), 5 classes" in result.stdout
    exported = load_exported(small)
    mask = exported.segment(image)[0].numpy()
    assert np.array_equal(read_pnm(tmp_path / "m.pgm"), mask)
    colours = np.array(exported.contract.card.palette)[mask]
    blended = (image[0].numpy().astype(int) + colours + 1) // 2
    expected = np.where((colours == 0).all(-1, keepdims=True), image[0].numpy(), blended)
    assert np.array_equal(read_pnm(tmp_path / "o.ppm"), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.ppm", "m.pgm", "o.ppm"]


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(size=100),
        Preprocessing(resize="none", channel_order="BGR"),
        Preprocessing(resize="fixed", size=(50, 60), interpolation="bicubic", mean=(0.4, 0.5, 0.6)),
        Preprocessing(resize="scale", size=2),
    ],
)
def test_every_preprocessing_equals_that_of_python(preprocessing: Preprocessing, build: Path, tmp_path: Path) -> None:
    export_tiny(tmp_path / "m.ts", 300, preprocessing, output="dict")
    image = random_image(65, 97, seed=3)
    result = run(build, tmp_path / "m.ts", write_ppm(tmp_path / "i.ppm", image), tmp_path / "m.pgm")
    assert result.returncode == 0, result.stderr
    expected = load_exported(tmp_path / "m.ts").segment(image)[0].numpy()
    assert np.array_equal(read_pnm(tmp_path / "m.pgm"), expected)  # 16-bit, for more than 256 classes
    assert run(build, "--self-test", tmp_path / "m.ts").returncode == 0


def test_self_test_passes_and_fails(build: Path, small: Path, tmp_path: Path) -> None:
    result = run(build, "--self-test", small)
    assert (result.returncode, result.stderr) == (0, "")
    # On some CPUs, a pixel whose two best logits are nearly equal gets the other class.
    differ = re.search(r"classes of (\d+) of 3072 pixels differ(?:, (\d+) of them near-ties)?\n", result.stdout)
    assert differ is not None
    assert (differ[2] or "0") == differ[1]
    assert result.stdout.endswith("passed\n")

    def other_logits(name: str, contents: bytes) -> bytes:
        if not name.endswith("golden.safetensors"):
            return contents
        header = json.loads(contents[8 : 8 + struct.unpack("<Q", contents[:8])[0]])
        data = bytearray(contents)
        at = 8 + struct.unpack("<Q", contents[:8])[0] + header["logits"]["data_offsets"][0]
        data[at : at + 4] = struct.pack("<f", 1e9)
        return bytes(data)

    result = run(build, "--self-test", rewrite(small, tmp_path / "t.ts", other_logits))
    assert result.returncode == 1
    assert "FAILED" in result.stdout
    assert "its outputs differ from the exported model" in result.stderr


def test_repeat_prints_time_and_memory(build: Path, small: Path, small_ppm: Path, tmp_path: Path) -> None:
    result = run(build, small, small_ppm, tmp_path / "m.pgm", "--repeat", 7, "--threads", 1, "--warm-up")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:5]] == ["call 1", "call 2", "call 3", "steady", "memory"]
    assert lines[3].endswith(" ms, the median of calls 4 to 7")
    memory = re.fullmatch(r"memory: (\d+) MiB after loading, (\d+) MiB after the calls, (\d+) MiB at most", lines[4])
    assert memory is not None
    assert 20 < int(memory[1]) <= int(memory[3]) < 4000
    assert int(memory[2]) <= int(memory[3])
    assert read_pnm(tmp_path / "m.pgm").shape == (2, 3)
    few = run(build, small, small_ppm, tmp_path / "m.pgm", "--repeat", 2).stdout.splitlines()
    assert [line.split(":")[0] for line in few[:3]] == ["call 1", "call 2", "memory"]


def test_two_threads_equal_two_threads_in_python(build: Path, small: Path, tmp_path: Path) -> None:
    image = random_image(97, 131)
    ppm = write_ppm(tmp_path / "i.ppm", image)
    assert run(build, small, ppm, tmp_path / "m.pgm", "--threads", 2).returncode == 0
    torch.set_num_threads(2)
    assert np.array_equal(read_pnm(tmp_path / "m.pgm"), load_exported(small).segment(image)[0].numpy())


@pytest.mark.parametrize("output", ["tensor", "dict"])
def test_logits_equal_those_of_python(output: Literal["tensor", "dict"], build: Path, tmp_path: Path) -> None:
    export_tiny(tmp_path / "m.ts", 5, Preprocessing(size=50), output)
    image = random_image(65, 97, seed=4)
    ppm = write_ppm(tmp_path / "i.ppm", image)
    result = run(build, tmp_path / "m.ts", ppm, tmp_path / "m.pgm", "--logits", tmp_path / "l.npy", "--threads", 1)
    assert result.returncode == 0, result.stderr
    exported = load_exported(tmp_path / "m.ts")
    logits = np.load(tmp_path / "l.npy")
    assert logits.shape == (1, 5, 50, 74)
    assert np.array_equal(logits, exported.logits(exported.preprocess(image)).numpy())


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
def test_a_scaled_image_has_the_size_that_it_has_in_python(factor: float, build: Path, tmp_path: Path) -> None:
    preprocessing = Preprocessing(resize="scale", size=factor)
    export_tiny(tmp_path / "m.ts", 5, preprocessing)
    exported = load_exported(tmp_path / "m.ts")
    for height, width in ((1, 1), (1, 2), (33, 131), (47, 49)):
        image = random_image(height, width, seed=height)
        ppm = write_ppm(tmp_path / "i.ppm", image)
        result = run(build, tmp_path / "m.ts", ppm, tmp_path / "m.pgm", "--logits", tmp_path / "l.npy")
        assert result.returncode == 0, result.stderr
        logits = np.load(tmp_path / "l.npy")
        assert logits.shape == (1, 5, scaled_side(height, factor), scaled_side(width, factor))
        assert np.array_equal(logits, exported.logits(preprocess(image, preprocessing)).numpy())
        assert np.array_equal(read_pnm(tmp_path / "m.pgm"), exported.segment(image)[0].numpy())


def test_an_overlay_without_a_palette_has_voc_colours(build: Path, tmp_path: Path) -> None:
    """Without class names and colours, the overlay has the VOC colour map."""
    export_tiny(tmp_path / "m.ts", 21, SMALL)
    image = random_image(40, 50)
    ppm = write_ppm(tmp_path / "i.ppm", image)
    assert run(build, tmp_path / "m.ts", ppm, tmp_path / "m.pgm", "--overlay", tmp_path / "o.ppm").returncode == 0
    voc = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)])
    mask = read_pnm(tmp_path / "m.pgm")
    overlay = read_pnm(tmp_path / "o.ppm").astype(int)
    for identity in range(1, len(voc)):
        here = mask == identity
        assert np.array_equal(overlay[here], (image[0].numpy()[here].astype(int) + voc[identity] + 1) // 2)


@pytest.mark.parametrize("classes", [5, 300])
def test_png_without_a_library(classes: int, build: Path, tmp_path: Path) -> None:
    """Masks are indexed by class with the export's palette; above 256 classes they are 16-bit gray."""
    export_tiny(tmp_path / "m.ts", classes)
    image = random_image(230, 301)  # more than one stored block
    ppm = write_ppm(tmp_path / "i.ppm", image)
    result = run(build, tmp_path / "m.ts", ppm, tmp_path / "m.png", "--overlay", tmp_path / "o.png")
    assert result.returncode == 0, result.stderr
    run(build, tmp_path / "m.ts", ppm, tmp_path / "m.pgm", "--overlay", tmp_path / "o.ppm")
    with Image.open(tmp_path / "m.png") as mask, Image.open(tmp_path / "o.png") as overlay:
        assert mask.mode == ("P" if classes == 5 else "I;16")
        assert np.array_equal(np.asarray(mask), read_pnm(tmp_path / "m.pgm"))
        assert np.array_equal(np.asarray(overlay), read_pnm(tmp_path / "o.ppm"))
        if classes == 5:
            assert mask.getpalette() == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]


def test_every_way_to_pass_pixels(build: Path, small: Path) -> None:
    """Strides, BGR, batches and invalid views; also regions of cv::Mat if the build has OpenCV."""
    result = subprocess.run([build / "segnets-test-views", small], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("0 failures\n")
    has_opencv = "This build has OpenCV" in run(build, "--help").stdout
    assert ("cv::Mat too" in result.stdout) == has_opencv


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_results_that_could_not_be_printed(build: Path, small: Path) -> None:
    for arguments in (["--self-test", small], ["--help"]):
        with Path("/dev/full").open("w") as full:
            command = [build / "segnets-run", *arguments]
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert result.returncode == 1
        assert result.stderr == "segnets-run: standard output: can't be written: No space left on device\n"
