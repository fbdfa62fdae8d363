"""Compiled models (.pt2) in C++: the golden pair, masks equal to Python's, threads, bounds, and refused files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segnets.deploy import export, load_exported
from segnets.preprocessing import Preprocessing, preprocess
from segnets.segmenter import segment
from tests.cpp.common import fails, read_pnm, run, write_ppm
from tests.deploy.common import (
    SMALL,
    changed,
    compiled,
    needs_compiler,
    quick_compiler,
    random_image,
    rewrite,
    tiny,
    without,
)

__all__ = ["compiled"]  # a fixture
pytestmark = needs_compiler


def test_the_golden_pair(build: Path, compiled: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [build / "segnets-run", "--self-test", compiled], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "passed" in done.stdout
    assert list(tmp_path.iterdir()) == []  # the temporary file that it was loaded from is gone


def test_folders_of_temporary_files(build: Path, compiled: Path, tmp_path: Path) -> None:
    def in_folder(options: str) -> str:
        """Return what segnets-run says where TMPDIR is a file system of its own."""
        mount = f"mount -t tmpfs -o {options} none {tmp_path}"
        program = f"TMPDIR={tmp_path} exec {build / 'segnets-run'} --self-test {compiled}"
        return subprocess.run([*apart, f"{mount} && {program}"], capture_output=True, text=True).stderr

    apart = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: it is a part of util-linux")
    allowed = subprocess.run([*apart, f"mount -t tmpfs none {tmp_path}"], capture_output=True, text=True)
    if allowed.returncode != 0:
        pytest.skip(f"can't mount a file system here: {allowed.stderr}")
    assert in_folder("size=100m") == ""
    unpacked = f"{tmp_path}: the compiled network is unpacked there, where no program may run (noexec); set TMPDIR"
    assert unpacked in in_folder("noexec")
    assert "can't be written" in in_folder("size=8k")


def test_the_mask_equals_that_of_python(build: Path, compiled: Path, tmp_path: Path, native: Any) -> None:
    image = random_image(47, 65)
    expected = load_exported(compiled).segment(image)[0].numpy()
    run(build, compiled, write_ppm(tmp_path / "image.ppm", image), tmp_path / "mask.pgm")
    assert np.array_equal(read_pnm(tmp_path / "mask.pgm"), expected)
    assert np.array_equal(native.Model(compiled).segment(image[0].numpy()), expected)


@pytest.mark.full
def test_enlarged_images(build: Path, tmp_path: Path, native: Any) -> None:
    """Another preprocessing needs another compiled file."""
    rule, image = Preprocessing(resize="scale", size=1.5), random_image(47, 65)
    with quick_compiler():
        export(tiny(), tmp_path / "m.pt2", format="aoti", preprocessing=rule)
    exported = load_exported(tmp_path / "m.pt2")
    assert torch.equal(exported.preprocess(image), preprocess(image, rule))
    expected = exported.segment(image)
    assert (expected == segment(tiny(), image, rule)).float().mean() > 0.99
    assert not torch.equal(expected, segment(tiny(), image, SMALL))
    run(build, tmp_path / "m.pt2", write_ppm(tmp_path / "image.ppm", image), tmp_path / "mask.pgm")
    assert np.array_equal(read_pnm(tmp_path / "mask.pgm"), expected[0].numpy())
    assert np.array_equal(native.Model(tmp_path / "m.pt2").segment(image[0].numpy()), expected[0].numpy())


def test_a_batch_in_groups(compiled: Path, native: Any) -> None:
    """The model computes groups of 52 and 8 images."""
    images = torch.cat([random_image(64, 80, seed) for seed in range(60)])
    exported, model = load_exported(compiled), native.Model(compiled)
    logits = model.logits(images.numpy())
    assert np.array_equal(logits, exported.logits(exported.preprocess(images)).numpy())
    assert np.array_equal(logits[52], model.logits(images[52].numpy()))
    assert np.array_equal(model.segment(images.numpy()), exported.segment(images).numpy())


def test_many_threads(build: Path, compiled: Path) -> None:
    done = subprocess.run([build / "segnets-test-threads", compiled, "4", "6"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4 threads, 6 calls each: 0 wrong masks, 0 failures\n"), done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(processor={"instructions": ["avx1024"]}), "instructions that this CPU lacks: avx1024"),
        (changed(format_version=3), "it has version 3"),
        (changed(kind="torchscript"), "declares kind 'torchscript', but the file is aoti"),
        (changed(kind="tensorrt"), "kind is 'tensorrt'"),
        (changed(bounds={"depth": [1, 2]}), "bounds of an unknown 'depth'"),
        (changed(pixels_at_once=0), "pixels_at_once is below 1"),
        (changed(bounds={"height": [65, 4096]}), "a height of 48, but this file was compiled for 65 to 4096"),
        (without("segnets.json"), "an archive of torch.export without a contract"),
        (without("golden.safetensors"), "carries no golden pair"),
        (without("image.ts"), "has no image.ts"),
        (without(".so"), "LibTorch can't load it"),
    ],
)
def test_files_that_were_changed(
    build: Path, compiled: Path, tmp_path: Path, change: Callable[[str, bytes], bytes | None], message: str
) -> None:
    fails(build, message, "--self-test", rewrite(compiled, tmp_path / "changed.pt2", change))
