"""Inference on images: so far, colours for masks."""

from segnets.inference.masks import overlay, voc_palette

__all__ = ["overlay", "voc_palette"]
