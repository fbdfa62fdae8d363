"""Masks, probabilities and confidences in bands equal those of torch on the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segnets.card import Decoding
from segnets.inference.maps import (
    ResizedLogits,
    decode_mask,
)

ARGMAX, THRESHOLD, MULTILABEL = Decoding(), Decoding("threshold", 0.3), Decoding("multilabel", 0.6)
SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (5, 7)),
    ((3, 2), (1, 1)),
    ((8, 9), (64, 75)),
    ((65, 33), (65, 33)),
    ((33, 65), (33, 131)),
    ((33, 65), (47, 65)),
    ((65, 87), (45, 60)),
    ((16, 16), (1, 4097)),
    ((16, 16), (4097, 1)),
]


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 4


def resized(logits: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(logits[None].float(), size=(height, width), mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(("small", "size"), SIZES)
def test_bands_equal_the_resize_of_torch(small: tuple[int, int], size: tuple[int, int]) -> None:
    logits = random_logits(5, *small)
    maps = ResizedLogits(logits, *size)
    expected = resized(logits, *size)
    torch.testing.assert_close(maps.band(0, size[0]), expected, rtol=0, atol=1e-5)
    mask = decode_mask(maps, ARGMAX)
    assert mask.shape == size
    assert mask.dtype == np.uint8
    differs = torch.from_numpy(mask).long() != expected.argmax(0)
    top = expected.topk(2, dim=0).values
    assert (top[0] - top[1])[differs].lt(1e-5).all()
