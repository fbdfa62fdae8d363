"""Collect rows for outputs that need a whole image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from segnets.inference.prediction import Prediction
from segnets.inference.resized_logits import ResizedLogits
from segnets.inference.writers.rows import RowImage

if TYPE_CHECKING:
    from segnets.inference.tiles import Rows


class WholeRows:
    """Collection of all rows, for writers that can't take them one by one.

    Args:
        image: Image whose rows follow.
    """

    def __init__(self, image: RowImage) -> None:
        self._image = image
        self._masks: list[npt.NDArray[np.integer]] = []
        self._logits: list[torch.Tensor] = []

    def rows(self, rows: Rows) -> None:
        """Add rows. Their pixels are not kept."""
        self._masks.append(rows.mask)
        if rows.logits is not None:
            self._logits.append(torch.from_numpy(rows.logits))

    def prediction(self) -> Prediction:
        """Return the mask, with the logits if the rows have them, and without the image."""
        image = self._image
        maps = ResizedLogits(torch.cat(self._logits, dim=1), image.height, image.width) if self._logits else None
        return Prediction(
            source=image.source,
            mask=np.concatenate(self._masks, axis=-2),
            maps=maps,
            classes=image.classes,
            palette=image.palette,
            decoding=image.decoding,
        )
