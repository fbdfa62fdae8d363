"""Checkpoints of other projects' networks, saved as they save, converted, loaded, and run beside the original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import segnets
import weights_tools
from segnets.registry import MODELS
from tests.peers import test_mmseg, test_smp
from tests.peers.compare import LIMITS, Case, absent
from weights_tools.layouts.origins import MMSEG, SMP
from weights_tools.layouts.renaming import Origin

CASES = [
    case
    for case in (*test_smp.CASES, *test_mmseg.CASES)
    # Features alone are no network that a file holds; other encoders are refused, below.
    if not case.layers and not case.adapts and "mobilenet" not in case.model
]


def open_options(case: Case, origins: tuple[Origin, ...]) -> dict[str, Any]:
    """What somebody who knows this network has to say of it: the options that no tensor shows."""
    known = {name for origin in origins if origin.head == case.model.partition("_")[0] for name in origin.open}
    return {name: value for name, value in MODELS[case.model].settle(case.options).items() if name in known}


def saved(case: Case, state: Mapping[str, Any], path: Path) -> None:
    """As mmsegmentation wraps a state dict, and as SMP's users do."""
    meta = {"mmseg_version": "1.2.2", "CLASSES": None}
    torch.save({"meta": meta, "state_dict": state} if case.peer == "mmsegmentation" else dict(state), path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_converted_it_computes_the_same(case: Case, tmp_path: Path) -> None:
    if missing := absent(case.peer):
        pytest.skip(f"{', '.join(missing)} not installed: make test-peers")
    theirs = case.theirs()
    saved(case, theirs.module.state_dict(), tmp_path / "w.pth")
    origins = MMSEG if case.peer == "mmsegmentation" else SMP
    report = weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", options=open_options(case, origins))
    assert report.model == case.model
    ours = segnets.load(tmp_path / "w.safetensors")
    theirs.module.eval()
    for size in case.sizes:
        x = torch.randn(1, case.options.get("in_channels", 3), *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            got, expected = ours(x), theirs.run(x)
        for name, tensor in expected.items():
            assert (got[name] - tensor).abs().max() <= LIMITS[torch.float32], name
