"""Weights: self-describing .safetensors files, torchvision's published files, and loading both into models."""

from segnets.weights.fitting import LoadReport
from segnets.weights.store import load, load_weights, save
from segnets.weights.weights_file import WeightsFile, read_weights_file, write_weights_file

__all__ = [
    "LoadReport",
    "WeightsFile",
    "load",
    "load_weights",
    "read_weights_file",
    "save",
    "write_weights_file",
]
