"""examples/frames: C++ decodes and preprocesses images, Python runs the network and returns the masks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import segnets
from segnets.segmenter import segment
from tests import cmake
from tests.cmake import ROOT
from tests.cpp.common import read_pnm, write_ppm
from tests.deploy.common import SMALL, random_image, random_model

SIZE = (65, 97)
FRAMES = 6  # more than the slots of the ring

pytestmark = pytest.mark.full  # its program takes a sixth of the build; tests/ring has both languages every time

Workspace = tuple[Path, Path, list[torch.Tensor]]


@pytest.fixture(scope="module")
def producer_path(build: Path) -> Path:
    folder, output = cmake.build(ROOT / "cpp", build.name, "-DSEGNETS_BUILD_EXAMPLES=ON")
    assert "warning:" not in output, output
    return folder / "segnets-frame-producer"


@pytest.fixture(scope="module")
def workspace(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return weights, their export, and images; image n is also in n.ppm in the folder of the weights."""
    folder = tmp_path_factory.mktemp("frames")
    segnets.save(random_model(num_classes=5), folder / "w.safetensors", preprocessing=SMALL)  # the weights of `small`
    images = [random_image(*SIZE, seed=i) for i in range(FRAMES)]
    for i, image in enumerate(images):
        write_ppm(folder / f"{i + 1}.ppm", image)
    return folder / "w.safetensors", small, images


def start(*command: object) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"} | {"PYTHONPATH": str(ROOT)}
    words = list(map(str, command))
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_the_masks_equal_those_of_one_process(producer_path: Path, workspace: Workspace, tmp_path: Path) -> None:
    weights, exported, images = workspace
    rings = [tmp_path / "frames", tmp_path / "masks"]
    files = [weights.parent / f"{i + 1}.ppm" for i in range(FRAMES)]
    consumer = start(sys.executable, ROOT / "examples/frames/consumer.py", weights, *rings)
    producer = start(producer_path, exported, *rings, tmp_path, *files)
    assert producer.communicate(timeout=120) == ("", "")
    output, errors = consumer.communicate(timeout=120)
    assert (producer.returncode, consumer.returncode, errors) == (0, 0, "")
    assert output.count("\n") == FRAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i + 1}.pgm" for i in range(FRAMES)]  # no rings left

    model = segnets.load(weights)
    for i, image in enumerate(images):
        expected = segment(model, image, SMALL)[0].numpy()
        assert np.array_equal(read_pnm(tmp_path / f"{i + 1}.pgm"), expected)
        share = np.bincount(expected.ravel()).max() / expected.size
        assert f"frame {i + 1}: class {np.bincount(expected.ravel()).argmax()} {share:.1%}" in output


def test_each_side_sees_the_state_of_the_other(producer_path: Path, workspace: Workspace, tmp_path: Path) -> None:
    weights, exported, _ = workspace
    rings = [tmp_path / "frames", tmp_path / "masks"]
    image = weights.parent / "1.ppm"
    other = write_ppm(tmp_path / "other.ppm", random_image(10, 10))
    consumer = start(sys.executable, ROOT / "examples/frames/consumer.py", weights, *rings)
    producer = start(producer_path, exported, *rings, tmp_path, image, other)
    _, complaints = producer.communicate(timeout=120)
    assert complaints == f"{other}: its size differs from the first image's. All frames of a ring have one size.\n"
    _, complaints = consumer.communicate(timeout=120)
    assert complaints == f"{rings[0]}: the producer died: its process ended without closing the ring\n"
    assert (producer.returncode, consumer.returncode) == (1, 1)

    producer = start(producer_path, exported, *rings, tmp_path, image)
    with segnets.FrameRing.open(rings[0], timeout=60) as frames, segnets.FrameRing.open(rings[1], "producer"):
        assert frames.next(60) is not None
    _, complaints = producer.communicate(timeout=120)
    assert complaints == f"{rings[1]}: the Python program has ended. See its last lines.\n"


def test_a_side_that_left_before_opening_both_rings_is_noticed(
    producer_path: Path, workspace: Workspace, tmp_path: Path
) -> None:
    weights, exported, _ = workspace
    rings = [tmp_path / "frames", tmp_path / "masks"]
    producer = start(producer_path, exported, *rings, tmp_path, weights.parent / "1.ppm")
    segnets.FrameRing.open(rings[0], timeout=60).close()
    _, complaints = producer.communicate(timeout=120)
    assert complaints == f"{rings[0]}: the Python program has ended. See its last lines.\n"


def test_calls_that_the_producer_refuses(producer_path: Path, workspace: Workspace, tmp_path: Path) -> None:
    weights, exported, _ = workspace
    image = weights.parent / "1.ppm"
    (tmp_path / "cut.ts").write_bytes(exported.read_bytes()[:5000])
    for model, folder, message in (
        (tmp_path / "cut.ts", tmp_path, "cut.ts: is truncated or damaged"),
        (weights, tmp_path, "but a safetensors file"),
        (exported, tmp_path / "none", "none: not a folder. Create it first."),
    ):
        producer = start(producer_path, model, tmp_path / "f", tmp_path / "m", folder, image)
        _, complaints = producer.communicate(timeout=120)
        assert producer.returncode == 1
        assert message in complaints
        assert complaints.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cut.ts"]
