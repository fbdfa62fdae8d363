"""Augmentation keeps an image and its mask together, and invents no class."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch

import segnets.torchvision_compat
from segnets.data import Pair
from segnets.data.augment import Transformed, _Blur, training_augmentation
from segnets.data.dataset import VOID

assert segnets.torchvision_compat.torchvision is not None


@dataclass(frozen=True)
class Config:
    recipe: str = "light"
    crop: int = 48
    base_size: int = 64
    resize: str = "64"
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    colour: float = 0.0
    blur: float = 0.0


def encoded(height: int = 60, width: int = 84, seed: int = 0) -> Pair:
    """Return an image that shows its mask: a channel of 255 for each of three classes, black for ignored pixels."""
    coarse = np.random.default_rng(seed).integers(0, 4, (height // 12, width // 12), dtype=np.uint8)
    mask = coarse.repeat(12, axis=0).repeat(12, axis=1)
    image = np.stack([np.where(mask == class_id, 255, 0) for class_id in range(3)], axis=2).astype(np.uint8)
    return Pair(image, np.where(mask == 3, VOID, mask).astype(np.uint8))


def shown(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the mask that an image (3, h, w) shows."""
    with_void = np.concatenate([image, 255 - image.sum(0, keepdims=True, dtype=np.uint16).clip(max=255)])
    ids = with_void.argmax(0)
    return np.where(ids == 3, VOID, ids).astype(np.uint8)


def mismatches(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> int:
    """Count pixels of an image that show a class which the mask has nowhere within one pixel.

    The outermost pixels are left out, because their neighbours may be outside the crop.
    """
    ids = shown(image)
    padded = np.pad(mask, 1, mode="edge")
    near = np.zeros(mask.shape, dtype=bool)
    for row in range(3):
        for column in range(3):
            near |= padded[row : row + mask.shape[0], column : column + mask.shape[1]] == ids
    return int((~near[1:-1, 1:-1]).sum())


def check_many(recipe: str, count: int) -> None:
    augment = training_augmentation(Config(recipe))
    pairs = [encoded(seed=seed) for seed in range(4)]
    torch.manual_seed(0)
    for number in range(count):
        image, mask = augment(pairs[number % 4])
        assert image.shape == (3, 48, 48)
        assert mask.shape == (48, 48)
        assert image.dtype == mask.dtype == torch.uint8
        assert image.is_contiguous()
        assert {*mask.unique().tolist()} <= {0, 1, 2, VOID}
        assert mismatches(image.numpy(), mask.numpy()) == 0, number


@pytest.mark.parametrize("recipe", ["torchvision", "light"])
def test_masks_stay_on_their_images(recipe: str) -> None:
    check_many(recipe, 40)


@pytest.mark.full
@pytest.mark.parametrize("recipe", ["torchvision", "light"])
def test_masks_stay_on_their_images_a_thousand_times(recipe: str) -> None:
    check_many(recipe, 1000)


def test_a_shift_of_two_pixels_would_be_found() -> None:
    pair = encoded()
    image = np.moveaxis(pair.image, 2, 0)
    assert mismatches(image, pair.mask) == 0
    assert mismatches(np.roll(image, 2, axis=2), pair.mask) > 0


@pytest.mark.parametrize("recipe", ["torchvision", "light"])
def test_padding_is_ignored(recipe: str) -> None:
    augment = training_augmentation(Config(recipe, crop=96, scale=(0.5, 0.5), flip=0))
    image, mask = augment(Pair(np.full((60, 80, 3), 200, np.uint8), np.ones((60, 80), np.uint8)))
    assert (mask[:32, :42] == 1).all()
    assert (mask[32:] == VOID).all()
    assert (image[:, 32:] == 0).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_colour_changes_images_only(channels: int) -> None:
    torch.manual_seed(0)
    pair = Pair(
        np.random.default_rng(0).integers(0, 256, (64, 64, channels), dtype=np.uint8), encoded(72, 72).mask[:64, :64]
    )
    plain = training_augmentation(Config(crop=64, scale=(1, 1), flip=0))
    image, mask = plain(pair)
    assert (image.permute(1, 2, 0).numpy() == pair.image).all()
    assert (mask.numpy() == pair.mask).all()
    coloured = training_augmentation(Config(crop=64, scale=(1, 1), flip=0, colour=0.5))
    means = []
    for _ in range(5):
        image, mask = coloured(pair)
        assert image.shape == (channels, 64, 64)
        assert (mask.numpy() == pair.mask).all()
        means.append(float(image.float().mean()))
    assert np.std(means) > 5
    assert all(30 < mean < 225 for mean in means)


def test_colour_of_no_strength_changes_nothing() -> None:
    pair = encoded()
    config = Config(crop=60, base_size=60, scale=(1, 1), flip=0, colour=1e-9)
    torch.manual_seed(0)
    image, _ = training_augmentation(config)(pair)
    torch.manual_seed(0)
    expected, _ = training_augmentation(Config(crop=60, base_size=60, scale=(1, 1), flip=0))(pair)
    torch.testing.assert_close(image, expected, rtol=0, atol=0)


@pytest.mark.parametrize("recipe", ["torchvision", "light"])
def test_scales_reach_both_ends(recipe: str) -> None:
    """A square of 12 pixels is 6 to 24 pixels wide, at scales of 0.5 to 2 of its own size."""
    pair = Pair(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8))
    pair.mask[26:38, 26:38] = 1
    augment = training_augmentation(Config(recipe, crop=128, flip=0))
    torch.manual_seed(0)
    widths = [int((augment(pair)[1] == 1).sum()) ** 0.5 for _ in range(60)]
    assert 5.5 < min(widths) < 7.5
    assert 20 < max(widths) < 24.5


