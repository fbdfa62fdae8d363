"""Sources of images: each yields items, which are decoded later."""

from segnets.inference.sources.base import Item, Source
from segnets.inference.sources.files import IMAGE_SUFFIXES, FileSource, files_of
from segnets.inference.sources.memory import items_of

__all__ = ["IMAGE_SUFFIXES", "FileSource", "Item", "Source", "files_of", "items_of"]
