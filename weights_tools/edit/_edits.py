"""Validated changes requested by the caller of a conversion."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segnets.card import Decoding, check_card
from segnets.errors import WeightsError
from weights_tools.edit._classes import ClassMap, read_class_map, read_class_names, rows_of
from weights_tools.edit._weights import Weights, cast, drop_auxiliary, name_classes, replace_classes

DTYPES = ("float32", "float16", "bfloat16", "float64")
_MAX_CLASSES = 1 << 20


@dataclass(frozen=True)
class Edits:
    """Changes to make to recognised weights. Use `Edits.validated` to build one from a caller's arguments.

    Attributes:
        class_names: Names of the source's classes, or None to keep those that the source records.
        num_classes: Number of classes of new last layers, or None to keep the source's.
        class_map: New class name -> class of the source whose rows it takes, or None to keep the classes.
        drop_aux: Whether to leave out the auxiliary classifier.
        decoding: Rule that turns logits into ids, or None to keep that of the source.
        dtype: Floating-point dtype to cast to, one of `DTYPES`, or None to keep every dtype.
    """

    class_names: tuple[str, ...] | None = None
    num_classes: int | None = None
    class_map: ClassMap | None = None
    drop_aux: bool = False
    dtype: str | None = None
    decoding: Decoding | None = None

    @classmethod
    def validated(
        cls,
        *,
        classes: Sequence[str] | str | os.PathLike[str] | None = None,
        num_classes: int | None = None,
        remap_classes: ClassMap | str | os.PathLike[str] | None = None,
        drop_aux: bool = False,
        decoding: Decoding | None = None,
        dtype: str | None = None,
    ) -> Edits:
        """Check the arguments of `weights_tools.convert` and read the files that they refer to.

        Raises:
            WeightsError: If an argument is out of range, contradicts another, or names an unusable file.
        """
        if dtype is not None and dtype not in DTYPES:
            raise WeightsError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        if num_classes is not None and (isinstance(num_classes, bool) or not 1 <= num_classes <= _MAX_CLASSES):
            raise WeightsError(f"num_classes={num_classes}: expected 1 to {_MAX_CLASSES:,}")
        class_map = None if remap_classes is None else read_class_map(remap_classes)
        if class_map is not None and num_classes not in (None, len(class_map)):
            raise WeightsError(
                f"num_classes={num_classes}, but the class map has {len(class_map)} classes. Omit one of the two."
            )
        return cls(read_class_names(classes), num_classes, class_map, drop_aux, dtype, decoding)

    def apply(self, weights: Weights) -> Weights:
        """Return the edited weights.

        With a class map, `class_names` are the names of the source's classes; without one, of the output's.

        Raises:
            WeightsError: If the weights do not allow an edit, for example because a cast would overflow.
        """
        if self.drop_aux:
            weights = drop_auxiliary(weights)
        if self.dtype is not None:
            weights = cast(weights, self.dtype)
        count = weights.config.options.get("num_classes")
        assert isinstance(count, int)
        if self.class_map is not None:
            if self.class_names is not None:
                weights = name_classes(weights, self.class_names)
            # The names of a network of one channel are those of its two ids, not of rows.
            names = weights.card.classes if len(weights.card.classes) == count else ()
            rows = rows_of(self.class_map, names, count)
            return self._decoded(replace_classes(weights, rows, tuple(self.class_map)))
        if self.num_classes is not None and self.num_classes != count:
            weights = replace_classes(weights, [None] * self.num_classes)
        weights = self._decoded(weights)
        return weights if self.class_names is None else name_classes(weights, self.class_names)

    def _decoded(self, weights: Weights) -> Weights:
        """Return the weights with the requested decoding."""
        if self.decoding is None:
            return weights
        card = replace(weights.card, decoding=self.decoding)
        names = card.classes if self.class_names is None or self.class_map is not None else ()
        count = weights.config.options.get("num_classes")
        assert isinstance(count, int)
        try:
            check_card(replace(card, classes=names, palette=card.palette if names else ()), count)
        except ValueError as error:
            raise WeightsError(str(error)) from None
        return replace(weights, card=card)

    def describe(self, before: Weights, after: Weights) -> tuple[str, ...]:
        """Describe how the network changed between `before` and `after`, including the cast."""
        cast_any = any(before.tensors[name].dtype != tensor.dtype for name, tensor in after.tensors.items())
        return (*after.changes, *([f"cast to {self.dtype}"] if cast_any else []))
