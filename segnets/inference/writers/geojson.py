"""Write the polygons of the regions as GeoJSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction


class GeoJsonWriter:
    """Writer of the polygons in pixels (`segnets.inference.polygons`), one feature per line."""

    suffix = ".geojson"

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write the polygons, as `FileWriter.write` does."""
        collection = prediction.polygons()
        features = collection.pop("features")
        head = json.dumps(collection, separators=(",", ":"))
        file.write(f'{head[:-1]},"features":['.encode())
        for index, feature in enumerate(features):
            file.write((",\n" if index else "\n").encode() + json.dumps(feature, separators=(",", ":")).encode())
        file.write(b"\n]}\n")
