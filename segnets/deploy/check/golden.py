"""The golden pair: a small image and what the plain model makes of it. Every export carries one.

Python and C++ replay it: the file is intact, and this machine computes what the exporting one did.

Tensors, in safetensors:
image (1, 48, 64, 3) uint8; input (1, 3, 48, 64) float32, the image normalised but not resized; logits (1, C, 48, 64)
of that input; sample, every k-th row and column of the preprocessed image; mask (1, 48, 64) of the image; margin
(1, 48, 64), by how much the best class leads there, relative to the largest logit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segnets.deploy._load import Exported
from segnets.deploy.check.tolerance import Yardstick, logits_of, relative_difference, relative_margin
from segnets.errors import ExportError
from segnets.preprocessing import Preprocess, Preprocessing
from segnets.segmenter import Segmenter, logits_at, logits_to_mask

HEIGHT, WIDTH = 48, 64
_SAMPLES_PER_SIDE = 48


@dataclass(frozen=True)
class Golden:
    """The tensors, and what the contract says about them."""

    tensors: dict[str, Tensor]
    tolerance: float
    sample_step: int


@dataclass(frozen=True)
class Replay:
    """What a replay of the golden pair measured.

    sample_difference: of the preprocessed image, in grey levels of 0..255; 1 is allowed, for a CPU that rounds a
    resized value the other way. logits_difference, tolerance: relative to the largest logit.
    """

    sample_difference: float
    logits_difference: float
    tolerance: float
    disagreements: int
    near_ties: int

    @property
    def passed(self) -> bool:
        """Whether the file still computes what the plain model computed."""
        return (
            self.sample_difference <= 1.01
            and self.logits_difference <= self.tolerance
            and self.disagreements == self.near_ties
        )

    def __str__(self) -> str:
        return (
            f"golden pair: preprocessing differs by {self.sample_difference:.1g} of 255 levels, logits by "
            f"{self.logits_difference:.1e} of the largest (allowed {self.tolerance:.1e}), classes of "
            f"{self.disagreements} of {HEIGHT * WIDTH} pixels differ"
            + (f", {self.near_ties} of them near-ties" if self.disagreements else "")
            + ("" if self.passed else ": FAILED")
        )


def make_golden(
    segmenter: Segmenter, preprocessing: Preprocessing, dtype: str, tolerance: float | None = None
) -> Golden:
    """Run the plain float32 model, in eval mode, on the golden image.

    dtype: that of the file, which the tolerance allows for. tolerance: instead of one that rounding suggests, for an
    int8 network, whose own answers are kept.
    Raises ExportError if the logits are not finite or the model is numerically unstable.
    """
    image = golden_image()
    normalised = golden_input(preprocessing)
    logits = logits_of(segmenter.model, normalised)
    if tolerance is None:
        tolerance = Yardstick(segmenter.model, dtype).tolerance(normalised)
    with torch.inference_mode():
        prepared = segmenter.preprocess(image)
        prepared_logits = logits_of(segmenter.model, prepared)
        mask = logits_to_mask(prepared_logits, HEIGHT, WIDTH)
        margin = relative_margin(logits_at(prepared_logits, HEIGHT, WIDTH))
    step = -(-max(prepared.shape[2:]) // _SAMPLES_PER_SIDE)
    tensors = {
        "image": image,
        "input": normalised,
        "logits": logits,
        "sample": prepared[:, :, ::step, ::step],
        "mask": mask,
        "margin": margin,
    }
    # Copies: a network that gives its input back shares memory, and safetensors refuses to store that.
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    return Golden(copies, tolerance, step)


def golden_input(preprocessing: Preprocessing) -> Tensor:
    """The golden image normalised but not resized, (1, 3, 48, 64) float32."""
    result: Tensor = Preprocess(replace(preprocessing, resize="none", size=None))(golden_image())
    return result


def golden_image() -> Tensor:
    """(1, 48, 64, 3) uint8: slopes, waves and edges, from whole numbers only, so that it is the same everywhere."""
    y = torch.arange(HEIGHT).view(-1, 1)
    x = torch.arange(WIDTH).view(1, -1)
    red = (x * 4 + y) % 256
    green = (x * x + y * y * 3) // 8 % 256
    blue = ((x // 7 + y // 5) % 2) * 180 + (x * y) % 61
    return torch.stack([red, green, blue], dim=-1).to(torch.uint8)[None]


def replay(exported: Exported) -> Replay:
    """Run a loaded file on the golden image that it carries.

    Raises ExportError if the golden pair is not what the contract says.
    """
    golden, contract = exported.golden, exported.contract
    _check_golden(exported)
    sample = exported.preprocess(golden["image"])[:, :, :: contract.sample_step, :: contract.sample_step]
    logits = exported.logits(golden["input"])
    mask = exported.segment(golden["image"])
    for name, tensor in (("sample", sample), ("logits", logits), ("mask", mask)):
        if tensor.shape != golden[name].shape or tensor.dtype != golden[name].dtype:
            raise ExportError(
                f"{exported.path}: gives {name} {tensor.dtype} {tuple(tensor.shape)}, its golden pair has "
                f"{golden[name].dtype} {tuple(golden[name].shape)}; export the model again"
            )
    std = torch.tensor(contract.preprocessing.std, dtype=torch.float32).view(-1, 1, 1)
    differs = mask != golden["mask"]
    near_ties = differs & (golden["margin"] <= 2 * contract.tolerance)
    return Replay(
        sample_difference=float(((sample - golden["sample"]) * std).abs().max()) * 255,
        logits_difference=relative_difference(logits, golden["logits"]),
        tolerance=contract.tolerance,
        disagreements=int(differs.sum()),
        near_ties=int(near_ties.sum()),
    )


def _check_golden(exported: Exported) -> None:
    """Shapes and types of everything that the replay feeds in or compares with."""
    classes = exported.contract.num_classes
    masks = torch.uint8 if exported.contract.mask_dtype == "uint8" else torch.int16
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "image": (torch.uint8, (1, HEIGHT, WIDTH, 3)),
        "input": (torch.float32, (1, 3, HEIGHT, WIDTH)),
        "logits": (torch.float32, (1, classes, HEIGHT, WIDTH)),
        "mask": (masks, (1, HEIGHT, WIDTH)),
        "margin": (torch.float32, (1, HEIGHT, WIDTH)),
    }
    for name in (*expected, "sample"):
        if name not in exported.golden:
            raise ExportError(f"{exported.path}: its golden pair has no {name!r}; export the model again")
    for name, (dtype, shape) in expected.items():
        tensor = exported.golden[name]
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise ExportError(
                f"{exported.path}: {name!r} of its golden pair is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {dtype} {shape}; export the model again"
            )
