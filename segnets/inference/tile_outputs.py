"""Outputs of an image that a job segments in tiles, written row by row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnets.card import JSON
from segnets.errors import ImageError, SegnetsError
from segnets.forks import check_not_forked
from segnets.images import MAX_PIXELS
from segnets.inference.journal import Entry
from segnets.inference.outputs import Outputs, Task, Writers
from segnets.inference.postprocess import PostProcessing
from segnets.inference.prediction import Seconds
from segnets.inference.predictor import Predictor
from segnets.inference.rasters import Raster, open_raster
from segnets.inference.tiles import Rows
from segnets.inference.tiling import ALIGNMENT, DEFAULT_OVERLAP, DEFAULT_TILE, MIN_TILE, divide
from segnets.inference.writers.probabilities import MAX_VALUES
from segnets.inference.writers.rows import RowImage, RowWriter
from segnets.inference.writers.rows_areas import AreaRows
from segnets.inference.writers.rows_confidence import ConfidenceRows
from segnets.inference.writers.rows_geotiff import GeoTiffRows
from segnets.inference.writers.rows_mask import MaskRows
from segnets.inference.writers.rows_overlay import OverlayRows, reduction
from segnets.inference.writers.rows_whole import WholeRows

# Row writers by the name of the ordinary writer. Other outputs need the whole mask.
ROW_WRITERS: dict[str, Callable[[], RowWriter]] = {
    "mask": MaskRows,
    "overlay": OverlayRows,
    "overlay-png": lambda: OverlayRows(lossless=True),
    "confidence": ConfidenceRows,
}
_AREAS, _PROBABILITIES = "csv", "probabilities"


def write_tiled(
    task: Task,
    predictor: Predictor,
    writers: Writers,
    folder: Path,
    *,
    tile: int | None = DEFAULT_TILE,
    overlap: int = DEFAULT_OVERLAP,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Entry:
    """Segment an image in tiles and write its outputs row by row. Memory does not grow with the image's height.

    Masks of georeferenced images are also written as GeoTIFF, NAME.tif. Overlays of more than 4096 pixels are reduced.

    Args:
        task: The image.
        predictor: Predictor to run.
        writers: What to write.
        folder: Output folder.
        tile: Side of the tiles, a multiple of 32; None for one tile, as large as the image.
        overlap: Number of pixels that neighbouring tiles share, as in `divide`.
        batch_size: Number of tiles to compute together; None for 1.
        progress: Function that is called after each tile with the numbers of tiles done and of all tiles.

    Returns:
        The image's entry, even if the image failed.

    Raises:
        OutputError: If a file can't be written.
        PredictError: If `tile` or `overlap` is not allowed.
    """
    check_not_forked()
    if tile is not None:
        divide(1, 1, tile=tile, overlap=overlap)  # fail before any work
    notices: tuple[str, ...] = ()
    try:
        with open_raster(task.item.image, predictor.channels, max_pixels=predictor.max_pixels) as raster:
            pixels = raster.height * raster.width
            if tile is None and pixels > predictor.max_pixels:
                raise ImageError(
                    f"{task.item.source}: has {raster.width}x{raster.height} pixels, but at most "
                    f"{predictor.max_pixels:,} are segmented at once; segment it in tiles (--tile {DEFAULT_TILE})"
                )
            image = RowImage(
                task.item.source,
                raster.height,
                raster.width,
                predictor.classes,
                predictor.palette,
                predictor.computation.decoding,
                raster.geo,
            )
            job = _TiledImage(task, predictor, writers, image, _Timed(raster), tile, overlap, batch_size or 1, progress)
            entry = job.written(folder)
            notices = raster.notices
    except ImageError as error:
        return task.failed(error, notices)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, SegnetsError):
            raise
        reason = (str(error).strip().splitlines() or ["does not fit into memory; choose smaller tiles (--tile)"])[-1]
        return task.failed(ImageError(reason), notices)
    return replace(entry, notices=(*notices, *entry.notices))


@dataclass
class _TiledImage:
    """Image that is segmented in tiles, and the writers of its outputs."""

    task: Task
    predictor: Predictor
    writers: Writers
    image: RowImage
    raster: _Timed
    tile: int | None
    overlap: int
    batch_size: int
    progress: Callable[[int, int], None] | None
    writing: float = 0.0  # seconds

    def written(self, folder: Path) -> Entry:
        """Compute the image and write its outputs."""
        check_outputs(
            self.image,
            self.writers,
            self.predictor.computation.postprocessing,
            self.predictor.networks[0].num_classes,
        )
        started = time.perf_counter()
        with Outputs(folder) as outputs:
            tables = self._write(outputs)
        network = time.perf_counter() - started - self.writing - self.raster.seconds
        return replace(
            self.task.entry(),
            notices=self._notices(),
            outputs=outputs.sizes,
            size=(self.image.height, self.image.width),
            seconds=asdict(Seconds(decode=self.raster.seconds, network=network, write=self.writing)),
            tables=tables,
        )

    def _write(self, outputs: Outputs) -> dict[str, JSON]:
        """Write all files, and return the image's part of the tables."""
        image, files, tables = self.image, self.writers.files, self.writers.tables
        whole = WholeRows(image) if self._whole_files or self._whole_tables else None
        areas = AreaRows(image) if _AREAS in tables else None
        row_writers = [ROW_WRITERS[name]() for name in files if name in ROW_WRITERS]
        if image.geo is not None and "mask" in files:
            row_writers.append(GeoTiffRows())
        with ExitStack() as opened:
            for writer in row_writers:
                file = opened.enter_context(outputs.open(f"{self.task.name}{writer.suffix}"))
                opened.enter_context(closing(writer))
                writer.start(image, file)
            needs_confidence = areas is not None or any(writer.needs_confidence for writer in row_writers)
            self._fill([*row_writers, *(each for each in (whole, areas) if each is not None)], needs_confidence)
            with self._time():
                for writer in row_writers:
                    writer.finish()
        records: dict[str, JSON] = {} if areas is None else {_AREAS: areas.record()}
        if whole is not None:
            prediction = whole.prediction()
            with self._time():
                for each in self._whole_files:
                    with outputs.open(f"{self.task.name}{each.suffix}") as file:
                        each.write(prediction, file)
            records |= {name: each.record(prediction) for name, each in self._whole_tables.items()}
        return records

    def _fill(self, sinks: Sequence[RowWriter | WholeRows | AreaRows], needs_confidence: bool) -> None:
        """Pass all rows to the writers. No row is held when this returns."""
        for rows in self._rows(needs_confidence):
            with self._time():
                for sink in sinks:
                    sink.rows(rows)

    @contextmanager
    def _time(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.writing += time.perf_counter() - started

    @property
    def _whole_files(self) -> list[Any]:
        return [writer for name, writer in self.writers.files.items() if name not in ROW_WRITERS]

    @property
    def _whole_tables(self) -> dict[str, Any]:
        return {name: writer for name, writer in self.writers.tables.items() if name != _AREAS}

    def _rows(self, needs_confidence: bool) -> Iterator[Rows]:
        """Yield the rows with the changes of postprocessing."""
        computation, image = self.predictor.computation, self.image
        after = computation.postprocessing
        tile, overlap = self.tile, self.overlap
        if tile is None:  # one tile
            tile, overlap = max(MIN_TILE, -(-max(image.height, image.width) // ALIGNMENT) * ALIGNMENT), 0
        rows = computation.rows(
            self.raster,
            tile=tile,
            overlap=overlap,
            batch=self.batch_size,
            confidence=needs_confidence,
            logits=_PROBABILITIES in self.writers.files,
            progress=self.progress,
        )
        return iter([_with_regions(rows, after)]) if after.needs_whole_mask else rows

    def _notices(self) -> tuple[str, ...]:
        factor = reduction(self.image.height, self.image.width)
        if factor == 1 or not {"overlay", "overlay-png"} & self.writers.files.keys():
            return ()
        height, width = -(-self.image.height // factor), -(-self.image.width // factor)
        return (f"its overlay is reduced to {width}x{height} pixels, 1 of {factor} in each direction",)


def check_outputs(image: RowImage, writers: Writers, after: PostProcessing, channels: int) -> None:
    """Check before any work that an image is not too large for an output or for a change to the mask.

    Args:
        image: The image.
        writers: What to write.
        after: Changes to the mask.
        channels: Number of channels of the logits.

    Raises:
        ImageError: If the image is too large.
    """
    pixels = image.height * image.width
    size = f"{image.source}: has {image.width}x{image.height} pixels"
    whole = [name for name in writers.files if name not in ROW_WRITERS]
    whole += [name for name in writers.tables if name != _AREAS]
    if whole and pixels > MAX_PIXELS:
        raise ImageError(
            f"{size}, too many for {' and '.join(whole)}, which take at most {MAX_PIXELS:,}; for large images, write "
            f"{', '.join(ROW_WRITERS)} or {_AREAS} (--save)"
        )
    if _PROBABILITIES in whole and pixels * channels > MAX_VALUES:
        raise ImageError(
            f"{size}, too many for probabilities of {channels} classes, which are limited to {MAX_VALUES:,} numbers; "
            "write the confidence (--save confidence)"
        )
    if after.needs_whole_mask and pixels > MAX_PIXELS:
        raise ImageError(
            f"{size}, too many for changes of regions (--min-area, --fill-holes, functions), which take at most "
            f"{MAX_PIXELS:,}; omit these options"
        )


def _with_regions(parts: Iterator[Rows], after: PostProcessing) -> Rows:
    """Return all rows at once, with the changes that need the whole mask."""
    collected = list(parts)

    def joined(name: str, axis: int) -> Any:
        values = [getattr(each, name) for each in collected]
        return None if values[0] is None else np.concatenate(values, axis=axis)

    mask = after.apply_to_regions(joined("mask", -2))
    return Rows(0, joined("image", 0), mask, joined("confidence", 0), joined("logits", 1))


class _Timed:
    """Raster that measures its reading time in seconds."""

    def __init__(self, raster: Raster) -> None:
        self._raster, self.seconds = raster, 0.0
        self.height, self.width, self.channels = raster.height, raster.width, raster.channels

    def read(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
        started = time.perf_counter()
        pixels = self._raster.read(top, bottom, left, right)
        self.seconds += time.perf_counter() - started
        return pixels
