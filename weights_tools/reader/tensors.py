"""Turn described tensors into torch.Tensors: check the bounds, then view the bytes that were read."""

from __future__ import annotations

import sys

import numpy as np
import torch

from segnets.errors import WeightsError
from weights_tools.reader.container import Container
from weights_tools.reader.source import Content
from weights_tools.reader.values import ITEM_SIZES, ComputedRef, StorageRef, TensorRef

_WIDEST = 8  # bytes of an element; complex128 is refused earlier


class TensorReader:
    """Reader of the tensors of a loaded checkpoint. They share its memory and must not be written to."""

    def __init__(self, source: Content, container: Container) -> None:
        self._source = source
        self._container = container
        self._flip = container.big_endian != (sys.byteorder == "big")
        self._storages: dict[tuple[str, str], torch.Tensor] = {}
        self._moved: dict[str, memoryview] = {}

    def read(self, name: str, ref: TensorRef) -> torch.Tensor:
        """Return the tensor. Raise WeightsError with the tensor's name if its storage is missing or too small."""
        check_bounds(name, ref, self._container)
        if isinstance(ref, ComputedRef):
            return self._compute(name, ref)
        dtype = getattr(torch, ref.dtype)
        if ref.numel == 0:
            return torch.empty(ref.shape, dtype=dtype)
        elements = self._elements(ref.storage, ref.dtype)
        return elements.as_strided(ref.shape, ref.stride, ref.storage.offset + ref.offset)

    def _compute(self, name: str, ref: ComputedRef) -> torch.Tensor:
        """Compute the tensor as torch does when the module runs."""
        first, second = (self.read(name, part) for part in ref.parts)
        if ref.rule == "mask":
            return (first * second.to(first.dtype)).reshape(ref.shape)
        rows = max(range(first.ndim), key=lambda dimension: first.shape[dimension]) if first.numel() > 1 else 0
        return torch._weight_norm(second.contiguous(), first, rows).reshape(ref.shape)

    def _elements(self, storage: StorageRef, dtype: str) -> torch.Tensor:
        found = self._storages.get((storage.key, dtype))
        if found is None:
            found = self._open(storage, dtype)
            self._storages[storage.key, dtype] = found
        return found

    def _open(self, storage: StorageRef, dtype: str) -> torch.Tensor:
        width = ITEM_SIZES[dtype]
        inline = storage.data is not None
        data = self._bytes(storage.key, width) if storage.data is None else memoryview(bytearray(storage.data))
        if width > 1 and (sys.byteorder == "big" if inline else self._flip):
            flipped = np.frombuffer(data, dtype=f"V{width}").view(np.uint8).reshape(-1, width)[:, ::-1]
            data = np.ascontiguousarray(flipped).reshape(-1).data
        return torch.frombuffer(data, dtype=getattr(torch, dtype), count=len(data) // width)

    def _bytes(self, key: str, width: int) -> memoryview:
        """Return the bytes of a storage, aligned for elements of `width` bytes."""
        start, size = self._container.spans[key]
        if self._container.unaligned and self._source.loaded:
            if key not in self._moved:
                self._moved[key] = self._move(start, size)
            return self._moved[key]
        data = self._source.view(start, size)
        return memoryview(bytearray(data)) if start % width or data.readonly else data

    def _move(self, start: int, size: int) -> memoryview:
        """Align a storage of a legacy file by moving it over the 8 bytes before it, which are no longer needed.

        A storage is moved once, to the alignment of the widest dtype, because tensors of several dtypes may share it.
        """
        skip = start % _WIDEST
        room = self._source.view(start - skip, skip + size)
        if skip:
            self._source.sha256()  # computed before the bytes move
            room[:size] = room[skip:]
        return room[:size]


def check_bounds(name: str, ref: TensorRef, container: Container) -> None:
    """Raise WeightsError with the tensor's name if its storage is missing, damaged, or too small for the tensor."""
    if isinstance(ref, ComputedRef):
        for part in ref.parts:
            check_bounds(name, part, container)
        return
    storage = ref.storage
    what = f"the tensor {name[:80]!r}"
    if storage.data is not None:
        size = len(storage.data)
    elif storage.key in container.spans:
        _, size = container.spans[storage.key]
    else:
        raise WeightsError(f"{what} has no data: the entry {storage.key[:80]!r} is missing")
    if size < 0:
        raise WeightsError(
            f"{what} is stored compressed, which torch never does. Save the checkpoint again with torch.save."
        )
    width = ITEM_SIZES[storage.dtype]
    if size != storage.numel * width:
        raise WeightsError(f"{what} has {size:,} bytes of data, but {storage.numel * width:,} are stated")
    if len(ref.shape) != len(ref.stride):
        raise WeightsError(f"{what} has a shape and strides of different lengths")
    if ref.numel == 0:
        return
    held = size // ITEM_SIZES[ref.dtype] - storage.offset
    if ref.numel > held:
        raise WeightsError(
            f"{what} claims {ref.numel:,} elements, but only {held:,} are stored (a stride of 0 repeats them)"
        )
    last = ref.offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.stride, strict=True))
    if last >= held:
        raise WeightsError(f"{what} reaches beyond its data")