@pytest.mark.parametrize("recipe", ["torchvision", "light"])
def test_a_factor_as_the_base_size(recipe: str) -> None:
    """Images of every size are enlarged as in prediction."""
    for height, width in ((48, 60), (60, 84)):
        results = []
        for base_size, resize in ((0, "x2"), (2 * height, "none"), (0, str(2 * height))):
            config = Config(recipe, crop=80, base_size=base_size, resize=resize)
            torch.manual_seed(0)
            results.append(training_augmentation(config)(encoded(height, width)))
        for image, mask in results[1:]:
            assert torch.equal(image, results[0][0])
            assert torch.equal(mask, results[0][1])


@pytest.mark.parametrize("recipe", ["light", "torchvision"])
def test_a_rule_that_stretches_images_stretches_crops(recipe: str) -> None:
    """Twice as wide, at scale 1: a class of 12 columns takes 24, and of 12 rows 12."""
    config = Config(recipe=recipe, base_size=0, resize="60x168", scale=(1.0, 1.0), flip=0.0)
    image, mask = training_augmentation(config)(encoded())
    assert image.shape == (3, 48, 48)
    assert mismatches(image.numpy(), mask.numpy()) == 0
    for axis, block in ((0, 12), (1, 24)):
        changes = np.flatnonzero(np.diff(mask.numpy().astype(int), axis=axis).any(axis=1 - axis))
        assert len(changes)
        assert set(np.diff(changes) % block) <= {0}


def test_blur_equals_torchvisions() -> None:
    v2 = importlib.import_module("torchvision.transforms.v2")
    image = torch.randint(0, 256, (3, 31, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for seed in range(5):
        torch.manual_seed(seed)
        blurred, _ = _Blur(1.0)(image, None)
        torch.manual_seed(seed)
        torch.rand(())
        sigma = 0.1 + 1.9 * float(torch.rand(()))
        expected = v2.functional.gaussian_blur(image, [5, 5], [sigma, sigma])
        assert (blurred.int() - expected.int()).abs().max() <= 1
        assert (blurred != expected).float().mean() < 0.01
        assert not torch.equal(expected, image)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 3)])
def test_tiny_images_are_blurred(size: tuple[int, int]) -> None:
    image = torch.full((1, *size), 200, dtype=torch.uint8)
    assert torch.equal(_Blur(1.0)(image, None)[0], image)


def test_blur_changes_images_only() -> None:
    pair = encoded()
    image, mask = training_augmentation(Config(crop=60, base_size=60, scale=(1, 1), flip=0, blur=1))(pair)
    sharp = torch.from_numpy(pair.image).permute(2, 0, 1)[:, :, : image.shape[2]]
    assert (mask.numpy() != VOID).any()
    assert {*mask.unique().tolist()} <= {0, 1, 2, VOID}
    assert 0 < len(image.unique()) > len(sharp.unique())


def test_any_callable_is_taken() -> None:
    augment = Transformed(lambda image, mask: (255 - image, mask))
    image, mask = augment(encoded())
    assert (image.permute(1, 2, 0).numpy() == 255 - encoded().image).all()
    assert (mask.numpy() == encoded().mask).all()


def test_it_can_be_sent_to_workers() -> None:
    augment = training_augmentation(Config(colour=0.3, blur=0.3))
    torch.manual_seed(1)
    image, _ = augment(encoded())
    torch.manual_seed(1)
    again, _ = pickle.loads(pickle.dumps(augment))(encoded())
    assert (image == again).all()


@pytest.mark.parametrize("recipe", ["torchvision", "light"])
def test_it_can_be_sent_to_workers_that_are_not_forked(recipe: str) -> None:
    """They have not imported torchvision yet, which fails next to a CPU-only torch without help."""
    sent = pickle.dumps(training_augmentation(Config(recipe=recipe, colour=0.3, blur=0.3)))
    program = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(scale=(2.0, 0.5)), "scale="),
        (Config(scale=(0.0, 0.5)), "scale="),
        (Config(flip=1.5), "flip=1.5"),
        (Config(colour=-1), "colour=-1"),
        (Config(blur=2), "blur=2"),
    ],
)
def test_bad_options_are_named(config: Config, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_augmentation(config)
