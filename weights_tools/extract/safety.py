"""Refuse checkpoints that refer to functions only an attack needs."""

from __future__ import annotations

from segnets.errors import WeightsError
from weights_tools.reader import Container


def refuse_attacks(container: Container) -> None:
    """Raise WeightsError if the file refers to functions that only an attack needs. Nothing is executed."""
    hostile = container.hostile()
    if hostile:
        raise WeightsError(
            f"the file names {', '.join(hostile[:3])}, which could run commands when it is loaded with torch.load: "
            "it is probably an attack. Nothing in it was run, and nothing is converted. "
            "If the file is yours, save its state dict alone."
        )
