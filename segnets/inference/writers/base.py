"""Protocols of the writers. A writer turns predictions into the bytes of a file. Its caller handles paths.

Equal predictions give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeAlias, runtime_checkable

from segnets.card import JSON, Colour

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction

# One image's part of a table: the image's name, height and width, and what `TableWriter.record` returned.
Record: TypeAlias = tuple[str, int, int, JSON]


class FileWriter(Protocol):
    """Writer of one file per image."""

    @property
    def suffix(self) -> str:
        """Suffix of the file name, with the dot."""

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write a prediction.

        Args:
            prediction: Prediction with a mask.
            file: Open binary file.

        Raises:
            ImageError: The error of the prediction, if it is set, or if the format can't hold the result.
            ValueError: If the prediction does not keep the image or logits that the format needs.
        """


@runtime_checkable
class TableWriter(Protocol):
    """Writer of one file per run. Its record of each image is a small JSON value, so that a run can be resumed."""

    @property
    def file_name(self) -> str:
        """Name of the file."""

    def record(self, prediction: Prediction) -> JSON:
        """Return the part of the table for one prediction.

        Args:
            prediction: Prediction with a mask.

        Raises:
            ImageError: The error of the prediction, if it is set.
        """

    def assemble(
        self, records: Iterable[Record], classes: Sequence[str], palette: Sequence[Colour], file: BinaryIO
    ) -> None:
        """Write the table, one image at a time.

        Args:
            records: The images' parts, in the order of the table.
            classes: One name per class id.
            palette: One RGB colour per class id.
            file: Open binary file.
        """
