"""Other projects' own networks, to compare with a converted one: one file per project, behind one protocol.

A project is only imported when its network is built, and no conversion needs any of them.
"""

from __future__ import annotations

from segnets.errors import WeightsError
from weights_tools.check.peers.base import (
    HIDDEN_OPTIONS,
    Peer,
    PeerCall,
    check_installed,
    installed_version,
    peer_errors,
)
from weights_tools.check.peers.mmseg import Mmseg
from weights_tools.check.peers.smp import Smp
from weights_tools.check.peers.timm import Timm
from weights_tools.check.peers.torchvision import Torchvision
from weights_tools.check.peers.transformers import Transformers

__all__ = [
    "HIDDEN_OPTIONS",
    "PEERS",
    "Peer",
    "PeerCall",
    "check_installed",
    "find_peer",
    "installed_version",
    "peer_errors",
]

PEERS: dict[str, Peer] = {peer.name: peer for peer in (Mmseg(), Smp(), Timm(), Torchvision(), Transformers())}


def find_peer(project: str) -> Peer:
    """Return the peer of a project.

    Raises:
        WeightsError: If the project is unknown or not installed.
    """
    if project not in PEERS:
        raise WeightsError(f"unknown project {project!r}; known are {', '.join(PEERS)}")
    check_installed(PEERS[project])
    return PEERS[project]
