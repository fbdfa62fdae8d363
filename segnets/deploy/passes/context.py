"""The interface of a pass: a network and a context in, a network and counts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from segnets.preprocessing import DEFAULT_SHORT_SIDE


@dataclass(frozen=True)
class Context:
    """The deployment that a network is rewritten for.

    Attributes:
        format: Format of the exported file: "torchscript", "aoti" or "onnx".
        target: Where the file runs: "portable", "cpu" or "cuda".
        dtype: Precision between the image and the logits.
        image_size: Height and width, in pixels, of the image that the network should be fastest on.
        largest_side: Upper limit of an image's height and width, in pixels, or None without a limit.
        winograd: Whether convolutions may be computed by Winograd's algorithm.
    """

    format: str
    target: str
    dtype: torch.dtype = torch.float32
    image_size: tuple[int, int] = (DEFAULT_SHORT_SIDE, DEFAULT_SHORT_SIDE)
    largest_side: int | None = None
    winograd: bool = True


@dataclass(frozen=True)
class Outcome:
    """The result of one pass.

    Attributes:
        network: The rewritten network. Most passes change the given one in place and return it.
        counts: Number of changes, by their kind. Empty, or zeros, if nothing was changed.
    """

    network: nn.Module
    counts: Mapping[str, int] = field(default_factory=dict)
