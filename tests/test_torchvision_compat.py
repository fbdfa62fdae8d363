"""torchvision imports next to a CPU-only torch once segnets.torchvision_compat is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.full  # each run has the training of the README, which imports torchvision in the same way
def test_torchvision_is_imported_as_usual_afterwards() -> None:
    script = """
import segnets.torchvision_compat
import torchvision
from torchvision import datasets, models, transforms

assert segnets.torchvision_compat.torchvision is torchvision
print(models.segmentation.fcn_resnet50.__name__, datasets.VOCSegmentation.__name__, transforms.Compose.__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "fcn_resnet50 VOCSegmentation Compose\n"
