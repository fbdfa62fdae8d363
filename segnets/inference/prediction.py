"""Result of segmenting one image: mask, probabilities, areas, polygons and pictures.

Shapes: H W the image as it is displayed, K its channels, C classes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnets.card import Colour, Decoding
from segnets.errors import ImageError, OutputError
from segnets.files import atomic_write
from segnets.inference import drawing, maps
from segnets.inference.areas import class_areas
from segnets.inference.legend import draw_legend, legend_entries, percent
from segnets.inference.maps import LogitMaps
from segnets.inference.polygons import feature_collection
from segnets.inference.rle import Rle, encode, encode_ids
from segnets.palettes import voc_palette

_NOTEBOOK_SIDE = 960  # pixels of the picture in a notebook
_NAMED_CLASSES = 3  # in the text representation


@dataclass
class Seconds:
    """Processing time of one image in seconds. In a batch, each image gets an equal share of the batch's time.

    Attributes:
        decode: Reading and decoding of the image file.
        network: Preprocessing and network.
        post: Resizing of the logits, mask, and post-processing.
        write: Writing of the outputs; 0 until they are written.
    """

    decode: float = 0.0
    network: float = 0.0
    post: float = 0.0
    write: float = 0.0

    @property
    def total(self) -> float:
        """Sum of all steps, in seconds."""
        return self.decode + self.network + self.post + self.write


class Prediction:
    """Result of segmenting one image.

    A notebook displays it as a picture with a legend.

    Args:
        source: Name of the image: its path, or a description of an image in memory.
        mask: Class ids of shape (H, W), or for the rule "multilabel" planes of 0 and 1 of shape (C, H, W); None for an
            image that can't be read.
        classes: One name per class id; empty for "class 0", "class 1", ...
        palette: One RGB colour (0..255) per class id; empty for PASCAL VOC's.
        image: Pixels of shape (H, W, K), uint8, or None if they are not kept.
        maps: Logits at the image's size, or None if they are not kept.
        decoding: Rule that turned the logits into ids.
        error: Reason why there is no mask.
        notices: Remarks on the image, for example that only the first frame was read.
        seconds: Processing time of each step.
        num_classes: Number of classes if `classes` is empty; None takes it from the palette, the logits or the mask.

    Attributes:
        source: Name of the image.
        mask: Mask at the image's displayed size; None if `error` is set.
        classes: One name per class id.
        palette: One RGB colour per class id.
        image: Pixels of the image, or None.
        maps: Logits at the image's size, or None.
        decoding: Rule that turned the logits into ids.
        error: An ImageError for an image that can't be read, which all methods raise; else None.
        notices: Remarks on the image.
        seconds: Processing time of each step.

    Raises:
        ImageError: If the mask has the wrong shape, or contains an id without a class. The id 255 may have none: it
            marks pixels to ignore.
        ValueError: If both or neither of `mask` and `error` are given, or the numbers of names and colours differ.

    Example:
        >>> prediction = segnets.Predictor("weights.safetensors").predict("photo.jpg")
        >>> prediction.area()["dog"]
        >>> prediction.save("photo.png")
    """

    # mask: "Any" as well, because only a batch of files contains predictions without a mask.
    mask: npt.NDArray[np.integer] | Any

    def __init__(
        self,
        *,
        source: str,
        mask: npt.NDArray[np.integer] | None = None,
        classes: Sequence[str] = (),
        palette: Sequence[Colour] = (),
        image: npt.NDArray[np.uint8] | None = None,
        maps: LogitMaps | None = None,
        decoding: Decoding | None = None,
        error: ImageError | None = None,
        notices: Sequence[str] = (),
        seconds: Seconds | None = None,
        num_classes: int | None = None,
    ) -> None:
        if (mask is None) == (error is None):
            raise ValueError(f"{source}: expected either a mask or an error")
        self.source = source
        self.mask = mask
        self.image = image
        self.maps = maps
        self.error = error
        self.notices = tuple(notices)
        self.seconds = seconds or Seconds()
        if num_classes is None:
            num_classes = len(classes or palette) or _count_classes(mask, maps, decoding)
        self.classes = tuple(classes) or tuple(f"class {each}" for each in range(num_classes))
        self.palette = tuple(palette) or _voc_palette(len(self.classes))
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{source}: {len(self.palette)} colours for {len(self.classes)} classes")
        if mask is not None:
            _check_ids(source, mask, len(self.classes))
        self.decoding = decoding or Decoding("multilabel" if mask is not None and mask.ndim == 3 else "argmax")

    @property
    def height(self) -> int:
        """Height of the image as it is displayed."""
        return int(self.checked_mask().shape[-2])

    @property
    def width(self) -> int:
        """Width of the image as it is displayed."""
        return int(self.checked_mask().shape[-1])

    def probabilities(self) -> npt.NDArray[np.float32]:
        """Compute the probability of each class at the image's size. This takes 4 bytes for each class and pixel.

        Returns:
            Probabilities of shape (C, H, W), float32, 0..1, one channel per class. They add up to 1, except for the
            rule "multilabel", whose classes are independent.

        Raises:
            ImageError: The error of the prediction, if it is set.
            ValueError: If the prediction keeps no logits.
        """
        return maps.probabilities(self.checked_maps("probabilities"), self.decoding)

    @cached_property
    def confidence(self) -> npt.NDArray[np.float32]:
        """Probability of the network's decision, per pixel: shape (H, W), float32, 0..1. Computed on first access.

        For the rule "multilabel", the probability of the least certain plane is given.

        Raises:
            ImageError: The error of the prediction, if it is set.
            ValueError: If the prediction keeps no logits.
        """
        return maps.confidence(self.checked_maps("confidence"), self.decoding)

    @cached_property
    def entropy(self) -> npt.NDArray[np.float32]:
        """Entropy of the probabilities, per pixel: shape (H, W), float32, in nats. Computed on first access.

        Raises:
            ImageError: The error of the prediction, if it is set.
            ValueError: If the prediction keeps no logits.
        """
        return maps.entropy(self.checked_maps("entropy"), self.decoding)

    def area(self) -> dict[str, int]:
        """Count the pixels of each class.

        Returns:
            Number of pixels by class name, in the order of the ids, 0 for classes that are not in the image. If several
            classes share a name, the later ones have their id appended: "other", "other (7)".

        Raises:
            ImageError: The error of the prediction, if it is set.
        """
        areas = class_areas(self.checked_mask(), len(self.classes))
        return dict(zip(_unique(self.classes), areas.tolist(), strict=True))

    def polygons(self) -> dict[str, Any]:
        """Describe the regions as GeoJSON, with corners in pixels (`segnets.inference.polygons`).

        Returns:
            A FeatureCollection, one Polygon per region, with the properties "class", "id" and "area".

        Raises:
            ImageError: The error of the prediction, if it is set.
        """
        return feature_collection(self.checked_mask(), self.classes)

    def rle(self) -> dict[str, Rle]:
        """Encode the pixels of each class in the image in COCO's compressed form.

        Returns:
            Encoding by class name, named as in `area`. `pycocotools.mask.decode` reads each encoding.

        Raises:
            ImageError: The error of the prediction, if it is set.
        """
        names = _unique(self.classes)
        return {names[class_id]: encoded for class_id, encoded in self.encoded()}

    def encoded(self) -> list[tuple[int, Rle]]:
        """Encode the pixels of each class in the image, with class ids instead of names.

        Returns:
            Pairs of class id and encoding, in ascending order of the ids.

        Raises:
            ImageError: The error of the prediction, if it is set.
        """
        mask = self.checked_mask()
        class_areas(mask, len(self.classes))
        if mask.ndim == 3:
            return [(class_id, encode(plane)) for class_id, plane in enumerate(mask) if plane.any()]
        return [(class_id, each) for class_id, each in encode_ids(mask) if class_id < len(self.classes)]

    def overlay(self, alpha: float = 0.5, *, outlines: bool = True) -> npt.NDArray[np.uint8]:
        """Blend the image with the colours of the mask. Black classes leave the image unchanged.

        Args:
            alpha: Opacity of the colours, 0..1.
            outlines: Whether to outline the regions in the full colour.

        Returns:
            Picture of shape (H, W, 3), uint8, RGB.

        Raises:
            ImageError: The error of the prediction, if it is set.
            ValueError: If the prediction keeps no pixels, or `alpha` is not in 0..1.
        """
        mask = self.checked_mask()
        return drawing.draw_overlay(self._checked_image(), mask, self.palette, alpha=alpha, outlines=outlines)

    def legend(self, width: int = 480, text_size: int = 16) -> npt.NDArray[np.uint8]:
        """Draw the names, colours and shares of the classes in the image, the largest first.

        Args:
            width: Width of the picture, in pixels.
            text_size: Size of the text, in pixels.

        Returns:
            Picture of shape (h, width, 3), uint8, RGB.

        Raises:
            ImageError: The error of the prediction, if it is set.
        """
        entries = legend_entries(self.checked_mask(), self.classes, self.palette)
        return draw_legend(entries, width, text_size)

    def picture(self, alpha: float = 0.5, *, max_side: int | None = None) -> npt.NDArray[np.uint8]:
        """Draw the overlay with the legend below it, or the colours alone if the prediction keeps no pixels.

        Args:
            alpha: Opacity of the colours, 0..1.
            max_side: Longest side of the overlay, in pixels; larger images are reduced. None keeps the size.

        Returns:
            Picture of shape (h, w, 3), uint8, RGB.

        Raises:
            ImageError: The error of the prediction, if it is set.
            ValueError: If `alpha` is not in 0..1.
        """
        mask = self.checked_mask()
        return drawing.draw_picture(self.image, mask, self.classes, self.palette, alpha=alpha, max_side=max_side)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the prediction in the format given by the suffix. Readers never see an incomplete file.

        Args:
            path: Path of the file. ".png" is the mask, ".jpg" the overlay with its legend (also ".overlay.png"), ".npz"
                the probabilities, ".confidence.png" the confidence, ".geojson" the polygons, ".json" COCO, ".csv" the
                areas.
            overwrite: Whether an existing file may be replaced.

        Returns:
            The path.

        Raises:
            ImageError: The error of the prediction, if it is set.
            OutputError: If the suffix is unknown, or the file can't be written.
            ValueError: If the prediction does not keep the image or logits that the format needs.
        """
        from segnets.inference.writers import SUFFIXES, TableWriter

        self.checked_mask()
        path = Path(path)
        writer = next((each for suffix, each in SUFFIXES.items() if path.name.lower().endswith(suffix)), None)
        if writer is None:
            raise OutputError(f"{path}: unknown suffix; expected one of {', '.join(SUFFIXES)}")
        with atomic_write(path, overwrite=overwrite) as file:
            if isinstance(writer, TableWriter):
                record = (self.source, self.height, self.width, writer.record(self))
                writer.assemble([record], self.classes, self.palette, file)
            else:
                writer.write(self, file)
        return path

    def checked_maps(self, what: str) -> LogitMaps:
        """Return the logits, or raise if there are none.

        Args:
            what: Name of the result, for the message.

        Raises:
            ImageError: The error of the prediction, if it is set.
            ValueError: If the prediction keeps no logits.
        """
        self.checked_mask()
        if self.maps is None:
            raise ValueError(f"{self.source}: no {what}, because this prediction does not keep its logits")
        return self.maps

    def checked_mask(self) -> npt.NDArray[np.integer]:
        """Return the mask, or raise if there is none.

        Raises:
            ImageError: The error of the prediction, if it is set.
        """
        if self.error is not None:
            raise self.error
        mask: npt.NDArray[np.integer] = self.mask
        return mask

    def _checked_image(self) -> npt.NDArray[np.uint8]:
        if self.image is None:
            raise ValueError(f"{self.source}: an overlay needs the image, which this prediction does not keep")
        return self.image

    def _repr_png_(self) -> bytes | None:
        """Return the picture that a notebook shows, as PNG; None for a prediction without a mask."""
        if self.error is not None:
            return None
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.picture(max_side=_NOTEBOOK_SIDE)).save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Prediction({self.source!r}, error={str(self.error)!r})"
        entries = legend_entries(self.mask, self.classes, self.palette)
        parts = []
        for entry in entries[:_NAMED_CLASSES]:
            name = f"class {entry.class_id}" if entry.name == str(entry.class_id) else entry.name  # as in legends
            parts.append(f"{name} {percent(entry.share)}")
        if len(entries) > _NAMED_CLASSES:
            parts.append(f"{len(entries) - _NAMED_CLASSES} more")
        return f"Prediction({self.source!r}, mask {self.mask.shape} {self.mask.dtype}: {', '.join(parts) or 'nothing'})"


def _count_classes(mask: npt.NDArray[np.integer] | None, maps: LogitMaps | None, decoding: Decoding | None) -> int:
    if maps is not None:
        return (decoding or Decoding.default(maps.channels)).ids(maps.channels)
    if mask is None:
        return 0
    return len(mask) if mask.ndim == 3 else int(mask.max(initial=0)) + 1


def _check_ids(source: str, mask: npt.NDArray[np.integer], num_classes: int) -> None:
    """Check the shape and ids of a mask. Count its pixels only if the largest id looks wrong."""
    if mask.ndim != 2 or (mask.size and not 0 <= int(mask.min()) <= int(mask.max()) < num_classes):
        try:
            class_areas(mask, num_classes)
        except ImageError as error:
            raise ImageError(f"{source}: {error}") from None


@lru_cache(maxsize=16)
def _voc_palette(num_classes: int) -> tuple[Colour, ...]:
    return tuple(voc_palette(num_classes))


def _unique(names: Sequence[str]) -> list[str]:
    """Make names unique by appending the id to repeated ones."""
    seen: set[str] = set()
    result = []
    for class_id, name in enumerate(names):
        result.append(f"{name} ({class_id})" if name in seen else name)
        seen.add(name)
    return result
