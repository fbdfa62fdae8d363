"""Post-processing of masks: uncertain pixels, classes to keep, small regions and holes.

Regions are connected along edges, not corners, so a hole may leak through a corner. scipy is imported when first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segnets.card import Colour, Decoding
from segnets.errors import PredictError
from segnets.inference.maps import LogitMaps, confidence

Mask: TypeAlias = npt.NDArray[np.integer[Any]]
UNSURE, OTHER = "unsure", "other"
_OTHER_COLOUR: Colour = (0, 0, 0)  # overlays leave such pixels unchanged


@dataclass(frozen=True)
class PostProcessing:
    """Changes to a mask, applied in this order.

    Attributes:
        min_confidence: Probability, 0..1, below which a pixel becomes "unsure", a new last class. None adds no
            such class.
        only: Names or ids of the classes to keep; other pixels become "other", a new last class drawn in
            black. In masks with a plane per class, the other planes become 0. Empty keeps every class.
        min_area: Regions of fewer pixels get the class of the nearest pixel outside such regions; in masks with a plane
            per class they become 0.
        fill_holes: Holes of up to this many pixels inside one class, which do not touch the border of the image, get
            that class. Classes are processed in the order of their ids.
        functions: Functions that take and return a mask, (H, W), or planes, (C, H, W).

    Raises:
        PredictError: If a value is not allowed.
    """

    min_confidence: float | None = None
    min_area: int = 0
    fill_holes: int = 0
    only: tuple[str | int, ...] = ()
    functions: tuple[Callable[[Mask], Mask], ...] = ()

    def __post_init__(self) -> None:
        if self.min_confidence is not None and not 0 < self.min_confidence < 1:
            raise PredictError(
                f"min_confidence={self.min_confidence!r} (--min-confidence): expected a probability between 0 and 1"
            )
        for name in ("min_area", "fill_holes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise PredictError(
                    f"{name}={value!r} (--{name.replace('_', '-')}): expected a number of pixels, 0 or more"
                )
        only: object = self.only
        if not isinstance(only, tuple | list) or not all(isinstance(each, str | int | np.integer) for each in only):
            raise PredictError(f"only={self.only!r} (--only): expected a tuple of names or ids, such as ('person', 3)")
        if self.min_area or self.fill_holes:
            _ndimage()  # fail before any work

    @property
    def needs_whole_mask(self) -> bool:
        """True if a change depends on more than the pixel itself."""
        return bool(self.min_area or self.fill_holes or self.functions)

    def classes_after(
        self, classes: Sequence[str], palette: Sequence[Colour], decoding: Decoding
    ) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
        """Return the class names and colours of changed masks, and check that the changes suit the model.

        Args:
            classes: Class names of the model.
            palette: Colours of the model, one per class.
            decoding: Rule that turns logits into ids.

        Returns:
            Class names and colours after the changes.

        Raises:
            PredictError: If a class to keep does not exist, or a change does not suit the decoding.
        """
        self._kept(classes)
        names, colours = list(classes), list(palette)
        if self.min_confidence is not None:
            if decoding.rule == "multilabel":
                raise PredictError(
                    "min_confidence (--min-confidence): is for one class per pixel, but this model gives a plane per "
                    "class; export it with another threshold (--threshold)"
                )
            names.append(UNSURE)
            colours.append(_unused_colour(palette))
        if self.only and decoding.rule != "multilabel":
            names.append(OTHER)
            colours.append(_OTHER_COLOUR)
        return tuple(names), tuple(colours)

    def apply(self, mask: Mask, maps: LogitMaps, decoding: Decoding, classes: Sequence[str]) -> Mask:
        """Return the changed mask; the argument may be changed too.

        Args:
            mask: Class ids, (H, W), or planes of 0 and 1, (C, H, W).
            maps: Logits of the mask.
            decoding: Rule that turned the logits into ids.
            classes: Class names of the model.

        Returns:
            A mask of the same shape; uint16 if its ids need more than 8 bits.

        Raises:
            PredictError: If a function does not return a mask of the expected shape and type.
        """
        confidences = None if self.min_confidence is None else confidence(maps, decoding)
        return self.apply_to_regions(self.apply_to_pixels(mask, confidences, classes))

    def apply_to_regions(self, mask: Mask) -> Mask:
        """Apply the changes that need the whole mask, after `apply_to_pixels`: regions, holes and functions.

        Args:
            mask: Class ids, (H, W), or planes, (C, H, W); changed in place if possible.
        """
        planes = mask if mask.ndim == 3 else None
        if self.min_area > 1:
            if planes is None:
                mask = _without_small_regions(mask, self.min_area)
            else:
                for plane in planes:
                    plane[_small(plane != 0, self.min_area)] = 0
        if self.fill_holes:
            if planes is None:
                for class_id in np.unique(mask):
                    mask[_holes(mask == class_id, self.fill_holes)] = class_id
            else:
                for plane in planes:
                    plane[_holes(plane != 0, self.fill_holes)] = 1
        for function in self.functions:
            shape = mask.shape
            mask = function(mask)
            if not isinstance(mask, np.ndarray) or mask.shape != shape or mask.dtype.kind not in "ui":
                raise PredictError(f"{_name_of(function)}: expected a mask of whole numbers {shape} as its result")
        return mask

    def apply_to_pixels(self, mask: Mask, confidences: npt.NDArray[np.float32] | None, classes: Sequence[str]) -> Mask:
        """Apply the changes that depend on a pixel only: `min_confidence` and `only`.

        Args:
            mask: Class ids, (H, W), or planes, (C, H, W); changed in place if possible.
            confidences: Probability of the class of each pixel, (H, W); needed for `min_confidence`.
            classes: Class names of the model.
        """
        following = len(classes)
        extra = (self.min_confidence is not None) + bool(self.only and mask.ndim == 2)
        if extra and following + extra > np.iinfo(mask.dtype).max + 1:
            mask = mask.astype(np.uint16)
        kept = self._kept(classes)
        if self.min_confidence is not None:
            assert confidences is not None  # guaranteed by the caller
            mask[confidences < self.min_confidence] = following
            following += 1
            kept.add(following - 1)
        if self.only and mask.ndim == 3:
            mask[[plane for plane in range(len(mask)) if plane not in kept]] = 0
        elif self.only:
            table = np.full(following, following, dtype=mask.dtype)
            table[sorted(kept)] = sorted(kept)
            mask = table[mask]
        return mask

    def _kept(self, classes: Sequence[str]) -> set[int]:
        """Return the ids of the classes to keep."""
        kept: set[int] = set()
        for each in self.only:
            if isinstance(each, str) and each in classes:
                kept.update(i for i, name in enumerate(classes) if name == each)
            elif not isinstance(each, str) or each.isdecimal():
                kept.add(int(each))
            else:
                raise PredictError(f"only={each!r} (--only): no such class; expected {_listed(classes)}")
        if bad := sorted(each for each in kept if not 0 <= each < len(classes)):
            raise PredictError(f"only={bad[0]} (--only): no such class; expected an id from 0 to {len(classes) - 1}")
        return kept


def _unused_colour(palette: Sequence[Colour]) -> Colour:
    """Return a bright colour that the palette does not use: white, magenta, yellow, cyan, or a darker one of these."""
    bright = ((255, 255, 255), (255, 0, 255), (255, 255, 0), (0, 255, 255))
    candidates = (tuple(max(0, part - dark) for part in each) for dark in range(255) for each in bright)
    used = {tuple(each) for each in palette}
    return next((red, green, blue) for red, green, blue in candidates if (red, green, blue) not in used)


def _without_small_regions(mask: Mask, min_area: int) -> Mask:
    """Give regions smaller than `min_area` pixels the class of the nearest pixel outside such regions."""
    small = np.zeros(mask.shape, dtype=bool)
    for class_id in np.unique(mask):
        small |= _small(mask == class_id, min_area)
    if not small.any() or small.all():
        return mask
    rows, columns = _ndimage().distance_transform_edt(small, return_distances=False, return_indices=True)
    nearest: Mask = mask[rows, columns]
    return nearest


def _small(inside: npt.NDArray[np.bool_], min_area: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of regions with fewer than `min_area` pixels."""
    labels, count = _ndimage().label(inside)
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1)
    small: npt.NDArray[np.bool_] = (sizes < min_area)[labels] & inside
    return small


def _holes(inside: npt.NDArray[np.bool_], max_area: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of holes that have at most `max_area` pixels."""
    labels, count = _ndimage().label(~inside, structure=np.ones((3, 3), dtype=bool))
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1)
    filled = sizes <= max_area
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        filled[border] = False
    filled[0] = False
    holes: npt.NDArray[np.bool_] = filled[labels]
    return holes


def _ndimage() -> Any:
    try:
        return importlib.import_module("scipy.ndimage")
    except ImportError:
        raise PredictError(
            "min_area and fill_holes (--min-area, --fill-holes) need scipy, which is not installed: "
            "pip install 'segnets[regions]'"
        ) from None


def _listed(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:20])
    return shown if len(classes) <= 20 else f"{shown}, ... ({len(classes)} classes), or an id"


def _name_of(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
