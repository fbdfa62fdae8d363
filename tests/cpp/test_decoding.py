"""Thresholds, planes of several labels, gray images and images of several bands in C++."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from segnets.card import Decoding
from segnets.deploy import export, load_exported
from tests.cpp.common import fails, picture, read_pnm, run, write_ppm
from tests.deploy.common import SMALL
from tests.deploy.test_channels import prepared_for
from tests.deploy.test_channels import tiny as tiny_of
from tests.deploy.test_decoding import spread


@pytest.fixture(scope="module")
def threshold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("threshold") / "m.ts"
    names = ["road", "crack"]
    export(spread(1), path, preprocessing=SMALL, decoding=Decoding("threshold", 0.3), classes=names)
    return path


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planes") / "m.ts"
    names = ["a", "b", "c"]
    export(spread(3), path, preprocessing=SMALL, decoding=Decoding("multilabel", 0.7), classes=names)
    return path


def test_a_threshold_gives_two_ids(build: Path, threshold: Path, tmp_path: Path) -> None:
    image = torch.from_numpy(picture(1, 40, 50, 3))
    expected = load_exported(threshold).segment(image)[0].numpy()
    assert set(np.unique(expected)) == {0, 1}
    result = run(build, threshold, write_ppm(tmp_path / "i.ppm", image), tmp_path / "m.pgm")
    assert result.returncode == 0, result.stderr
    assert np.array_equal(read_pnm(tmp_path / "m.pgm"), expected)
    assert "2 classes" in result.stdout
    assert f"{100 * expected.mean():5.1f} %  1 crack" in result.stdout
    assert run(build, "--self-test", threshold).stdout.endswith("passed\n")


def test_several_labels_give_planes(build: Path, planes: Path, tmp_path: Path) -> None:
    image = torch.from_numpy(picture(1, 40, 50, 3))
    expected = load_exported(planes).segment(image)[0].numpy()
    source = write_ppm(tmp_path / "i.ppm", image)
    result = run(build, planes, source, tmp_path / "m.npy", "--overlay", tmp_path / "o.ppm")
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.load(tmp_path / "m.npy"), expected)
    for number, name in enumerate("abc"):
        assert f"{100 * expected[number].mean():5.1f} %  {number} {name}" in result.stdout
    # The last class that is present gives the colour; VOC's first colours without the background's.
    colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]])
    ids = np.where(expected[2], 3, np.where(expected[1], 2, expected[0]))
    blended = np.where(ids[..., None] == 0, image[0], (image[0].numpy().astype(int) + colours[ids] + 1) // 2)
    assert np.array_equal(read_pnm(tmp_path / "o.ppm"), blended)
    fails(build, "m.pgm: this model gives a plane for each class", planes, source, tmp_path / "m.pgm")
    assert run(build, "--self-test", planes).stdout.endswith("passed\n")


def test_gray_images(build: Path, tmp_path: Path) -> None:
    model, pixels = tmp_path / "m.ts", picture(40, 50)
    export(tiny_of(1), model, preprocessing=prepared_for(1))
    expected = load_exported(model).segment(torch.from_numpy(pixels)[None, :, :, None])[0].numpy()
    (tmp_path / "i.pgm").write_bytes(b"P5 50 40 255\n" + pixels.tobytes())
    coloured = torch.from_numpy(np.repeat(pixels[..., None], 3, axis=2))[None]
    for source in (tmp_path / "i.pgm", write_ppm(tmp_path / "i.ppm", coloured)):
        result = run(build, model, source, tmp_path / "mask.pgm", "--overlay", tmp_path / "o.ppm", "--warm-up")
        assert result.returncode == 0, result.stderr
        assert np.array_equal(read_pnm(tmp_path / "mask.pgm"), expected)
        assert np.array_equal(
            read_pnm(tmp_path / "o.ppm")[expected == 0], np.repeat(pixels[expected == 0][:, None], 3, 1)
        )
    assert run(build, "--self-test", model).stdout.endswith("passed\n")
    rgb = write_ppm(tmp_path / "rgb.ppm", torch.from_numpy(picture(1, 4, 5, 3)))
    fails(build, "rgb.ppm: is in colour, but this model takes gray images", model, rgb, tmp_path / "x.pgm")


@pytest.mark.parametrize("channels", [1, 4])
def test_arrays_of_any_number_of_channels(native: ModuleType, channels: int, tmp_path: Path) -> None:
    path, images = tmp_path / "m.ts", picture(2, 40, 50, channels)
    export(tiny_of(channels), path, preprocessing=prepared_for(channels))
    expected = load_exported(path).segment(torch.from_numpy(images)).numpy()
    model = native.Model(str(path))
    assert np.array_equal(model.segment(images), expected)
    assert np.array_equal(model.segment(images[1]), expected[1])
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert np.array_equal(model.segment(planes), expected)
    assert np.array_equal(model.segment(images[..., ::-1][..., ::-1]), expected)
    backwards = model.segment(images[..., ::-1])
    assert np.array_equal(backwards, load_exported(path).segment(torch.from_numpy(images[..., ::-1].copy())).numpy())
    assert model.self_test().passed
    if channels == 1:
        assert np.array_equal(model.segment(images[0, :, :, 0]), expected[0])
    with pytest.raises(native.Error, match=rf"expected .*\(H, W, {channels}\) or \(N, H, W, {channels}\)"):
        model.segment(picture(40, 50, 3))


def test_planes_as_arrays(native: ModuleType, planes: Path, threshold: Path) -> None:
    images = picture(2, 40, 50, 3)
    model, expected = native.Model(str(planes)), load_exported(planes).segment(torch.from_numpy(images)).numpy()
    assert expected.shape == (2, 3, 40, 50)
    assert (model.segment(images) != expected).mean() < 1e-3
    assert model.segment(images[0]).shape == (3, 40, 50)
    assert model.contract["decoding"] == {"rule": "multilabel", "threshold": 0.7}
    assert model.self_test().passed
    assert native.Model(str(threshold)).segment(images).shape == (2, 40, 50)
