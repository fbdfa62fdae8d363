"""Sources of images: each yields items, which are decoded later."""

from segnets.inference.sources.base import Item, Source
from segnets.inference.sources.files import FileSource
from segnets.inference.sources.memory import items_of

__all__ = ["FileSource", "Item", "Source", "items_of"]
