"""Decoding of images: files, bytes, Pillow images, arrays and tensors to pixels of 8 bits.

Everything in segnets that reads an image reads it here. Pillow is imported when first used.
"""

from __future__ import annotations

from segnets.images._files import MAX_PIXELS
from segnets.images._reading import ImageData, ImageLike, image_pixels, image_size, read_image

__all__ = ["MAX_PIXELS", "ImageData", "ImageLike", "image_pixels", "image_size", "read_image"]
