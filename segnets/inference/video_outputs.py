"""Outputs of one video of a job: an overlay video, files per frame and tables."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segnets.card import JSON
from segnets.errors import ImageError
from segnets.inference.camera_video import CameraVideo, open_camera, stopped_by_interrupt
from segnets.inference.journal import Entry
from segnets.inference.outputs import Outputs, Task, Writers
from segnets.inference.overlay_video import OverlayVideo
from segnets.inference.prediction import Prediction
from segnets.inference.predictor import Predictor
from segnets.inference.sources.base import Item
from segnets.inference.sources.camera import CameraSource
from segnets.inference.video import Frame, Video, open_video
from segnets.inference.writers import Record

OVERLAY = "overlay"
ENDING, PARTIAL = ".overlay.mp4", ".overlay.partial.mp4"


@dataclass(frozen=True)
class _Segmented:
    """Results of one frame: its picture for the overlay video, and its rows of the tables."""

    picture: npt.NDArray[np.uint8] | None
    size: tuple[int, int]
    tables: dict[str, JSON]


def write_video(
    task: Task,
    predictor: Predictor,
    writers: Writers,
    folder: Path,
    *,
    batch_size: int | None = None,
    workers: int = 2,
    progress: Callable[[int, int | None], None] | None = None,
) -> Entry:
    """Segment a video frame by frame, in bounded memory.

    The overlay is NAME.overlay.mp4, with the times and the sound of the video. Other outputs are written per frame, to
    NAME/000001.png and so on, and tables per video, such as NAME.areas.csv.

    Args:
        task: The video.
        predictor: Predictor to run.
        writers: What to write.
        folder: Output folder.
        batch_size: Number of frames to compute together.
        workers: Number of threads that write files.
        progress: Function that is called after each frame with the number of frames done and the total, or None if
            the video does not state it.

    Returns:
        The video's entry, even if the video failed.

    Raises:
        OutputError: If a file can't be written. The partial overlay is kept as NAME.overlay.partial.mp4.
    """
    started = time.perf_counter()
    try:
        video, ending = _opened(task.item.image)
        with ending, Outputs(folder) as outputs, tempfile.TemporaryFile("w+") as records:
            count, notices = _write(task, video, predictor, writers, outputs, records, batch_size, workers, progress)
            for name, writer in writers.tables.items():
                with outputs.open(f"{task.name}.{writer.file_name}") as file:
                    writer.assemble(_records(records, name), predictor.classes, predictor.palette, file)
    except ImageError as error:
        return task.failed(error)
    if video.damaged:
        notices += (f"{video.damaged} damaged packets were left out",)
    return replace(
        task.entry(),
        notices=notices,
        outputs=outputs.sizes,
        frames=count,
        seconds={"total": time.perf_counter() - started},
    )


def _opened(source: Any) -> tuple[Video | CameraVideo, contextlib.AbstractContextManager[None]]:
    """Open a video or a camera, with the context to enter while its frames are read."""
    if not isinstance(source, CameraSource):
        return open_video(source), contextlib.nullcontext()
    camera = open_camera(source.index)
    return camera, stopped_by_interrupt(camera.stop)


def _write(
    task: Task,
    video: Video | CameraVideo,
    predictor: Predictor,
    writers: Writers,
    outputs: Outputs,
    records: IO[str],
    batch_size: int | None,
    workers: int,
    progress: Callable[[int, int | None], None] | None,
) -> tuple[int, tuple[str, ...]]:
    """Write the overlay and the files of frames; return the number of frames and the notices."""
    waiting: deque[Frame] = deque()
    with_overlay = OVERLAY in writers.files
    files = [writer for name, writer in writers.files.items() if name != OVERLAY]
    overlay_name = f"{task.name}{ENDING}"

    def items() -> Iterator[Item]:
        for frame in video:
            waiting.append(replace(frame, pixels=_NO_PIXELS))
            yield Item(_frame_name(task, frame.index), Image.fromarray(frame.pixels))  # converted for gray networks

    def finish(number: int, prediction: Prediction) -> _Segmented:
        prediction.checked_mask()
        for writer in files:
            with outputs.open(f"{task.name}/{number + 1:06d}{writer.suffix}") as file:
                writer.write(prediction, file)
        tables = {name: writer.record(prediction) for name, writer in writers.tables.items()}
        picture = prediction.overlay() if with_overlay else None
        return _Segmented(picture, (prediction.height, prediction.width), tables)

    def run(overlay: OverlayVideo | None) -> int:
        done = 0
        for segmented in predictor.run(items(), finish, batch_size, workers):
            frame = waiting.popleft()
            if overlay is not None and segmented.picture is not None:
                overlay.write(frame, segmented.picture)
            if writers.tables:
                line = [_frame_name(task, done), *segmented.size, segmented.tables]
                records.write(f"{json.dumps(line)}\n")
            done += 1
            if progress is not None:
                progress(done, video.frames)
        return done

    if not with_overlay:
        return run(None), video.notices
    outputs.path(f"{task.name}{PARTIAL}")  # fails early if this longer name is not possible
    with OverlayVideo(outputs.path(overlay_name), video) as overlay:
        count = run(overlay)
    outputs.add(overlay_name)
    return count, (*video.notices, *overlay.notices)


def _frame_name(task: Task, index: int) -> str:
    return f"{task.item.source}, frame {index + 1}"


def _records(file: IO[str], table: str) -> Iterator[Record]:
    file.seek(0)
    for line in file:
        source, height, width, tables = json.loads(line)
        yield source, height, width, tables[table]


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)
