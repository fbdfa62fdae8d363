"""Verify an exported file: replay its golden pair, and compare it with a model."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segnets.card import ModelConfig
from segnets.deploy._load import Exported, load_exported
from segnets.deploy.check.golden import HEIGHT, WIDTH, golden_input, golden_size
from segnets.deploy.check.reference import evaluation_copy
from segnets.deploy.check.tolerance import (
    SHAPES,
    Comparison,
    compare,
    compare_quantized,
    count_differences,
    relative_difference,
)
from segnets.deploy.contract import Contract
from segnets.errors import ExportError
from segnets.neutral_state import neutral_process

# CPUs with and without 8-bit instructions add up in different orders. An int8 network may therefore differ from the
# float32 network by this much more than when it was exported.
QUANTIZED_FACTOR = 1.5


@dataclass(frozen=True)
class Replay:
    """Result of replaying a golden pair.

    Attributes:
        sample_difference: Largest difference of the preprocessed image, in gray levels of 0..255. One level passes,
            because CPUs may round a resized value differently.
        logits_difference: Largest difference of the logits, relative to the largest logit.
        tolerance: Largest `logits_difference` that passes.
        disagreements: Number of pixels whose class differs.
        near_ties: Number of those pixels whose two largest logits are within the tolerance of each other.
        pixels: Number of pixels of the images.
    """

    sample_difference: float
    logits_difference: float
    tolerance: float
    disagreements: int
    near_ties: int
    pixels: int = HEIGHT * WIDTH

    @property
    def passed(self) -> bool:
        """True if the file computes what the plain model computed."""
        return (
            self.sample_difference <= 1.01
            and self.logits_difference <= self.tolerance
            and self.disagreements == self.near_ties
        )

    def __str__(self) -> str:
        return (
            f"golden pair: preprocessing differs by {self.sample_difference:.1g} of 255 levels, logits by "
            f"{self.logits_difference:.1e} of the largest (allowed {self.tolerance:.1e}), classes of "
            f"{self.disagreements} of {self.pixels} pixels differ"
            + (f", {self.near_ties} of them near-ties" if self.disagreements else "")
            + ("" if self.passed else ": FAILED")
        )


@dataclass(frozen=True)
class VerifyReport:
    """Result of verifying an exported file; `str()` formats it for people.

    Attributes:
        path: The file.
        size_bytes: Size of the file.
        contract: Contract of the file.
        golden: Result of replaying the golden pair.
        comparisons: Comparisons with the given model, one per size; empty if no model was given.
        other_network: Name of the given model's network, if it differs from the file's; otherwise "".
        other_decoding: Decoding of the given model's card, if it differs from the file's; otherwise "". Only logits are
            then compared.
    """

    path: Path
    size_bytes: int
    contract: Contract
    golden: Replay
    comparisons: tuple[Comparison, ...]
    other_network: str = ""
    other_decoding: str = ""

    @property
    def passed(self) -> bool:
        """True if the golden pair and all comparisons agree."""
        return self.golden.passed and all(comparison.passed for comparison in self.comparisons)

    def __str__(self) -> str:
        contract = self.contract
        lines = [
            f"{self.path}: {contract.kind} ({contract.target}, {contract.dtype}), {contract.config.name}, "
            f"{_classes_of(contract)}, {self.size_bytes / 1e6:.1f} MB, torch {contract.torch_version}",
            f"  {self.golden}",
            *([f"  compared with another network, {self.other_network}"] if self.other_network else []),
            *([self._decodings()] if self.other_decoding else []),
            *(f"  {comparison}" for comparison in self.comparisons),
            *_agreement_on_images(contract),
            f"  {'passed' if self.passed else 'FAILED'}",
        ]
        return "\n".join(lines)

    def _decodings(self) -> str:
        ours, theirs = self.contract.decoding, self.other_decoding
        return f"  masks follow {ours} in the file and {theirs} in the model; only logits are compared"


def _classes_of(contract: Contract) -> str:
    if contract.decoding.rule == "argmax":
        return f"{contract.num_classes} classes"
    return f"{contract.num_classes} {'channels' if contract.num_classes > 1 else 'channel'} ({contract.decoding})"


def _agreement_on_images(contract: Contract) -> list[str]:
    """Describe the measurement that decided whether an int8 file was kept."""
    measured = contract.quantization
    agreement, minimum = measured.get("mask_agreement"), measured.get("minimum_agreement")
    if not isinstance(agreement, int | float):
        return []
    which = "images held out" if measured.get("held_out") else "images, which also calibrated it"
    required = f", at least {minimum:.2%} required" if isinstance(minimum, int | float) else ""
    return [
        f"  when exported, its masks agreed with float32 on {agreement:.2%} of the pixels of "
        f"{measured.get('images_measured')} {which}{required}"
    ]


@neutral_process()
def verify(path: str | os.PathLike[str], against: nn.Module | None = None) -> VerifyReport:
    """Load an exported file, replay its golden pair, and compare it with a model.

    Loading executes the program in the file.

    Args:
        path: A file that `export` wrote.
        against: The model that was exported, or one that should be equal to it. It is not changed. None replays the
            golden pair only.

    Returns:
        The measured differences. If the file disagrees, `passed` is False.

    Raises:
        ExportError: If the file can't be loaded, or `against` can't be compared with it, for example because it has a
            different number of classes.
    """
    return verify_loaded(load_exported(path, keep_memory=False), against)


def verify_loaded(exported: Exported, against: nn.Module | None) -> VerifyReport:
    """Verify a loaded file as `verify` does."""
    comparisons: tuple[Comparison, ...] = ()
    other = rule = ""
    if against is not None:
        reference, contract = evaluation_copy(against), exported.contract
        config = getattr(against, "config", None)
        # The file of a changed network records no builder.
        names = (contract.config.name, contract.card.provenance.get("changed_from"))
        if isinstance(config, ModelConfig) and config.name not in names:
            other = config.name
        stated = getattr(getattr(against, "card", None), "decoding", None)
        if stated is not None and stated != contract.decoding:
            rule = str(stated)
        shapes = (contract.fixed_shape,) if contract.fixed_shape else SHAPES
        try:
            if contract.dtype == "int8":
                allowed = QUANTIZED_FACTOR * contract.tolerance
                image = golden_input(contract.card.preprocessing)
                comparisons = compare_quantized(exported.logits, reference, image, allowed, contract.decoding, shapes)
            else:
                comparisons = compare(
                    exported.logits, reference, contract.dtype, contract.decoding, contract.in_channels, shapes
                )
        except ExportError as error:
            if not other:
                raise
            raise ExportError(
                f"{exported.path}: contains a {contract.config.name}, but was compared with a {other}: {error}"
            ) from None
    return VerifyReport(
        exported.path, exported.size_bytes, exported.contract, replay(exported), comparisons, other, rule
    )


def replay(exported: Exported) -> Replay:
    """Run a loaded file on its golden image.

    Raises:
        ExportError: If the golden pair does not match the contract, or the file returns unexpected shapes or dtypes.
    """
    golden, contract = exported.golden, exported.contract
    _check_golden(exported)
    sample = exported.preprocess(golden["image"])[:, :, :: contract.sample_step, :: contract.sample_step]
    logits = _golden_logits(exported)
    mask = exported.segment(golden["image"])
    for name, tensor in (("sample", sample), ("logits", logits), ("mask", mask)):
        if tensor.shape != golden[name].shape or tensor.dtype != golden[name].dtype:
            raise ExportError(
                f"{exported.path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, but {golden[name].dtype} "
                f"{tuple(golden[name].shape)} in the golden pair. Export the model again"
            )
    std = torch.tensor(contract.card.preprocessing.std, dtype=torch.float32).view(-1, 1, 1)
    disagreements, near_ties = count_differences(mask, golden["mask"], golden["margin"], contract.tolerance)
    return Replay(
        sample_difference=float(((sample - golden["sample"]) * std).abs().max()) * 255,
        logits_difference=relative_difference(logits, golden["logits"]),
        tolerance=contract.tolerance,
        disagreements=disagreements,
        near_ties=near_ties,
        pixels=len(mask) * math.prod(golden_size(contract.card.preprocessing)),
    )


def _golden_logits(exported: Exported) -> Tensor:
    """Return the logits for the golden input, at the pixels that the golden pair stores.

    Raises:
        ExportError: If the stored pixels of the input are not those of the golden image at the file's size.
    """
    golden, contract = exported.golden, exported.contract
    if contract.fixed_shape is None:
        return exported.logits(golden["input"])
    step = contract.sample_step
    whole = golden_input(contract.card.preprocessing, contract.fixed_shape)
    if not torch.allclose(whole[:, :, ::step, ::step], golden["input"], rtol=1e-5, atol=1e-5):
        raise ExportError(
            f"{exported.path}: 'input' in the golden pair is not the golden image at this file's size. "
            "Export the model again"
        )
    return exported.logits(whole)[:, :, ::step, ::step]


def _check_golden(exported: Exported) -> None:
    """Check the shapes and dtypes of all tensors of the golden pair."""
    classes = exported.contract.num_classes
    channels = exported.contract.in_channels
    masks = torch.uint8 if exported.contract.mask_dtype == "uint8" else torch.int16
    planes = (classes,) if exported.contract.decoding.rule == "multilabel" else ()
    count, *sides = exported.contract.fixed_shape or (1, HEIGHT, WIDTH)
    step = exported.contract.sample_step if exported.contract.fixed_shape else 1
    rows, columns = (-(-side // step) for side in sides)
    height, width = golden_size(exported.contract.card.preprocessing)
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "image": (torch.uint8, (count, height, width, channels)),
        "input": (torch.float32, (count, channels, rows, columns)),
        "logits": (torch.float32, (count, classes, rows, columns)),
        "mask": (masks, (count, *planes, height, width)),
        "margin": (torch.float32, (count, *planes, height, width)),
    }
    for name in (*expected, "sample"):
        if name not in exported.golden:
            raise ExportError(f"{exported.path}: the golden pair has no {name!r}. Export the model again")
    for name, (dtype, shape) in expected.items():
        tensor = exported.golden[name]
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise ExportError(
                f"{exported.path}: {name!r} in the golden pair is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {dtype} {shape}. Export the model again"
            )
