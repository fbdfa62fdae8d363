"""Exported state dicts in the projects' own networks: they load strictly, and compute what ours does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import segnets
import weights_tools
from segnets.card import ModelConfig
from tests.peers.compare import absent
from tests.peers.test_compare import NAMES
from tests.weights_tools.test_way_back import WAYS, saved, state_of
from weights_tools.check.peer import prove


@pytest.mark.parametrize(
    ("project", "name", "options", "first"), WAYS, ids=[f"{w[0]}-{w[1]}-{i}" for i, w in enumerate(WAYS)]
)
def test_its_own_network_computes_the_same(
    project: str, name: str, options: dict[str, Any], first: str, tmp_path: Path
) -> None:
    peer = next((peer for peer, short in NAMES.items() if short == project), project)
    if missing := absent(peer):
        pytest.skip(f"{', '.join(missing)} not installed: make test-peers")
    model = saved(tmp_path / "w.safetensors", name, **options)
    weights_tools.export(tmp_path / "w.safetensors", tmp_path / "there.pth", project=project)
    config: Any = model.config
    assert isinstance(config, ModelConfig)
    proof = prove(project, state_of(tmp_path / "there.pth"), config, segnets.load(tmp_path / "w.safetensors"))
    assert proof.holds, proof
