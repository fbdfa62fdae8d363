"""Write the masks of a whole run to one file in COCO's format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from segnets.card import JSON, Colour
from segnets.inference import rle
from segnets.inference.writers.base import Record

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction

_IN_MEMORY = 1 << 22  # bytes of the list of images before it goes to a temporary file


class CocoWriter:
    """Writer of `coco.json`, which `pycocotools.coco.COCO` opens.

    Each image has one annotation per class that it contains, the background included. The segmentation is a compressed
    run-length encoding; `coco.annToMask` gives exactly the pixels of the class. Category ids are the class ids, from 0.
    Image and annotation ids count from 1.
    """

    file_name = "coco.json"

    def record(self, prediction: Prediction) -> JSON:
        """Return the annotations of an image without their ids, as `TableWriter.record` does."""
        return [
            {
                "category_id": class_id,
                "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"]},
                "area": rle.area(encoded),
                "bbox": list(rle.bounding_box(encoded)),
                "iscrowd": 0,
            }
            for class_id, encoded in prediction.encoded()
        ]

    def assemble(
        self, records: Iterable[Record], classes: Sequence[str], palette: Sequence[Colour], file: BinaryIO
    ) -> None:
        """Write the file, as `TableWriter.assemble` does."""
        categories = [
            {"id": class_id, "name": name, "supercategory": "", "color": list(colour)}
            for class_id, (name, colour) in enumerate(zip(classes, palette, strict=True))
        ]
        file.write(b'{"info":{"description":"Predicted masks"},\n"licenses":[],\n"categories":' + _bytes(categories))
        file.write(b',\n"annotations":[')
        annotation_id = 0
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as images:
            for image_id, (name, height, width, record) in enumerate(records, start=1):
                image = {"id": image_id, "file_name": name, "width": width, "height": height}
                images.write(b",\n" * (image_id > 1) + _bytes(image))
                for annotation in cast("list[dict[str, Any]]", record):
                    annotation_id += 1
                    ids = {"id": annotation_id, "image_id": image_id}
                    file.write(b",\n" * (annotation_id > 1) + _bytes({**ids, **annotation}))
            file.write(b'],\n"images":[')
            images.seek(0)
            while block := images.read(1 << 16):
                file.write(block)
        file.write(b"]}\n")


def _bytes(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
