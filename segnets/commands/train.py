"""`segnets train DATA --model NAME --out RUN`: train a network on images with masks."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnets.commands._common import Subparsers, add_command
from segnets.commands._progress import Progress
from segnets.commands._training_progress import TrainingProgress
from segnets.commands.check_data import add_data, checked, indexing
from segnets.console import escape_controls
from segnets.errors import DataError, TrainingError

if TYPE_CHECKING:
    from segnets.data import DataSet
    from segnets.training.config import TrainingConfig
    from segnets.training.distributed import Ranks

# Arguments with the names of configuration options.
_NAMED = ("model", "weights", "weights_backbone", "recipe", "device")
_NUMBERS = ("epochs", "batch", "lr", "crop", "seed", "workers")


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "train",
        run,
        summary="train a network on images with masks",
        description="Train a network. RUN then holds last.safetensors and best.safetensors, which every other command "
        "reads, log.csv, report.html, config.toml, and last.ckpt, from which --resume continues exactly as if there "
        "had been no interruption. Ctrl-C saves and stops.",
        examples="""
        segnets train DATA --model lraspp_mobilenet_v3_large --weights-backbone backbone.pth --out RUN
        segnets train DATA --out RUN --resume
        segnets train DATA --config RUN/config.toml --out RUN2 --set lr=0.02 --set ema=0.999
        torchrun --nproc-per-node 2 -m segnets train DATA --model fcn_resnet50 --out RUN
        """,
    )
    add_data(parser)
    parser.add_argument("--model", metavar="NAME", help="network; `segnets list` shows them all")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="folder for the results; created if needed"
    )
    _add_start(parser.add_argument_group("starting point"))
    _add_options(parser.add_argument_group("options"))


def _add_start(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="start from these weights: a file or a published name. Classes are kept by name",
    )
    group.add_argument(
        "--weights-backbone",
        metavar="FILE|NAME",
        help="start from these weights of the backbone, such as an ImageNet classifier's",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue from RUN/last.ckpt, if there is one, with the options in RUN/config.toml",
    )


def _add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        choices=("auto", "torchvision", "light"),
        help="default values of all other options. torchvision: those of its reference script. Default: auto, "
        "torchvision for its six networks if they start from a backbone's weights, else light",
    )
    group.add_argument("--epochs", type=int, metavar="N", help="passes over the training split")
    group.add_argument("--batch", type=int, metavar="N", help="images per step in each process")
    group.add_argument("--lr", type=float, metavar="X", help="learning rate")
    group.add_argument("--crop", type=int, metavar="N", help="height and width of the training crops")
    group.add_argument("--seed", type=int, metavar="N", help="seed of all randomness; default: 0")
    group.add_argument("--workers", type=int, metavar="N", help="processes that prepare batches; default: 0")
    group.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:N; default: auto")
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file of options, such as RUN/config.toml")
    group.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other option of the configuration, as in the TOML file; may be repeated",
    )
    group.add_argument("--dry-run", action="store_true", help="check everything and run one step; write nothing")


def run(options: argparse.Namespace) -> int:
    """Train; return 0.

    Raises:
        SegnetsError: If the input is invalid.
        KeyboardInterrupt: If Ctrl-C was pressed, after saving.
    """
    from segnets.training.distributed import joined
    from segnets.training.loop import open_configured

    config = _config(options)
    with Progress() as shown:
        data = open_configured(config, indexing(shown.tell))
    with joined(config.device) as ranks, TrainingProgress(silent=not ranks.first) as progress:
        if options.dry_run:
            return _dry_run(config, data, ranks, progress)
        return _train(config, data, ranks, progress, resume=options.resume)


def _train(config: TrainingConfig, data: DataSet, ranks: Ranks, progress: TrainingProgress, *, resume: bool) -> int:
    from segnets.training.distributed import was_restarted
    from segnets.training.loop import Trainer
    from segnets.training.run_folder import next_commands

    trainer = Trainer(config, data, ranks=ranks, tell=progress.tell, on_step=progress.step)
    resume = resume or was_restarted()
    with ranks.agreed():
        if ranks.first and not (resume and trainer.folder.checkpoint.exists()):
            _check(data, progress)
    try:
        result = trainer.run(resume=resume)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"{interrupt or 'interrupted'}\n  {_resuming()}" if ranks.first else "") from None
    progress.close()
    if ranks.first:
        print(escape_controls(str(result)))
        print("next:")
        for line in next_commands(trainer.folder, config, data):
            print(f"  {escape_controls(line)}")
    return 0


def _dry_run(config: TrainingConfig, data: DataSet, ranks: Ranks, progress: TrainingProgress) -> int:
    from segnets.training.dry_run import dry_run

    with ranks.agreed():
        if ranks.first:
            _check(data, progress)
    result = dry_run(config, data, ranks, progress.tell)
    progress.close()
    if ranks.first:
        for line in result.lines():
            print(escape_controls(line))
    return 0


def _resuming() -> str:
    """Return the command that continues this training."""
    words = sys.argv[1:] if "--resume" in sys.argv else [*sys.argv[1:], "--resume"]
    # torchrun sets these variables.
    if int(os.environ.get("GROUP_WORLD_SIZE", 1)) > 1:
        return "start the same torchrun command with --resume on every machine"
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    launcher = ["segnets"] if processes == "1" else ["torchrun", "--nproc-per-node", processes, "-m", "segnets"]
    return shlex.join([*launcher, *words])


def _config(options: argparse.Namespace) -> TrainingConfig:
    """Return the configuration of the file, overridden by the command line.

    Raises:
        TrainingError: If an option is unknown, a value is not allowed, or the model is missing.
    """
    from segnets.training.config import TrainingConfig, parse_assignments

    values = parse_assignments(options.assignments)
    for name in (*_NAMED, *_NUMBERS):
        value = getattr(options, name)
        if value is not None:
            if name in values:
                raise TrainingError(f"--{name.replace('_', '-')} and --set {name}=... were both given; choose one")
            values[name] = value
    values |= {"data": str(options.data), "out": str(options.out)}
    if options.classes is not None:
        values["classes"] = options.classes
    if options.ignore is not None:
        values["ignore"] = tuple(options.ignore)
    recorded = options.out / "config.toml"
    file = options.config or (recorded if options.resume and recorded.exists() else None)
    config = TrainingConfig.from_toml(file, **values) if file else TrainingConfig(**values)
    if not config.model:
        raise TrainingError("no network: choose one with --model, for example --model lraspp_mobilenet_v3_large")
    return config


def _check(data: DataSet, progress: TrainingProgress) -> None:
    """Check the data; print warnings on stderr.

    Raises:
        DataError: If there are errors.
    """
    report = checked(data)
    if report.note:
        progress.tell(report.note)
    for warning in report.warnings:
        progress.tell(f"warning: {warning}")
    if not report.ok:
        more = f" (and {len(report.errors) - 1} more errors)" if len(report.errors) > 1 else ""
        raise DataError(f"{report.errors[0].rstrip('.')}{more}; `segnets check-data {data.path}` lists all")
