"""Check an exported file again: replay its golden pair, and compare it with a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from segnets.deploy._load import Exported, load_exported
from segnets.deploy.check.golden import Replay, golden_input, replay
from segnets.deploy.check.tolerance import Comparison, compare, compare_quantized
from segnets.deploy.contract import Contract
from segnets.deploy.passes.simplify import evaluation_copy

# An int8 network may lie this much further from the float32 network than it did when it was made: processors with and
# without instructions for 8 bits add up in other orders.
QUANTIZED_FACTOR = 1.5


@dataclass(frozen=True)
class VerifyReport:
    """What a check of an exported file measured; `str()` of it is for people.

    comparisons: with the model that was given, one per size; empty when none was.
    """

    path: Path
    size_bytes: int
    contract: Contract
    golden: Replay
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether everything that was compared agreed."""
        return self.golden.passed and all(comparison.passed for comparison in self.comparisons)

    def __str__(self) -> str:
        contract = self.contract
        lines = [
            f"{self.path}: {contract.kind} ({contract.target}, {contract.dtype}), {contract.model_name}, "
            f"{contract.num_classes} classes, {self.size_bytes / 1e6:.1f} MB, torch {contract.torch_version}",
            f"  {self.golden}",
            *(f"  {comparison}" for comparison in self.comparisons),
            f"  {'passed' if self.passed else 'FAILED'}",
        ]
        return "\n".join(lines)


def verify(path: str | os.PathLike[str], against: nn.Module | None = None) -> VerifyReport:
    """Load an exported file, replay its golden pair, and compare it with `against` at several sizes if that is given.

    against: the model that was exported, or one that should be equal; it is not changed.
    A disagreement is in the report (`passed` is False). Loading executes the program that the file holds.

    Raises ExportError if the file can't be loaded, or `against` is another kind of model (other number of classes).
    """
    return verify_loaded(load_exported(path, keep_memory=False), against)


def verify_loaded(exported: Exported, against: nn.Module | None) -> VerifyReport:
    """As `verify`, for a file that is loaded already."""
    comparisons: tuple[Comparison, ...] = ()
    if against is not None:
        reference, contract = evaluation_copy(against), exported.contract
        if contract.dtype == "int8":
            allowed = QUANTIZED_FACTOR * contract.tolerance
            comparisons = compare_quantized(exported.logits, reference, golden_input(contract.preprocessing), allowed)
        else:
            comparisons = compare(exported.logits, reference, contract.dtype)
    return VerifyReport(exported.path, exported.size_bytes, exported.contract, replay(exported), comparisons)
