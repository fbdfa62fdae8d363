"""Decode files, bytes, Pillow images, arrays and tensors to 8-bit pixels.

All of segnets reads images through this package. Pillow is imported when first used.
"""

from __future__ import annotations

from segnets.images._files import MAX_PIXELS
from segnets.images._reading import ImageData, ImageLike, image_pixels, image_size, read_image

__all__ = ["MAX_PIXELS", "ImageData", "ImageLike", "image_pixels", "image_size", "read_image"]
