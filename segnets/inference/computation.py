"""Compute predictions from decoded images: networks, views and masks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segnets.card import Colour, Decoding
from segnets.errors import ImageError
from segnets.forks import check_not_forked
from segnets.images import ImageData
from segnets.inference.maps import AveragedMaps, LogitMaps, decode_mask
from segnets.inference.networks import Logits, Network
from segnets.inference.postprocess import PostProcessing
from segnets.inference.prediction import Prediction, Seconds
from segnets.inference.sources import Item
from segnets.inference.tiles import Rows, Windows, tile_rows
from segnets.inference.views import View
from segnets.segmenter import pixels_to_batch

# Errors of one image: a wrong size, or too little memory. torch raises RuntimeError for both.
_FAILURES = (ImageError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Decoded:
    """Image that was read, or the reason why reading failed.

    Attributes:
        item: Name and source of the image.
        image: The pixels and notices, or None if reading failed.
        error: The reason for the failure, or None.
        seconds: Seconds that reading took.
    """

    item: Item
    image: ImageData | None
    error: ImageError | None
    seconds: float


@dataclass(frozen=True)
class Computation:
    """Networks and rules that turn decoded images into predictions.

    Attributes:
        networks: Networks to average, at least one.
        views: Views to average, at least one.
        decoding: Rule that turns logits into ids.
        postprocessing: Changes of the mask.
        model_classes: Class names of the networks.
        classes: Class names after postprocessing.
        palette: Colours after postprocessing.
        exact: Whether masks must equal those of the network's own `segment` bit for bit.
    """

    networks: Sequence[Network]
    views: Sequence[View]
    decoding: Decoding
    postprocessing: PostProcessing
    model_classes: tuple[str, ...]
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    exact: bool

    def predictions(self, batch: Sequence[Decoded]) -> list[Prediction]:
        """Compute the predictions of images, in order.

        Args:
            batch: Decoded images.

        Returns:
            One prediction per image. A failed image gets a prediction with `error` set; the others are unaffected.
        """
        check_not_forked()
        done: dict[int, Prediction] = {}
        inputs: dict[int, list[Tensor]] = {}
        seconds: dict[int, float] = {}
        for index, each in enumerate(batch):
            started = time.perf_counter()
            try:
                inputs[index] = self._inputs(each)
            except _FAILURES as error:
                done[index] = self._failed(each, error)
            seconds[index] = time.perf_counter() - started
        for group in _groups(inputs):
            started = time.perf_counter()
            logits = self._logits([inputs.pop(index) for index in group])
            share = (time.perf_counter() - started) / len(group)
            for index, result in zip(group, logits, strict=True):
                if isinstance(result, Exception):
                    done[index] = self._failed(batch[index], result)
                else:
                    done[index] = self._predicted(batch[index], result, seconds[index] + share)
        return [done[index] for index in range(len(batch))]

    def _inputs(self, decoded: Decoded) -> list[Tensor]:
        """Return the input of each network."""
        if decoded.image is None:
            raise decoded.error or ImageError(f"{decoded.item.source}: was not read")
        image = pixels_to_batch(decoded.image.pixels)
        return [network.prepare(image) for network in self.networks]

    def _logits(self, inputs: Sequence[Sequence[Tensor]]) -> list[list[Logits] | Exception]:
        """Compute the logits of every network and view for images of equal shape, or the error of each image."""
        try:
            computed = [
                network.logits(view.of(self._joined([each[number] for each in inputs])))
                for number, network in enumerate(self.networks)
                for view in self.views
            ]
            return [[logits[index] for logits in computed] for index in range(len(inputs))]
        except _FAILURES as error:
            if len(inputs) == 1:
                return [error]
        # One image may be at fault, or the batch does not fit into memory.
        return [result for each in inputs for result in self._logits([each])]

    def _joined(self, batches: Sequence[Tensor]) -> Tensor:
        """Return the inputs of several images as one batch that the network may overwrite."""
        alone = len(batches) == 1 and len(self.views) == 1  # the usual case on CPUs
        return batches[0] if alone else torch.cat(list(batches))

    def _predicted(self, decoded: Decoded, logits: Sequence[Logits], network_seconds: float) -> Prediction:
        assert decoded.image is not None  # `_inputs` raised for it
        started = time.perf_counter()
        pixels = decoded.image.pixels
        height, width = pixels.shape[:2]
        per_view = [self.views[i % len(self.views)].maps(each, height, width) for i, each in enumerate(logits)]
        maps: LogitMaps = per_view[0] if len(per_view) == 1 else AveragedMaps(per_view, self.decoding)
        try:
            if self.exact and len(self.networks) == 1 and self.views == (View(),):
                mask = self.networks[0].own_mask(pixels_to_batch(pixels), logits[0].batch())[0].numpy()
            else:
                mask = decode_mask(maps, self.decoding)
            mask = self.postprocessing.apply(mask, maps, self.decoding, self.model_classes)
        except _FAILURES as error:
            return self._failed(decoded, error)
        seconds = Seconds(decode=decoded.seconds, network=network_seconds, post=time.perf_counter() - started)
        return self.prediction(
            decoded.item.source, notices=decoded.image.notices, mask=mask, image=pixels, maps=maps, seconds=seconds
        )

    def _failed(self, decoded: Decoded, error: Exception) -> Prediction:
        if not isinstance(error, ImageError):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in reason
            reason = "does not fit into memory; segment it in tiles (--tile 1024)" if out_of_memory else reason
            error = ImageError(f"{decoded.item.source}: {reason}")
        elif decoded.item.source not in str(error):
            error = ImageError(f"{decoded.item.source}: {error}")
        notices = () if decoded.image is None else decoded.image.notices
        return self.prediction(
            decoded.item.source, notices=notices, error=error, seconds=Seconds(decode=decoded.seconds)
        )

    def prediction(self, source: str, **results: Any) -> Prediction:
        """Return a prediction of these networks. `results` are passed on to `Prediction`."""
        return Prediction(source=source, classes=self.classes, palette=self.palette, decoding=self.decoding, **results)

    def rows(
        self,
        raster: Windows,
        *,
        tile: int,
        overlap: int,
        batch: int = 1,
        confidence: bool = False,
        logits: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Rows]:
        """Segment an image in tiles. Arguments, results and errors are those of `tile_rows`.

        Post-processing of single pixels is applied. Post-processing of regions needs the whole mask, and is left to the
        caller.
        """
        after = self.postprocessing
        for rows in tile_rows(
            raster,
            self.networks,
            tile=tile,
            overlap=overlap,
            decoding=self.decoding,
            views=self.views,
            batch=batch,
            confidence=confidence or after.min_confidence is not None,
            logits=logits,
            progress=progress,
        ):
            yield replace(rows, mask=after.apply_to_pixels(rows.mask, rows.confidence, self.model_classes))


def _groups(inputs: Mapping[int, Sequence[Tensor]]) -> list[list[int]]:
    """Group the indices of inputs of equal shape, which are computed together."""
    groups: dict[Any, list[int]] = {}
    for index, each in inputs.items():
        groups.setdefault(tuple(tensor.shape for tensor in each), []).append(index)
    return list(groups.values())
