"""Protocol of writers that receive the results of a large image row by row, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from segnets.card import Colour, Decoding

if TYPE_CHECKING:
    from segnets.inference.rasters import Geo
    from segnets.inference.tiles import Rows


@dataclass(frozen=True)
class RowImage:
    """Large image whose results are computed row by row.

    Attributes:
        source: Name of the image.
        height: Height H, in pixels.
        width: Width W, in pixels.
        classes: One name per class id.
        palette: One RGB colour (0..255) per class id.
        decoding: Rule that turns logits into ids. "multilabel" gives a plane per class.
        geo: Georeference, or None.
    """

    source: str
    height: int
    width: int
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    decoding: Decoding
    geo: Geo | None = None

    @property
    def planes(self) -> int:
        """Number of planes of the mask, or 0 for ids."""
        return len(self.classes) if self.decoding.rule == "multilabel" else 0


class RowWriter(Protocol):
    """Writer of one output of one image.

    Attributes:
        suffix: Suffix of the file name, with the dot.
        needs_confidence: Whether the rows must have the confidence.
        needs_logits: Whether the rows must have the logits.
    """

    suffix: str
    needs_confidence: bool
    needs_logits: bool

    def start(self, image: RowImage, file: BinaryIO) -> None:
        """Begin the file.

        Args:
            image: Image whose rows follow.
            file: Open binary file.

        Raises:
            ImageError: If the format can't hold the result.
        """

    def rows(self, rows: Rows) -> None:
        """Add the next rows, in order and without gaps."""

    def finish(self) -> None:
        """Complete the file, which stays open."""

    def close(self) -> None:
        """Release temporary files. Called last, even after an error."""
