"""The argument and the result of every pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from segnets.resize_rules import DEFAULT_SHORT_SIDE


@dataclass(frozen=True)
class Context:
    """The deployment that a network is rewritten for.

    Attributes:
        format: Format of the exported file: "torchscript", "aoti" or "onnx".
        target: Platform that the file runs on: "portable", "cpu" or "cuda".
        dtype: Precision between the image and the logits.
        image_size: Height and width of the images that the network should be fastest on, in pixels.
        largest_side: Limit of an image's height and width, in pixels; None for no limit.
        winograd: Whether convolutions may use Winograd's algorithm.
        channels: Number of channels of the images.
    """

    format: str
    target: str
    dtype: torch.dtype = torch.float32
    image_size: tuple[int, int] = (DEFAULT_SHORT_SIDE, DEFAULT_SHORT_SIDE)
    largest_side: int | None = None
    winograd: bool = True
    channels: int = 3


@dataclass(frozen=True)
class Outcome:
    """The result of one pass.

    Attributes:
        network: Rewritten network. Most passes change their argument in place and return it.
        counts: Number of changes by kind.
    """

    network: nn.Module
    counts: Mapping[str, int] = field(default_factory=dict)
