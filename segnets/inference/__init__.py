"""Inference on images: predictions with masks, areas, polygons and pictures, and their writers."""

from segnets.inference.masks import overlay
from segnets.inference.postprocess import PostProcessing
from segnets.inference.prediction import Prediction, Seconds
from segnets.inference.predictor import Predictor
from segnets.inference.writers import WRITERS
from segnets.palettes import voc_palette

__all__ = ["WRITERS", "PostProcessing", "Prediction", "Predictor", "Seconds", "overlay", "voc_palette"]
