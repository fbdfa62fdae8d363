"""Data sets: images with masks of class ids, their checks, augmentation and loading for training."""

from __future__ import annotations

from segnets.data.dataset import DataSet, Pair, Sample
from segnets.data.opening import open_data

__all__ = ["DataSet", "Pair", "Sample", "open_data"]
