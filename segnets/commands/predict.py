"""`segnets predict`: segment image files, folders, videos and very large images."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnets.commands._common import Subparsers, add_command, shipped_network
from segnets.commands._progress import Progress
from segnets.errors import ImageError, OutputError, PredictError, SegnetsError

if TYPE_CHECKING:
    from segnets.card import JSON
    from segnets.inference.outputs import Writers
    from segnets.inference.postprocess import PostProcessing
    from segnets.inference.predictor import Predictor
    from segnets.inference.sources import Item

_OUTPUTS = "mask, overlay, overlay-png, probabilities, confidence, geojson, coco, csv"
_DEFAULT = "mask,overlay"
_MOST_THREADS = 1024


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "predict",
        _run,
        summary="segment photographs, folders, videos and large images",
        description="Segment images with a network: write masks, overlays and tables to a folder. Images that "
        "can't be read are reported and skipped; the exit status is then 1.",
        examples="""
            segnets predict street.jpg
            segnets predict --model weights.safetensors photo.jpg --out results
            segnets predict --model model.ts photos --recursive --out results --save mask,overlay,csv
            segnets predict --model weights.safetensors photos --out results --resume
            segnets predict --model weights.safetensors map.tif --out results --tile 1024 --resize none
            find photos -name '*.jpg' | segnets predict --model weights.safetensors - --out results
        """,
    )
    _add_sources(parser.add_argument_group("images"))
    _add_model(parser.add_argument_group("model"))
    _add_outputs(parser.add_argument_group("results"))
    _add_masks(parser.add_argument_group("masks"))
    _add_large(parser.add_argument_group("large images"))
    _add_running(parser.add_argument_group("running"))


def _add_sources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="image, video, folder, pattern such as 'photos/*.jpg', or number of a camera, such as 0, read until "
        "Ctrl-C; - reads a list from stdin, one file per line",
    )
    group.add_argument("--recursive", action="store_true", help="also search subfolders")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        action="append",
        metavar="FILE",
        help="weights file (.safetensors) or exported file (.ts, .pt2, .onnx). Repeat it to average the probabilities "
        "of several models. A .ts or .pt2 is a program and is executed. Default: the shipped network of street "
        "scenes, for non-commercial use",
    )
    group.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="default: auto, a CUDA GPU if there is one, else the CPU",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision of the computation with a weights file; default: float32. float16 needs a CUDA GPU; an "
        "exported file has its own precision",
    )
    group.add_argument("--threads", type=_threads, metavar="N", help="threads of the network; default: all cores")
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="compute exactly the masks of segnets.segment, whatever the batch. Otherwise near-ties, up to 1 pixel "
        "in 10,000, may differ",
    )
    group.add_argument(
        "--resize",
        metavar="RULE",
        help="size of the network's input: 520 (the short side), 480x640 (height x width), x2 (twice the image's "
        "size), or none (the image's own size); default: as the model states",
    )
    group.add_argument("--flip", action="store_true", help="average with the mirrored image")
    group.add_argument(
        "--scales",
        type=_numbers,
        default=(1.0,),
        metavar="X,X",
        help="average several sizes of the image, such as 0.75,1,1.25; default: 1",
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder for the results, created if needed; default: results",
    )
    group.add_argument(
        "--save",
        metavar="LIST",
        help=f"outputs to write, separated by commas: {_OUTPUTS}. Default: {_DEFAULT}; for videos overlay",
    )
    group.add_argument(
        "--manifest", type=Path, metavar="FILE", help="write a JSON line per image: state, outputs, times"
    )
    group.add_argument("--json", action="store_true", help="print the closing summary as JSON")


def _add_masks(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--min-confidence", type=float, metavar="P", help='pixels below this probability become the class "unsure"'
    )
    group.add_argument(
        "--only", type=_names, default=(), metavar="CLASS,CLASS", help='keep these classes; the others become "other"'
    )
    group.add_argument(
        "--min-area", type=_count, default=0, metavar="N", help="give regions of fewer than N pixels the nearest class"
    )
    group.add_argument(
        "--fill-holes", type=_count, default=0, metavar="N", help="fill holes of up to N pixels inside a class"
    )


def _add_large(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tile",
        type=_positive,
        metavar="N",
        help="segment in tiles of N x N pixels; N is a multiple of 32, such as 1024",
    )
    group.add_argument("--overlap", type=_count, metavar="N", help="pixels that neighbouring tiles share; default: 128")
    group.add_argument(
        "--max-pixels",
        type=_positive,
        metavar="N",
        help="largest image to decode as a whole; default: 178956970. TIFF files read in tiles have no limit",
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--resume", action="store_true", help="continue an interrupted run in the same folder")
    group.add_argument("--force", action="store_true", help="write to a folder that is not empty, replacing files")
    group.add_argument("--fail-fast", action="store_true", help="stop at the first image that fails")
    group.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="K/N", help="process only part K of N, for job arrays"
    )
    group.add_argument("--batch", type=_positive, metavar="N", help="images per batch; default: 1 on a CPU, 8 on a GPU")
    group.add_argument(
        "--workers", type=_positive, default=2, metavar="N", help="threads that read and write files; default: 2"
    )


def _run(options: argparse.Namespace) -> int:
    import torch

    from segnets.inference.job import Job
    from segnets.inference.job_options import JobOptions
    from segnets.inference.tiling import DEFAULT_OVERLAP

    if options.resume and options.force:
        raise SegnetsError("--resume keeps what is there and --force replaces it; choose one")
    if options.overlap is not None and options.tile is None:
        raise SegnetsError("--overlap needs --tile")
    writers = _writers(options.save or _DEFAULT)
    items = _items(options)
    options.model = options.model or [shipped_network()]
    if options.threads:
        torch.set_num_threads(options.threads)
    predictor = _predictor(options)
    job_options = JobOptions(
        folder=options.out,
        writers=writers,
        video_writers=_for_videos(writers, options.save),
        batch_size=options.batch,
        workers=options.workers,
        resume=options.resume,
        overwrite=options.force,
        fail_fast=options.fail_fast,
        shard=options.shard,
        manifest=options.manifest,
        tile=options.tile,
        overlap=DEFAULT_OVERLAP if options.overlap is None else options.overlap,
    )
    with Progress() as progress:
        job = Job(
            predictor, items, job_options, _description(options, predictor), progress.tell, progress.step, progress.part
        )
        progress.total = job.total
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")  # the message about the image describes the damage
                summary = job.execute()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; {job.summary.images} of {job.total} images are done; --resume continues"
            ) from None
    print(json.dumps(summary.to_json()) if options.json else summary)
    return 1 if summary.failed else 0


def _items(options: argparse.Namespace) -> list[Item]:
    from segnets.inference.sources import FileSource
    from segnets.inference.sources.camera import camera_item

    names = [name for each in options.sources for name in (_listed() if each == "-" else [each])]
    if any(_is_folder(name, options.out) for name in names):
        raise OutputError(
            f"{options.out}: contains the images; choose another --out, for example {options.out / 'results'}"
        )
    cameras = [name for name in names if name.isascii() and name.isdecimal() and not os.path.lexists(name)]
    source = FileSource([name for name in names if name not in cameras], options.recursive, without=options.out)
    items = [*source, *(camera_item(int(name)) for name in dict.fromkeys(cameras))]
    if not items:
        raise ImageError("no images: the list on stdin is empty")
    if source.skipped:
        noun = "file" if source.skipped == 1 else "files"
        print(f"segnets: skipped {source.skipped} {noun} without an image suffix", file=sys.stderr)
    return items


def _is_folder(name: str, folder: Path) -> bool:
    """Return whether both are the same folder. The next run would read the results as images."""
    try:
        return Path(name).is_dir() and Path(name).samefile(folder)
    except (OSError, ValueError):
        return False


def _listed() -> Iterator[str]:
    """Yield the names on stdin, separated by line feeds or NUL (find -print0)."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()  # None if it is closed
    separator = b"\0" if b"\0" in data else b"\n"
    for line in data.split(separator):
        name = line.decode(sys.getfilesystemencoding(), "surrogateescape").removesuffix("\r")
        if name.strip():
            yield name


