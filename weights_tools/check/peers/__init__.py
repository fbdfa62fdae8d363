"""Other projects' own networks, to run beside a converted one. One file per project; a new one is one more entry.

Nothing of a project is imported before it is asked for, and none of them is needed to convert.
"""

from __future__ import annotations

from segnets.errors import WeightsError
from weights_tools.check.peers.base import UNSEEN, Call, Project, check_installed, foreign, version_of
from weights_tools.check.peers.mmseg import Mmseg
from weights_tools.check.peers.smp import Smp
from weights_tools.check.peers.timm import Timm
from weights_tools.check.peers.torchvision import Torchvision
from weights_tools.check.peers.transformers import Transformers

__all__ = ["PROJECTS", "UNSEEN", "Call", "Project", "check_installed", "find_project", "foreign", "version_of"]

PROJECTS: dict[str, Project] = {
    project.name: project for project in (Mmseg(), Smp(), Timm(), Torchvision(), Transformers())
}


def find_project(name: str) -> Project:
    """The project of that name. Raises WeightsError for an unknown one, and for one that is not installed."""
    if name not in PROJECTS:
        raise WeightsError(f"unknown project {name!r}; known are {', '.join(PROJECTS)}")
    check_installed(PROJECTS[name])
    return PROJECTS[name]
