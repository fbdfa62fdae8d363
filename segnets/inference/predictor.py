"""Segment one image, or a stream of images that are decoded in the background."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import numpy as np
from torch import nn

from segnets import shipped
from segnets.card import assumption_of
from segnets.deploy import Exported, keep_freed_memory
from segnets.errors import ImageError, PredictError, warn_caller
from segnets.forks import check_not_forked
from segnets.images import MAX_PIXELS, ImageData, read_image
from segnets.inference.computation import Computation, Decoded
from segnets.inference.networks import Network, open_network
from segnets.inference.postprocess import PostProcessing
from segnets.inference.prediction import Prediction
from segnets.inference.rasters import open_raster
from segnets.inference.sources import Item, items_of
from segnets.inference.tiling import DEFAULT_OVERLAP
from segnets.inference.views import views
from segnets.palettes import voc_palette

ModelLike: TypeAlias = nn.Module | Exported | str | os.PathLike[str]
_logger = logging.getLogger("segnets")
_R = TypeVar("_R")


class Predictor:
    """Segmentation of images with one network, or with the average of several.

    A model on a CPU is first rewritten as `segnets.export` rewrites it. This takes a few seconds once, and speeds up
    every prediction. Masks equal those of the model's or the file's own `segment`, except for near-ties in at most
    1 pixel in 10,000. `deterministic=True` removes these differences.

    Args:
        model: Model in eval mode, loaded export, or path of a weights file (`.safetensors`) or an exported file (`.ts`,
            `.pt2`, `.onnx`); or a list of these, whose probabilities are averaged and whose class names must agree. A
            `.ts` or `.pt2` is a program, which is executed: load only files that you trust. None uses the
            shipped network for street scenes (`segnets.shipped`), for non-commercial use, and logs that to "segnets".
        device: "auto", "cpu", "cuda" or "mps". "auto" chooses a CUDA GPU if there is one, else the CPU.
        dtype: Precision of models and weights files: "float32", "bfloat16" on CPUs and GPUs that support it, or
            "float16" on CUDA GPUs. None means float32, or an exported file's own precision. Lower precisions change
            more pixels.
        resize: Size of the network's input, overriding the model's own rule: pixels of the short side,
            (height, width), "x2" for twice the image, or "none" for the image's own size.
        deterministic: Whether masks must equal those of the model's or the file's own `segment` bit for bit. Models are
            not rewritten, and images are computed one by one.
        flip: Whether to average with the prediction of the mirrored image.
        scales: Sizes to average, relative to the network's usual input, for example (0.75, 1.0, 1.25).
        postprocessing: Changes to the mask: thresholds, small regions, holes, classes.
        max_pixels: Largest image to decode, in pixels. The size is read from the header first.

    Attributes:
        networks: The networks.
        classes: One name per class id, after postprocessing; numbers if the model has no names.
        palette: One RGB colour per class id, after postprocessing; PASCAL VOC's if the model has none.
        computation: Networks and rules that turn decoded images into predictions.

    Raises:
        PredictError: If the list of models is empty, the models do not match, the device is missing, or it does not
            support the precision.
        WeightsError: If a weights file can't be read.
        ExportError: If an exported file can't be read or can't run here.

    Example:
        >>> predictor = segnets.Predictor("weights.safetensors")  # segnets.Predictor() for street scenes
        >>> predictor.predict("photo.jpg").save("mask.png")
    """

    def __init__(
        self,
        model: ModelLike | Sequence[ModelLike] | None = None,
        device: str = "auto",
        *,
        dtype: str | None = None,
        resize: str | int | tuple[int, int] | None = None,
        deterministic: bool = False,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        postprocessing: PostProcessing | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if model is None:
            _logger.warning("%s; Predictor(FILE) for yours", shipped.NOTICE)
            model = shipped.WEIGHTS
        models: list[Any] = list(model) if isinstance(model, list | tuple) else [model]
        if not models:
            raise PredictError("model=[]: expected at least one model or path of a file")
        check_not_forked()
        _check_count("max_pixels", max_pixels)
        seen_from = views(flip, scales)
        self.networks: tuple[Network, ...] = tuple(
            open_network(each, device=device, dtype=dtype, resize=resize, fast=not deterministic) for each in models
        )
        first = self.networks[0]
        for other in self.networks[1:]:
            _check_agree(first, other)
        for network in self.networks:
            if assumed := assumption_of(network.card.decoding, network.num_classes):
                warn_caller(f"{network.name}: {assumed}")
        if any(network.device.type == "cpu" for network in self.networks):
            keep_freed_memory()
        self.max_pixels = max_pixels
        self.deterministic = deterministic
        after = postprocessing or PostProcessing()
        ids = first.decoding.ids(first.num_classes)
        classes = first.card.classes if len(first.card.classes) == ids else tuple(map(str, range(ids)))
        palette = first.card.palette if len(first.card.palette) == ids else tuple(voc_palette(ids))
        self.classes, self.palette = after.classes_after(classes, palette, first.decoding)
        self.computation = Computation(
            self.networks, seen_from, first.decoding, after, classes, self.classes, self.palette, deterministic
        )

    def __repr__(self) -> str:
        """Return the networks and the number of classes."""
        networks = ", ".join(f"{network.name!r} ({network.form})" for network in self.networks)
        return f"Predictor({networks}, {len(self.classes)} classes, {self.networks[0].device})"

    @property
    def channels(self) -> int:
        """Number of channels of the images: 3 for colour, 1 for gray."""
        return self.networks[0].channels

    def predict(self, image: Any, *, tile: int | None = None, overlap: int = DEFAULT_OVERLAP) -> Prediction:
        """Segment one image.

        Args:
            image: Path of an image file, bytes of one, binary file object, Pillow image, array or tensor (H, W, K)
                uint8, or uint16, which is scaled; (H, W) for gray. RGB for three channels.
            tile: Side of the tiles in pixels, a multiple of 32 such as 1024. The prediction
                then has no logits. None segments the whole image at once.
            overlap: Number of pixels that neighbouring tiles share.

        Returns:
            The prediction, with a mask at the image's displayed size.

        Raises:
            ImageError: If the image can't be read or does not fit into memory.
            PredictError: If `tile` or `overlap` is not allowed.
            ForkError: If this process was forked after a network had run in several threads.
        """
        if tile is not None:
            return self._in_tiles(image, tile, overlap)
        item = image if isinstance(image, Item) else Item(_name_of(image), image)
        prediction = self.computation.predictions([self._decoded(item)])[0]
        if prediction.error is not None:
            raise prediction.error
        return prediction

    def stream(
        self, sources: Any, *, batch_size: int | None = None, workers: int = 2, recursive: bool = False
    ) -> Iterator[Prediction]:
        """Segment many images in order. Images are decoded in the background, and only a few are held at a time.

        An image that can't be read, or fails otherwise, gives a prediction with `error` set, and the stream continues.

        Args:
            sources: Path of a file, a folder or a pattern such as `photos/*.jpg`, or an image as for `predict`; or an
                iterable of these, including a generator.
            batch_size: Number of images to compute together. Only neighbours of equal size at the network's input are
                computed together. None means 1 on a CPU, where a batch is no faster, and 8 on a GPU.
            workers: Number of threads that decode images.
            recursive: Whether to search subfolders too.

        Yields:
            One prediction for each image. It holds the image and its logits; keep only the masks of many images.

        Raises:
            ImageError: If a folder can't be read, or a folder or a pattern has no images.
            ForkError: If this process was forked after a network had run in several threads.
        """
        yield from self.run(
            items_of(sources, recursive=recursive), lambda _, prediction: prediction, batch_size, workers
        )

    def run(
        self,
        items: Iterable[Item],
        finish: Callable[[int, Prediction], _R],
        batch_size: int | None = None,
        workers: int = 2,
    ) -> Generator[_R]:
        """Segment items in order, and call `finish` with each prediction in one of the workers.

        Args:
            items: Images.
            finish: Function that receives the number of an item, from 0, and its prediction, for example to write it.
            batch_size: Number of images to compute together; batches start at its multiples, even if images fail.
            workers: Number of threads that decode and finish.

        Yields:
            The result of `finish` for each item.
        """
        for name, value in (("workers", workers), ("batch_size", 1 if batch_size is None else batch_size)):
            _check_count(name, value)
        size = self.batch_size(batch_size)
        source, failure, number = iter(items), None, 0
        decoding: deque[Future[Decoded]] = deque()
        finishing: deque[Future[_R]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="segnets-images")
        try:
            while True:
                while failure is None and len(decoding) < 2 * max(workers, size):
                    try:
                        decoding.append(pool.submit(self._decoded, next(source)))
                    except Exception as error:  # the end of the items, or an error of the caller's generator
                        failure = error
                if not decoding:
                    break
                batch = [decoding.popleft().result() for _ in range(min(size, len(decoding)))]
                for prediction in self.computation.predictions(batch):
                    finishing.append(pool.submit(finish, number, prediction))
                    number += 1
                while len(finishing) > workers + size:
                    yield finishing.popleft().result()
            while finishing:
                yield finishing.popleft().result()
            if failure is not None and not isinstance(failure, StopIteration):
                raise failure
        finally:
            # After an error, or if the caller stopped: drop waiting tasks, and wait for running ones.
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(source, Generator):
                source.close()

    def batch_size(self, wanted: int | None) -> int:
        """Return the batch size to use: `wanted`, or the default if it is None."""
        if self.deterministic:
            return 1
        return wanted or (1 if self.networks[0].device.type == "cpu" else 8)

    def _in_tiles(self, image: Any, tile: int, overlap: int) -> Prediction:
        check_not_forked()
        with open_raster(image, self.channels, max_pixels=self.max_pixels) as raster:
            parts = [(rows.image, rows.mask) for rows in self.computation.rows(raster, tile=tile, overlap=overlap)]
            notices = raster.notices
        mask = np.concatenate([mask for _, mask in parts], axis=-2)
        return self.computation.prediction(
            _name_of(image),
            mask=self.computation.postprocessing.apply_to_regions(mask),
            image=np.concatenate([pixels for pixels, _ in parts]),
            notices=notices,
        )

    def _decoded(self, item: Item) -> Decoded:
        started = time.perf_counter()
        image: ImageData | None = None
        error: ImageError | None = None
        try:
            image = read_image(item.image, self.channels, max_pixels=self.max_pixels)
        except ImageError as problem:
            error = problem
        except MemoryError:
            error = ImageError(f"{item.source}: does not fit into memory")
        return Decoded(item, image, error, time.perf_counter() - started)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PredictError(f"{name}={value!r}: expected a whole number of at least 1")


def _name_of(image: Any) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else "image"


def _check_agree(first: Network, other: Network) -> None:
    """Check that the probabilities of two networks can be averaged."""
    for what, mine, its in (
        ("number of classes", first.num_classes, other.num_classes),
        ("class names", first.card.classes, other.card.classes),
        ("decoding", str(first.decoding), str(other.decoding)),
        ("number of image channels", first.channels, other.channels),
    ):
        if mine != its:
            raise PredictError(
                f"{other.name}: its {what} is {its!r}, but that of {first.name} is {mine!r}. Only models with the same "
                "classes can be averaged"
            )
