"""Exported state dicts load strictly into the projects' own networks, which then compute the same as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import segnets
import weights_tools
from segnets.card import ModelConfig
from tests.peers.compare import absent
from tests.peers.test_compare import NAMES
from tests.weights_tools.test_export import CASES, saved, state_of
from weights_tools.check.peer import compare_with_peer


@pytest.mark.parametrize(
    ("project", "name", "options", "first"), CASES, ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(CASES)]
)
def test_the_projects_network_computes_the_same(
    project: str, name: str, options: dict[str, Any], first: str, tmp_path: Path
) -> None:
    peer = next((peer for peer, short in NAMES.items() if short == project), project)
    if missing := absent(peer):
        pytest.skip(f"{', '.join(missing)} not installed: make test-peers")
    model = saved(tmp_path / "w.safetensors", name, **options)
    weights_tools.export(tmp_path / "w.safetensors", tmp_path / "exported.pth", project=project)
    config: Any = model.config
    assert isinstance(config, ModelConfig)
    comparison = compare_with_peer(
        project, state_of(tmp_path / "exported.pth"), config, segnets.load(tmp_path / "w.safetensors")
    )
    assert comparison.holds, comparison.verdict
