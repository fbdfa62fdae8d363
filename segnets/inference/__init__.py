"""From a network's answer to something that a person looks at."""

from segnets.inference.masks import overlay, voc_palette

__all__ = ["overlay", "voc_palette"]
