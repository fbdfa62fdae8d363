"""Data sets: images with masks of class ids, their checks, augmentation and loading for training."""

from __future__ import annotations

from segnets.data.check import DataReport, check_data
from segnets.data.dataset import DataSet, Pair, Sample
from segnets.data.opening import open_data

__all__ = ["DataReport", "DataSet", "Pair", "Sample", "check_data", "open_data"]
