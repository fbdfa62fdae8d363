"""Write the probabilities of all classes for NumPy."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from segnets.errors import ImageError

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction

# Numbers in one file: 512 MiB of float16, and 1 GiB of float32 in memory. 21 classes of a photograph of 12 megapixels
# fit.
MAX_VALUES = 1 << 28
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date in the format; a fixed one keeps the bytes equal


class ProbabilitiesWriter:
    """Writer of the probabilities as `.npz`, compressed.

    `numpy.load(path)` has "probabilities" of shape (C, H, W), float16, and "classes", the names, of shape (C,).
    Rounding to float16 changes a probability by at most 0.00025.
    """

    suffix = ".npz"

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write the probabilities, as `FileWriter.write` does.

        Raises:
            ImageError: If there are more than 268 million values.
        """
        maps = prediction.checked_maps("probabilities")
        classes = prediction.decoding.ids(maps.channels)
        values = classes * maps.height * maps.width
        if values > MAX_VALUES:
            raise ImageError(
                f"{prediction.source}: probabilities of {classes} classes at {maps.width} x {maps.height} are "
                f"{values:,} numbers; a file holds up to {MAX_VALUES:,}. Reduce the image, or write the confidence"
            )
        probabilities = prediction.probabilities().astype(np.float16)
        # Post-processing may have added a class at the end, which has no probability.
        names = np.array(prediction.classes[:classes], dtype=np.str_)
        arrays = {"probabilities": probabilities, "classes": names}
        # The lowest compression level: higher ones take three times as long and save a few percent.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy", _DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # Unix, on every system
                entry.external_attr = 0o644 << 16
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
