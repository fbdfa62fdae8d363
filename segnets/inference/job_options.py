"""Options of a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segnets.inference.outputs import Writers
from segnets.inference.tiling import DEFAULT_OVERLAP


@dataclass(frozen=True)
class JobOptions:
    """Options that control how a job runs and what it writes.

    Attributes:
        folder: Output folder. It is created if its parent exists.
        writers: Writers of the outputs of images.
        video_writers: Writers of the outputs of videos.
        batch_size: Number of images per batch; None for the predictor's default.
        workers: Number of threads that decode images and write files.
        resume: Whether to continue the run that is recorded in the folder.
        overwrite: Whether the folder may contain files. Existing files are replaced.
        fail_fast: Whether to stop at the first image that fails.
        shard: Number of this shard, from 1, and the number of shards.
        manifest: File that receives one JSON line per image, or None.
        tile: Side of the tiles in pixels; None segments whole images.
        overlap: Number of pixels that neighbouring tiles share.
    """

    folder: Path
    writers: Writers
    video_writers: Writers
    batch_size: int | None = None
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    fail_fast: bool = False
    shard: tuple[int, int] = (1, 1)
    manifest: Path | None = None
    tile: int | None = None
    overlap: int = DEFAULT_OVERLAP
