"""Protocol of the writers that take a large image's results row by row, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from segnets.card import Colour, Decoding

if TYPE_CHECKING:
    from segnets.inference.rasters import Geo
    from segnets.inference.tiles import Rows


@dataclass(frozen=True)
class RowImage:
    """A large image whose results come row by row.

    Attributes:
        source: Name of the image.
        height: Height H.
        width: Width W.
        classes: One name per class id.
        palette: One RGB colour (0..255) per class id.
        decoding: Rule that turns logits into ids. "multilabel" gives a plane per class.
        geo: Place on the Earth, or None.
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
        suffix: End of the file's name, with the dot.
        needs_confidence: Whether the rows must have the confidence.
        needs_logits: Whether the rows must have the logits.
    """

    suffix: str
    needs_confidence: bool
    needs_logits: bool

    def start(self, image: RowImage, file: BinaryIO) -> None:
        """Begin the file.

        Args:
            image: What is to come.
            file: Open binary file.

        Raises:
            ImageError: If the format can't hold the result.
        """

    def rows(self, rows: Rows) -> None:
        """Add the next rows, in order and without a gap."""

    def finish(self) -> None:
        """Complete the file, which stays open."""

    def close(self) -> None:
        """Release temporary files; called last, also after an error."""