def _predictor(options: argparse.Namespace) -> Predictor:
    from segnets.images import MAX_PIXELS
    from segnets.inference import Predictor

    return Predictor(
        options.model,
        options.device,
        dtype=options.dtype,
        deterministic=options.deterministic,
        flip=options.flip,
        scales=options.scales,
        resize=options.resize,
        postprocessing=_postprocessing(options),
        max_pixels=options.max_pixels or MAX_PIXELS,
    )


def _postprocessing(options: argparse.Namespace) -> PostProcessing:
    from segnets.inference.postprocess import PostProcessing

    return PostProcessing(
        min_confidence=options.min_confidence,
        min_area=options.min_area,
        fill_holes=options.fill_holes,
        only=options.only,
    )


def _writers(text: str) -> Writers:
    """Return the writers in a list of names.

    Raises:
        SegnetsError: If a name is unknown.
    """
    from segnets.inference.outputs import Writers
    from segnets.inference.writers import WRITERS, TableWriter

    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in WRITERS:
            raise SegnetsError(f"--save {name}: expected a list of {', '.join(WRITERS)}")
    chosen = {name: WRITERS[name] for name in names}
    tables = {name: writer for name, writer in chosen.items() if isinstance(writer, TableWriter)}
    files = {name: writer for name, writer in chosen.items() if not isinstance(writer, TableWriter)}
    return Writers(files, tables)


def _for_videos(writers: Writers, save: str | None) -> Writers:
    """Return the writers for videos. Files per frame are written only on request."""
    if save is not None:
        return writers
    return replace(writers, files={name: each for name, each in writers.files.items() if name == "overlay"})


def _description(options: argparse.Namespace, predictor: Predictor) -> dict[str, JSON]:
    """Return the settings that determine the outputs."""
    from segnets.inference.networks import descriptions

    return {
        "models": [_sha256(Path(name)) for name in options.model],
        "networks": descriptions(predictor.networks),
        "save": sorted(name.strip() for name in (options.save or _DEFAULT).split(",")),
        "batch": options.batch,
        "deterministic": options.deterministic,
        "resize": options.resize,
        "flip": options.flip,
        "scales": list(options.scales),
        "min_confidence": options.min_confidence,
        "only": list(options.only),
        "min_area": options.min_area,
        "fill_holes": options.fill_holes,
        "tile": options.tile,
        "overlap": options.overlap,
    }


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PredictError(f"{path}: can't be read: {error.strerror}") from None


def _positive(text: str) -> int:
    value = _count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return value


def _threads(text: str) -> int:
    value = _positive(text)
    if value > _MOST_THREADS:  # torch crashes with very many threads
        raise argparse.ArgumentTypeError(f"{text!r}: expected at most {_MOST_THREADS}")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number")
    return int(text)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers separated by commas") from None


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r}: expected names separated by commas")
    return names


def _shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    try:
        shard = _positive(number), _positive(of)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected K/N, for example 1/4") from None
    if shard[0] > shard[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a part from 1/{of} to {of}/{of}")
    return shard
