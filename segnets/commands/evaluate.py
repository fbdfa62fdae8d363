"""`segnets evaluate DATA`: score a model on a split of a data set."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from segnets.commands._common import Subparsers, add_command, shipped_network
from segnets.commands._progress import Progress
from segnets.commands.check_data import add_data, open_named
from segnets.console import escape_controls

_PICTURES = 12


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "evaluate",
        run,
        summary="score a model on a data set",
        description="Segment the images of a split and compare the masks with the ground truth: mean IoU, IoU per "
        "class and accuracy, from one confusion matrix over all pixels. Masks are those of segnets.segment, at the "
        "size of the image. Ignored pixels, and classes in neither ground truth nor prediction, are left out.",
        examples="""
        segnets evaluate --model weights.safetensors DATA
        segnets evaluate --model model.onnx DATA --split test --ignore 11 --save results
        segnets evaluate --model weights.safetensors DATA --json
        segnets evaluate --model deeplabv3_resnet50.safetensors COCO --at input
        """,
    )
    add_data(parser)
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="weights file (.safetensors), or exported file (.ts, .pt2, .onnx). Default: the shipped network of street "
        "scenes, for non-commercial use",
    )
    parser.add_argument("--split", default="val", metavar="NAME", help="split to evaluate; default: val")
    parser.add_argument(
        "--at",
        default="image",
        choices=("image", "input"),
        help="size at which masks are compared: that of the image, or that of the network's input, to which the ground "
        "truth is resized, as for torchvision's published scores. Default: image",
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="write report.html, scores.json, images.csv (IoU per image), confusion.csv, and pictures of the "
        f"{_PICTURES} worst images with their masks",
    )
    parser.add_argument("--force", action="store_true", help="write to a folder that is not empty, replacing files")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="default: auto")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the scores; return 0."""
    data = open_named(options)
    data.samples(options.split)  # before the model is read
    model = options.model or shipped_network()

    from segnets.inference import Predictor
    from segnets.training.evaluation import evaluate
    from segnets.training.results import reserved_folder, save_evaluation

    saving = options.save is not None
    with reserved_folder(options.save, overwrite=options.force) if saving else nullcontext():
        predictor = Predictor(model, options.device, deterministic=True)
        with Progress() as progress:
            progress.total = len(data.samples(options.split))
            evaluation = evaluate(
                predictor,
                data,
                options.split,
                at=options.at,
                examples=_PICTURES if saving else 0,
                progress=lambda done, _total: progress.count(done),
            )
        if saving:
            save_evaluation(evaluation, options.save, overwrite=options.force)
    if options.json:
        print(json.dumps(evaluation.to_json(), indent=2))
        return 0
    for line in evaluation.lines():
        print(escape_controls(line))
    if saving:
        print(escape_controls(f"\nreport, IoU per image and the worst images: {options.save}"))
    return 0
