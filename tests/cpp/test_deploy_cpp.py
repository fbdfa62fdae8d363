"""The steps of docs/deploy_cpp.md, run in order in one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnets.deploy import load_exported
from tests import blocks, cmake
from tests.cpp.common import read_pnm
from tests.oracle import randomise_, torchvision

# The README's steps, a part of these, run every time: tests/test_readme.py.
pytestmark = pytest.mark.full

TEXT = (cmake.ROOT / "docs" / "deploy_cpp.md").read_text()
BLOCKS = blocks.blocks_of(TEXT)


def block(kind: str, word: str) -> str:
    return blocks.the_block(BLOCKS, kind, word)


def modules_in(folder: Path) -> dict[str, str]:
    """Return the environment variables with which Python finds the module that the reader installed."""
    return {"PYTHONPATH": os.pathsep.join([str(folder / "site-packages"), os.environ.get("PYTHONPATH", "")])}


def run(command: list[str], folder: Path) -> str:
    return blocks.run(command, folder, modules_in(folder))


def bash(code: str, folder: Path) -> str:
    return blocks.bash(code, folder, modules_in(folder))


@pytest.fixture(scope="module")
def workspace(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the reader's folder, after the first block of the page."""
    folder = tmp_path_factory.mktemp("workspace")
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    randomise_(model)
    torch.save(model.state_dict(), folder / "checkpoint.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.ppm")
    (folder / "build").symlink_to(cmake.ROOT / "build")
    out = bash(block("bash", "weights-tools convert"), folder)
    assert "passed" in out
    for word in ("call 1: ", "steady: ", ", the median of calls 4 to 10", " MiB after loading, "):
        assert word in out
        assert word in TEXT
    return folder


def test_a_project_that_finds_the_installed_library(workspace: Path) -> None:
    bash(block("bash", "cmake --install"), workspace)
    (workspace / "camera" / "CMakeLists.txt").write_text(block("cmake", "find_package(segnets REQUIRED)"))
    (workspace / "camera" / "main.cpp").write_text(block("cpp", "int main"))
    # The program of the README is built in the same project.
    readme = blocks.blocks_of((cmake.ROOT / "README.md").read_text())
    (workspace / "camera" / "readme.cpp").write_text(blocks.the_block(readme, "cpp", "int main"))
    with (workspace / "camera" / "CMakeLists.txt").open("a") as file:
        file.write("add_executable(readme readme.cpp)\ntarget_link_libraries(readme PRIVATE segnets::segnets)\n")
    out = bash(block("bash", "cmake -S camera"), workspace)
    assert "top left: class " in out
    image = torch.from_numpy(np.asarray(Image.open(workspace / "photo.ppm")).copy())[None]
    exported = load_exported(workspace / "model.ts")
    mask = exported.segment(image)[0].numpy()
    assert np.array_equal(read_pnm(workspace / "mask2.pgm"), mask)
    for identity, count in zip(*np.unique(mask, return_counts=True), strict=True):
        assert f"class {identity}: {count} pixels\n" in out
    printed = run([str(workspace / "camera" / "build" / "readme")], workspace)
    assert [[int(word) for word in line.split()] for line in printed.splitlines()] == mask[::6, ::6].tolist()
    top, bottom = exported.segment(image[:, :45])[0, 0, 0], exported.segment(image[:, 45:])[0, 0, 0]
    assert f"top left: class {top}, bottom left: class {bottom}\n" in out

    # An installed library refuses another LibTorch.
    config = workspace / "installed" / "lib" / "cmake" / "segnets" / "segnetsConfig.cmake"
    config.write_text(config.read_text().replace(torch.__version__.partition("+")[0], "1.2.3"))
    with pytest.raises(AssertionError, match=r"built against LibTorch 1\.2\.3, but this is"):
        bash(block("bash", "cmake -S camera").partition("cmake --build")[0], workspace)


def test_the_opencv_example_compiles(workspace: Path, build: Path) -> None:
    flags = subprocess.run(["pkg-config", "--cflags", "opencv4"], capture_output=True, text=True, check=False)
    if flags.returncode != 0:
        pytest.skip("no OpenCV (Debian and Ubuntu: install libopencv-dev)")
    (workspace / "frame.cpp").write_text(block("cpp", "on_frame"))
    include = str(cmake.ROOT / "cpp" / "include")
    run(["c++", "-std=c++20", "-fsyntax-only", "-Wall", "-I", include, *flags.stdout.split(), "frame.cpp"], workspace)


def test_the_python_module(workspace: Path, native: object) -> None:
    out = run([sys.executable, "-W", "error", "-c", block("python", "segnets_native")], workspace)
    assert out == ("lraspp_mobilenet_v3_large (90, 120) True\nimage: is float32, expected uint8, 0..255\n")
    assert sorted(path.name.partition(".")[0] for path in (workspace / "site-packages").iterdir()) == [
        "segnets_native",
        "segnets_native-stubs",
    ]
