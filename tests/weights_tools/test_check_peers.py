"""The protocol of peers: what they share, without any project's network."""

from __future__ import annotations

import sys

import pytest

import segnets
from segnets.card import ModelConfig
from segnets.errors import WeightsError
from segnets.options import ALL_OPTIONS
from weights_tools.check.peers import HIDDEN_OPTIONS, PEERS, peer_errors
from weights_tools.check.peers.base import PendingOptions

COMPATIBILITY = "segnets.torchvision_compat"


def without_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of a module fail, as if it did not exist."""
    monkeypatch.delattr(segnets, name.rpartition(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, name, None)


def test_a_missing_compatibility_module_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    without_module(COMPATIBILITY, monkeypatch)
    missing = r"failed to run: ModuleNotFoundError: .*segnets\.torchvision_compat"
    with pytest.raises(WeightsError, match=missing), peer_errors(PEERS["timm"], "run"):
        pytest.fail("reached without torchvision_compat")


def test_peers_run_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(segnets, "torchvision_compat", raising=False)
    monkeypatch.delitem(sys.modules, COMPATIBILITY, raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    reached = False
    with peer_errors(PEERS["transformers"], "run"):
        reached = True
    assert reached


def test_an_option_that_a_peer_does_not_account_for_is_refused() -> None:
    options = PendingOptions("Peer", ModelConfig("resnet18", {"num_classes": 3, "norm_eps": 1e-3}))
    assert options.take("num_classes") == 3
    with pytest.raises(WeightsError, match=r"Peer has no resnet18 with an option like norm_eps=0\.001"):
        options.into_call("peer.resnet18", {})
    with pytest.raises(
        WeightsError, match="Peer has no resnet18 with the norm_eps of this file; it supports only 1e-0"
    ):
        options.require("norm_eps", 1e-5)


def test_hidden_options_are_those_of_the_table() -> None:
    assert {"output_stride", "align_corners", "norm_eps", "atrous_rates", "dilated"} <= HIDDEN_OPTIONS
    visible = {option.name for option in ALL_OPTIONS if option.visible == "yes"}
    assert not HIDDEN_OPTIONS & (visible | {"head_dropout", "norm_eval"})
    options = PendingOptions("Peer", ModelConfig("resnet18", {"num_classes": 3, "norm_eps": 1e-3}))
    options.take("num_classes")
    options.take("norm_eps")
    assert options.assumed == {"norm_eps": 1e-3}
