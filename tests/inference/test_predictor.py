"""The predictor: equal to `segment`, in order, bounded."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import segnets
from segnets.errors import PredictError
from segnets.inference.networks import descriptions, open_network
from tests.compatibility.files import LRASPP, image, unpack
from tests.inference.common import CLASSES, PALETTE, image_folder, random_image, small_model
from tests.oracle import randomise_

SIZES = ((1, 1), (1, 70), (40, 56), (97, 33), (130, 131))


@pytest.fixture(scope="module")
def model() -> segnets.SegmentationModel:
    return small_model()


@pytest.fixture(scope="module")
def exact(model: segnets.SegmentationModel) -> segnets.Predictor:
    return segnets.Predictor(model, deterministic=True)


@pytest.fixture(scope="module")
def fast(model: segnets.SegmentationModel) -> segnets.Predictor:
    return segnets.Predictor(model)


@pytest.mark.parametrize("size", SIZES)
def test_a_deterministic_mask_is_that_of_segment(
    model: segnets.SegmentationModel, exact: segnets.Predictor, size: tuple[int, int]
) -> None:
    photo = random_image(*size)
    mask = exact.predict(photo).mask
    expected = segnets.segment(model, photo)
    assert mask.dtype == expected.dtype
    np.testing.assert_array_equal(mask, expected)
    assert size == (1, 1) or size == (1, 70) or len(np.unique(mask)) > 1


@pytest.mark.parametrize("size", SIZES)
def test_a_fast_mask_differs_in_near_ties_only(
    model: segnets.SegmentationModel, fast: segnets.Predictor, size: tuple[int, int]
) -> None:
    photo = random_image(*size)
    prediction = fast.predict(photo)
    assert (prediction.mask != segnets.segment(model, photo)).mean() <= 1e-4
    assert prediction.classes == CLASSES
    assert prediction.palette == PALETTE


@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.full)])
def test_masks_of_random_sizes_equal_segment(
    model: segnets.SegmentationModel, fast: segnets.Predictor, count: int
) -> None:
    random = np.random.default_rng(1)
    differing = pixels = 0
    for _ in range(count):
        # Small sides more often, and in the short run no long ones.
        height, width = np.exp(random.uniform(0, np.log(4098 if count > 100 else 400), 2)).astype(int).tolist()
        if max(height, width) > 250 * min(height, width):  # 64 pixels on the short side are too many on the long one
            continue
        photo = random_image(height, width, seed=height)
        mask = fast.predict(photo).mask
        assert mask.shape == (height, width)
        differing += int((mask != segnets.segment(model, photo)).sum())
        pixels += mask.size
    assert differing <= pixels * 1e-4


def test_a_network_that_aligns_corners() -> None:
    torch.manual_seed(3)
    model = segnets.create_model("lraspp_mobilenet_v3_small", num_classes=4, align_corners=True)
    randomise_(model)
    model.eval()
    photo = random_image(97, 133)
    mask = segnets.Predictor(model).predict(photo).mask
    assert (mask != segnets.segment(model, photo)).mean() <= 1e-4
    assert len(np.unique(mask)) > 1


def test_a_rewritten_network_with_winograds_convolutions() -> None:
    """Their weights are laid out when an archive is loaded."""
    torch.manual_seed(0)
    model = segnets.create_model("fcn_resnet18", num_classes=3).eval()
    model.card = segnets.ModelCard(preprocessing=segnets.Preprocessing(size=128))
    predictor = segnets.Predictor(model)
    network: Any = predictor.networks[0]
    assert "WinogradConv" in {module.original_name for module in network._network.modules()}
    mask = predictor.predict(random_image()).mask
    assert (mask != segnets.segment(model, random_image())).mean() <= 1e-3
    assert len(np.unique(mask)) > 1


@pytest.mark.parametrize("name", ["portable.ts", "cpu.ts", "network.onnx", "int8.onnx", f"{LRASPP}.safetensors"])
def test_a_file_gives_its_own_masks(tmp_path: Path, name: str) -> None:
    path = unpack(name, tmp_path)
    if path.suffix == ".safetensors":
        expected = segnets.segment(segnets.load(path), image())[0].numpy()
    else:
        expected = segnets.load_exported(path).segment(image())[0].numpy()
    assert len(np.unique(expected)) > 1
    for deterministic in (True, False):
        predictor = segnets.Predictor(path, deterministic=deterministic)
        mask = predictor.predict(image()[0]).mask
        assert (mask != expected).mean() <= (0 if deterministic else 1e-4)
        assert predictor.classes == ("road", "tree", "sky")


def test_a_stream_keeps_the_order_and_goes_on_after_bad_images(exact: segnets.Predictor, tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 9)
    (folder / "4.png").write_bytes(b"not an image")
    (folder / "10.png").write_bytes((folder / "1.png").read_bytes()[:200])
    predictions = list(exact.stream(folder, workers=3))
    assert [Path(each.source).name for each in predictions] == [*(f"{n}.png" for n in range(9)), "10.png"]
    assert [n for n, each in enumerate(predictions) if each.error is not None] == [4, 9]
    assert "4.png" in str(predictions[4].error)
    np.testing.assert_array_equal(predictions[3].mask, exact.predict(folder / "3.png").mask)


def test_batches_give_the_masks_of_single_images(fast: segnets.Predictor, tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 7)
    single = [each.mask for each in fast.stream(folder)]
    for size in (2, 4, 8):
        for alone, together in zip(single, fast.stream(folder, batch_size=size), strict=True):
            assert (alone != together.mask).mean() <= 1e-3


def test_a_stream_holds_few_images(exact: segnets.Predictor) -> None:
    drawn = itertools.count()

    def endless() -> Iterator[npt.NDArray[np.uint8]]:
        while True:
            next(drawn)
            yield random_image()

    stream = exact.stream(endless(), workers=2)
    for _ in range(6):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert next(drawn) < 16
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segnets-images")]


def test_an_error_of_the_callers_generator_comes_after_what_was_before(exact: segnets.Predictor) -> None:
    def broken() -> Iterator[npt.NDArray[np.uint8]]:
        yield random_image()
        yield random_image()
        raise KeyError("mine")

    stream = exact.stream(broken())
    assert next(stream).error is None
    assert next(stream).error is None
    with pytest.raises(KeyError, match="mine"):
        next(stream)


def test_sources_in_memory_give_one_mask(exact: segnets.Predictor, tmp_path: Path) -> None:
    photo = random_image()
    path = tmp_path / "a.png"
    Image.fromarray(photo).save(path)
    sources: list[Any] = [
        path,
        str(path),
        path.read_bytes(),
        path.open("rb"),
        Image.open(path),
        photo,
        torch.from_numpy(photo.copy()),
    ]
    masks = [each.mask for each in exact.stream(sources)]
    sources[3].close()
    sources[4].close()
    for mask in masks:
        np.testing.assert_array_equal(mask, masks[0])


def test_the_displayed_size_counts(exact: segnets.Predictor, tmp_path: Path) -> None:
    picture = Image.fromarray(random_image(24, 56))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert exact.predict(tmp_path / "a.jpg").mask.shape == (56, 24)


def test_ensembles_and_views_average_probabilities(model: segnets.SegmentationModel) -> None:
    photo = random_image()
    other = small_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    parts = [
        segnets.Predictor(each, deterministic=True).predict(view).probabilities()
        for each in (model, other)
        for view in (photo, np.ascontiguousarray(photo[:, ::-1]))
    ]
    expected = (parts[0] + parts[1][:, :, ::-1] + parts[2] + parts[3][:, :, ::-1]) / 4
    prediction = segnets.Predictor([model, other], deterministic=True, flip=True).predict(photo)
    np.testing.assert_allclose(
        prediction.probabilities(), expected, atol=1e-4
    )  # mirroring changes the rounding of pixels
    np.testing.assert_array_equal(prediction.mask, prediction.probabilities().argmax(0))


@pytest.mark.parametrize("name", ["portable.ts", f"{LRASPP}.safetensors"])
def test_a_deterministic_mask_has_the_scale_that_was_asked_for(tmp_path: Path, name: str) -> None:
    path, photo = unpack(name, tmp_path), image()[0]
    prediction = segnets.Predictor(path, scales=(0.5,), deterministic=True).predict(photo)
    np.testing.assert_array_equal(prediction.mask, prediction.probabilities().argmax(0))
    assert (prediction.mask != segnets.Predictor(path, deterministic=True).predict(photo).mask).any()


def test_a_deterministic_mask_takes_one_run(model: segnets.SegmentationModel) -> None:
    runs: list[nn.Module] = []
    handle = model.register_forward_hook(lambda module, *_: runs.append(module))
    try:
        segnets.Predictor(model, deterministic=True).predict(random_image())
    finally:
        handle.remove()
    assert len(runs) == 1


def test_a_half_precision_model_is_refused_as_by_segment() -> None:
    with pytest.raises(ValueError, match=r"model\.float\(\)"):
        segnets.Predictor(small_model().half(), deterministic=True)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_card_that_scales_images(model: segnets.SegmentationModel, factor: float, tmp_path: Path) -> None:
    rule = segnets.Preprocessing(resize="scale", size=factor)
    segnets.save(model, tmp_path / "scaled.safetensors", preprocessing=rule)
    loaded, photo = segnets.load(tmp_path / "scaled.safetensors"), random_image(39, 57)
    expected = segnets.segment(model, photo, rule)
    np.testing.assert_array_equal(segnets.segment(loaded, photo), expected)
    mask = segnets.Predictor(loaded).predict(photo).mask
    assert mask.shape == (39, 57)
    assert (mask != expected).mean() <= 1e-3
    assert (expected != segnets.segment(model, photo)).any()


def test_another_size_at_the_input(model: segnets.SegmentationModel) -> None:
    photo = random_image()
    kept = segnets.Predictor(model, resize="none", deterministic=True).predict(photo).mask
    np.testing.assert_array_equal(kept, segnets.segment(model, photo, segnets.Preprocessing(resize="none")))
    scaled = segnets.Predictor(model, resize="x1.5", deterministic=True).predict(photo).mask
    rule = segnets.Preprocessing(resize="scale", size=1.5)
    np.testing.assert_array_equal(scaled, segnets.segment(model, photo, rule))
    assert scaled.shape == kept.shape
    assert (scaled != kept).any()
    with pytest.raises(PredictError, match=r"resize='x0' \(--resize\): expected a factor from 0\.1 to 10 after the x"):
        segnets.Predictor(model, resize="x0")
    with pytest.raises(PredictError, match="resize='big'"):
        segnets.Predictor(model, resize="big")
    with pytest.raises(PredictError, match=r"resize=\(1,\)"):
        segnets.Predictor(model, resize=(1,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": []}, "at least one model"),
        ({"device": "tpu"}, "expected one of 'auto'"),
        ({"dtype": "float64"}, "expected one of 'float32'"),
        (
            {"dtype": "float16", "device": "cpu"},
            r"dtype='float16' \(--dtype\): CPUs compute it slower than float32. Use",
        ),
        (
            {"dtype": "bfloat16", "deterministic": True},
            r"\(--deterministic\) are computed in float32; omit one of the two",
        ),
        ({"scales": ()}, "a list of at least one number"),
        ({"scales": (100,)}, "a list of at least one number"),
        ({"scales": 1.5}, "scales=1.5: expected a list"),
        ({"max_pixels": -1}, "max_pixels=-1: expected a whole number of at least 1"),
        ({"model": "missing.safetensors"}, "missing.safetensors"),
    ],
)
def test_bad_arguments(model: segnets.SegmentationModel, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(segnets.SegnetsError, match=message):
        segnets.Predictor(**{"model": model, **arguments})  # type: ignore[arg-type]


def test_numbers_of_a_stream(exact: segnets.Predictor) -> None:
    for arguments in ({"workers": "2"}, {"workers": 0}, {"batch_size": 1.5}):
        with pytest.raises(PredictError, match="expected a whole number of at least 1"):
            list(exact.stream([], **arguments))


def test_a_predictor_shows_its_networks(exact: segnets.Predictor) -> None:
    assert repr(exact) == "Predictor('SegmentationModel' (model, float32), 3 classes, cpu)"


def test_models_of_other_classes_are_not_averaged(model: segnets.SegmentationModel) -> None:
    with pytest.raises(PredictError, match="number of classes"):
        segnets.Predictor([model, small_model(4)], deterministic=True)


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        segnets.Predictor(small_model().train())


def test_a_checkpoint_of_another_project_names_the_converter(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({}, path)
    with pytest.raises(PredictError, match="weights-tools convert"):
        segnets.Predictor(path)


def test_bfloat16_on_a_cpu(model: segnets.SegmentationModel, exact: segnets.Predictor) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with pytest.raises(PredictError, match="does not support bfloat16"):
            segnets.Predictor(model, device="cpu", dtype="bfloat16")
        return
    half = segnets.Predictor(model, device="cpu", dtype="bfloat16")
    assert descriptions(half.networks) == ["model rewritten for the CPU, bfloat16 on cpu"]
    photo = random_image()
    prediction, usual = half.predict(photo), exact.predict(photo)
    assert (prediction.mask == usual.mask).mean() > 0.9
    difference = np.abs(prediction.probabilities() - usual.probabilities()).max()
    assert 1e-4 < difference < 0.2


def test_autocast_is_that_of_the_network_and_not_the_callers(model: segnets.SegmentationModel) -> None:
    network: Any = open_network(model, device="cpu", fast=False)
    batch = network.prepare(torch.from_numpy(random_image().copy())[None])
    usual = network.logits(batch).values
    with torch.no_grad():
        assert torch.equal(model(batch)["out"], usual)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.logits(batch).values, usual)
    network._autocast = torch.bfloat16  # as on a GPU
    lower = network.logits(batch).values
    assert lower.dtype == torch.float32
    assert 0 < (lower - usual).abs().max() < 0.1 * usual.abs().max()


class _Doubling(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.card = segnets.ModelCard(preprocessing=segnets.Preprocessing(resize="none"))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": image.mul_(2) if self.in_place else image * 2}


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
def test_a_network_may_overwrite_its_input(scales: tuple[float, ...]) -> None:
    photo = random_image()
    plain, overwriting = (
        segnets.Predictor(_Doubling(in_place).eval(), deterministic=True, scales=scales).predict(photo).probabilities()
        for in_place in (False, True)
    )
    np.testing.assert_array_equal(plain, overwriting)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA finds no GPU")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_on_a_gpu(model: segnets.SegmentationModel, exact: segnets.Predictor, dtype: str) -> None:
    lower = segnets.Predictor(copy.deepcopy(model), device="cuda", dtype=dtype)
    assert descriptions(lower.networks) == [f"model with autocast to {dtype} on cuda"]
    photo = random_image()
    assert (lower.predict(photo).mask == exact.predict(photo).mask).mean() > 0.9
