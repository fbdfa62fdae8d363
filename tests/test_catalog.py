"""The catalog against torchvision's own facts, and against the networks."""

from __future__ import annotations

import re

import pytest
import torch

from segnets.catalog import CATALOG, VOC_CLASSES, Published, published_for
from segnets.registry import BACKBONES, build
from tests.oracle import NAMES, torchvision


@pytest.mark.parametrize("row", CATALOG, ids=lambda row: f"{row.model}-{row.name}")
def test_facts_are_torchvisions(row: Published) -> None:
    theirs = torchvision.models.get_model_weights(row.model)[row.name]
    assert row.url == theirs.url
    assert row.num_params == theirs.meta["num_params"]
    assert list(row.metrics.values()) == list(next(iter(theirs.meta["_metrics"].values())).values())
    if row.classes:
        assert list(row.classes) == theirs.meta["categories"]


@pytest.mark.parametrize("row", CATALOG, ids=lambda row: f"{row.model}-{row.name}")
def test_parameters_are_counted_on_each_call(row: Published) -> None:
    config = row.config()
    with torch.device("meta"):
        model = build(config.name, dict(config.options))
    assert sum(parameter.numel() for parameter in model.parameters()) == row.num_params


def test_every_network_and_backbone_has_its_rows() -> None:
    # A backbone of torchvision has published files; one that was added may have none.
    of_torchvision = {name for name in BACKBONES if hasattr(torchvision.models, name)}
    assert {row.model for row in CATALOG} == set(NAMES) | of_torchvision
    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        assert len(published_for(name)) == len(torchvision.models.get_model_weights(name))


def test_hashes() -> None:
    for row in CATALOG:
        assert re.fullmatch("[0-9a-f]{8}", row.hash_prefix)
        assert row.sha256 is None or re.fullmatch(row.hash_prefix + "[0-9a-f]{56}", row.sha256)
    assert len(VOC_CLASSES) == 21
