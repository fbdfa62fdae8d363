"""Training configuration: one dataclass shared by the command line, the TOML file and the checkpoint."""

from __future__ import annotations

import difflib
import math
import os
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from segnets.card import DECODING_RULES
from segnets.errors import TrainingError
from segnets.resize_rules import parse_resize
from segnets.training.option_values import convert_value, describe_type, parse_value, toml_value
from segnets.training.recipes import RECIPES, recipe_for, recipe_values

_MOST_INTEGER = 2**32 - 1
_LONGEST_SHOWN = 100  # characters of a value in a message
LOSSES = ("cross_entropy", "ohem", "dice", "lovasz")
CLASS_WEIGHTS = ("none", "enet", "median")


def _option(
    about: str,
    default: Any = None,
    *,
    section: str = "",
    choices: tuple[str, ...] = (),
    least: float = -math.inf,
    most: float = math.inf,
) -> Any:
    """Declare an option. A default of None means that the recipe determines it.

    Args:
        about: Description, for the documentation and the TOML file.
        default: Value without a recipe.
        section: Heading above the option in the TOML file.
        choices: Allowed values.
        least: Smallest allowed number.
        most: Largest allowed number.
    """
    return field(
        default=default,
        metadata={"about": about, "section": section, "choices": choices, "least": least, "most": most},
    )


@dataclass(frozen=True)
class TrainingConfig:
    """All training options. `describe_options` lists them; TOML files contain the descriptions as comments.

    An option that is not given takes its value from the recipe, so a configuration is always complete:
    `TrainingConfig(data="cityscapes", model="fcn_resnet50", recipe="torchvision").lr` is 0.02.

    Raises:
        TrainingError: If a value is not allowed, or contradicts another option.
    """

    data: str = _option("Folder of the data set.", "", section="Data and network")
    format: str = _option("Format of the data set; auto recognises it.", "auto")
    classes: tuple[str, ...] = _option("Class names, if the data set has no dataset.toml.", ())
    ignore: tuple[int, ...] = _option("Mask ids to ignore, if the data set has no dataset.toml.", ())
    train_split: str = _option("Split to train on.", "train")
    val_split: str = _option("Split to validate on. Empty: no validation.", "val")
    model: str = _option("Name of the network, one of `segnets list`.", "")
    out: str = _option("Folder for checkpoints, log and report.", "")
    weights: str = _option("Weights to start from: a file or a published name. Empty: none.", "")
    weights_backbone: str = _option("File with backbone weights to start from. Empty: none.", "")
    output_stride: int = _option("Output stride of the backbone: 8, 16 or 32. 0: the network's own.", 0, least=0)
    decoding: str = _option(
        "How logits become ids: argmax; threshold for one class with a sigmoid; multilabel for a plane per class.",
        "argmax",
        choices=DECODING_RULES,
    )
    resize: str = _option(
        "Size of images in validation and prediction: 520 (short side), 360x480, x2 (twice the image's size) or none."
    )
    recipe: str = _option(
        "Values of all options that are not given. auto: torchvision for its six networks if they start from ImageNet "
        "weights, else light.",
        "auto",
        choices=("auto", *RECIPES),
    )

    epochs: int = _option("Passes over the training split.", section="Optimisation", least=1)
    batch: int = _option("Images per step in each process.", least=1)
    accumulate: int = _option("Batches whose gradients are added up for one step.", 1, least=1)
    optimizer: str = _option("Optimizer.", choices=("sgd", "adamw"))
    lr: float = _option("Largest learning rate.", least=0, most=1e6)
    momentum: float = _option("Momentum of SGD; first beta of AdamW.", least=0, most=1)
    weight_decay: float = _option("Weight decay.", least=0, most=1e6)
    schedule: str = _option("Decay of the learning rate after warm-up.", choices=("poly", "cosine", "constant"))
    power: float = _option("Exponent of the schedule poly.", least=0)
    warmup_epochs: float = _option("Epochs in which the learning rate rises linearly.", least=0)
    clip: float = _option("Largest norm of the gradient. 0: no limit.", 0.0, least=0)
    ema: float = _option("Decay of the moving average of the weights per step, for example 0.999. 0: none.", least=0)
    freeze_backbone: bool = _option("Whether the backbone keeps its weights.", False)
    norm_eval: bool = _option("Whether batch norms keep their statistics.", False)

    crop: int = _option("Height and width of the training crops.", section="Augmentation", least=8, most=65536)
    base_size: int = _option(
        "Short side of images before random scaling. 0: the size that resize gives.", least=0, most=65536
    )
    scale: tuple[float, float] = _option("Smallest and largest random scale.", least=0.01, most=100)
    flip: float = _option("Probability of mirroring.", least=0, most=1)
    colour: float = _option("Strength of random brightness and colour changes, 0 to 1. 0: none.", least=0, most=1)
    blur: float = _option("Probability of a random blur.", least=0, most=1)

    loss: str = _option("Loss, or a sum: cross_entropy, ohem, dice, lovasz, 0.5*dice+cross_entropy.", section="Loss")
    loss_average: str = _option(
        "Mean over the valid pixels of all processes, or of each process (rank).", choices=("all", "rank")
    )
    label_smoothing: float = _option("Share of the target that is spread over all classes.", 0.0, least=0, most=1)
    class_weights: str | tuple[float, ...] = _option("none, enet, median (frequency), or a list of one per class.")
    ohem_threshold: float = _option(
        "The loss ohem counts pixels whose probability of the true class is below this.", 0.7, least=0, most=1
    )
    ohem_min_kept: float = _option("Minimum share of the valid pixels that ohem counts.", 0.0625, least=0, most=1)
    aux_loss: bool = _option("Whether to train with an auxiliary classifier.")
    aux_weight: float = _option("Weight of the auxiliary classifier's loss.", 0.5, least=0)
    aux_lr_factor: float = _option("Factor of the auxiliary classifier's learning rate.", least=0, most=1e6)
    teacher: str = _option("Weights file of a teacher for distillation. Empty: none.", "")
    distillation_weight: float = _option("Weight of the distillation loss.", 1.0, least=0)
    temperature: float = _option("Temperature of the distillation loss.", 1.0, least=0.01)

    device: str = _option("auto, cpu or cuda.", "auto", section="Computation")
    amp: str = _option("Precision of the forward pass.", "no", choices=("no", "bfloat16", "float16"))
    channels_last: bool = _option("Whether tensors use the channels-last memory format.")
    compile: bool = _option("Whether to compile the network with torch.compile, for GPUs.", False)
    gradient_checkpointing: bool = _option("Whether to recompute feature maps in order to save memory.", False)
    workers: int = _option("Processes that prepare batches. 0: the training process does it.", 0, least=0)
    seed: int = _option("Seed of the initial weights and of all randomness.", 0, least=0)

    validate_every: int = _option("Epochs between validations.", 1, section="Records", least=1)
    checkpoint_every: int = _option("Steps between checkpoints, besides the end of each epoch. 0: none.", 0, least=0)
    log_every: int = _option("Steps between rows of the log, besides the end of each epoch.", 10, least=1)
    tensorboard: bool = _option("Whether to write a log for TensorBoard.", False)

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) is not None:
                self._set(each.name, _checked(each, getattr(self, each.name)))
        if self.recipe == "auto":
            from_imagenet = bool(self.weights_backbone) and not self.weights
            self._set("recipe", recipe_for(self.model, from_imagenet=from_imagenet))
        for name, value in recipe_values(self.recipe, self.model, self.crop, self.resize).items():
            if getattr(self, name) is None:
                self._set(name, value)
        self._check_together()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise TrainingError(f"scale={list(self.scale)}: expected the smaller scale first")
        if self.warmup_epochs > self.epochs:
            raise TrainingError(f"warmup_epochs={self.warmup_epochs:g}: expected at most epochs={self.epochs}")
        if self.momentum >= 1 and self.optimizer == "adamw":
            raise TrainingError(f"momentum={self.momentum:g}: expected a number below 1 with optimizer=adamw")
        if self.ema >= 1:
            raise TrainingError(f"ema={self.ema:g}: expected a number below 1, for example 0.999")
        if self.output_stride not in (0, 8, 16, 32):
            raise TrainingError(f"output_stride={self.output_stride}: expected 8, 16 or 32, or 0 for the network's own")
        try:
            parse_resize(self.resize)
        except ValueError as error:
            raise TrainingError(f"resize={self.resize!r}: {error}") from None
        loss_terms(self.loss)
        if isinstance(self.class_weights, str) and self.class_weights not in CLASS_WEIGHTS:
            raise TrainingError(
                f"class_weights={self.class_weights!r}: expected {', '.join(CLASS_WEIGHTS)} or a list of numbers"
            )
        if not isinstance(self.class_weights, str) and (
            not self.class_weights or min(self.class_weights) < 0 or max(self.class_weights) == 0
        ):
            raise TrainingError(f"class_weights={list(self.class_weights)}: expected numbers of at least 0, not all 0")

    def changed(self, **options: Any) -> TrainingConfig:
        """Return a copy with some options changed.

        Options that have the recipe's value follow the recipe: another `crop` changes `base_size` and `resize` too,
        and another `resize` sets `base_size` to 0, which means the size that `resize` gives.

        Args:
            **options: New values by name.

        Raises:
            TrainingError: If an option is unknown, or a value is not allowed.
        """
        own = recipe_values(self.recipe, self.model, self.crop, self.resize)
        kept = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in own or getattr(self, each.name) != own[each.name]
        }
        return _build({**kept, **options})

    def with_values(self, assignments: Iterable[str]) -> TrainingConfig:
        """Return a copy with some options changed, given as strings.

        Args:
            assignments: Strings such as "lr=0.01", "crop=480", "class_weights=[1, 2]", as in `--set`.

        Raises:
            TrainingError: If an option is unknown, or a value is not allowed.
        """
        return self.changed(**parse_assignments(assignments))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], **options: Any) -> TrainingConfig:
        """Read a configuration from a TOML file.

        A file written by `to_toml` lists all options, so it does not show which of them were chosen. If `options`
        change it, options that have the recipe's value follow the recipe, as in `changed`.

        Args:
            path: Path of the file.
            **options: Values that replace those of the file.

        Raises:
            TrainingError: If the file can't be read, has an unknown option, or a value is not allowed.
        """
        values = read_toml(path)
        if len(values) == len(option_names()):
            return _build(values).changed(**options)
        return _build({**values, **options})

    def to_toml(self) -> str:
        """Return the configuration as a TOML file, with the description of each option as a comment."""
        lines = ["# Configuration of `segnets train`; --config reads it."]
        for each in fields(self):
            if each.metadata["section"]:
                lines += ["", f"# {each.metadata['section']}"]
            assignment = f"{each.name} = {toml_value(getattr(self, each.name))}"
            lines.append(f"{assignment}  # {each.metadata['about']}")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON values, which `from_json` reads back."""
        return {
            each.name: list(value) if isinstance(value := getattr(self, each.name), tuple) else value
            for each in fields(self)
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Build a configuration from the result of `to_json`.

        Raises:
            TrainingError: If an option is unknown, or a value is not allowed.
        """
        return _build(values)


_TYPES: dict[str, Any] = {}


def _types() -> dict[str, Any]:
    if not _TYPES:
        _TYPES.update(typing.get_type_hints(TrainingConfig))
    return _TYPES


def describe_options() -> dict[str, str]:
    """Return the description of each option, by name."""
    return {each.name: each.metadata["about"] for each in fields(TrainingConfig)}


def option_names() -> list[str]:
    """Return the names of the options."""
    return [each.name for each in fields(TrainingConfig)]


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the options in a TOML file, by name.

    Raises:
        TrainingError: If the file can't be read or has an unknown option.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{os.fspath(path)}: can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also for numbers and nesting beyond Python's limits
        raise TrainingError(f"{os.fspath(path)}: is not valid TOML: {error}") from None
    for name in values:
        _check_name(name, f"{os.fspath(path)}: ")
    return values


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse assignments such as "lr=0.01" into option values by name.

    Raises:
        TrainingError: If an assignment has no "=", or names an unknown option.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise TrainingError(f"{assignment!r}: expected key=value, for example lr=0.01")
        _check_name(name)
        values[name] = parse_value(_types()[name], text.strip())
    return values


def loss_terms(text: str) -> list[tuple[str, float]]:
    """Parse the names and weights of the losses in a sum such as "cross_entropy+0.5*dice".

    Raises:
        TrainingError: If a name is unknown, or a weight is not a number above 0.
    """
    terms = []
    for part in text.split("+"):
        factor, star, name = part.rpartition("*")
        try:
            weight = float(factor) if star else 1.0
        except ValueError:
            weight = math.nan
        if not (0 < weight < math.inf):
            raise TrainingError(
                f"loss={text!r}: {factor.strip()!r} is not a weight above 0; expected for example 0.5*dice"
            )
        if name.strip() not in LOSSES:
            raise TrainingError(f"loss={text!r}: {name.strip()!r} is unknown; expected {', '.join(LOSSES)}, or a sum")
        terms.append((name.strip(), weight))
    return terms


def _build(values: Mapping[str, Any]) -> TrainingConfig:
    for name in values:
        _check_name(name)
    return TrainingConfig(**values)


def _check_name(name: str, where: str = "") -> None:
    if name not in (names := option_names()):
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        raise TrainingError(
            f"{where}unknown option {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}")
        )


def _checked(option: Field[Any], value: object) -> Any:
    """Return the value converted to the option's type, after checking choices and range."""
    name, kind = option.name, _types()[option.name]
    converted = convert_value(kind, value)
    shown = repr(value) if len(repr(value)) <= _LONGEST_SHOWN else f"{repr(value)[:_LONGEST_SHOWN]}..."
    if converted is None:
        raise TrainingError(f"{name}={shown}: expected {describe_type(kind)}. {option.metadata['about']}")
    choices = option.metadata["choices"]
    if choices and converted not in choices:
        near = difflib.get_close_matches(str(converted), choices, n=1)
        raise TrainingError(
            f"{name}={shown}: expected one of {', '.join(choices)}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    least, most = option.metadata["least"], option.metadata["most"]
    if most == math.inf and kind is int:
        most = _MOST_INTEGER
    numbers = converted if isinstance(converted, tuple) else (converted,)
    for number in numbers:
        if isinstance(number, int | float) and not least <= number <= most:
            allowed = f"from {least:g}" if most > 1000 else f"from {least:g} to {most:g}"
            allowed = f"up to {most}" if number > most > 1000 else allowed
            raise TrainingError(f"{name}={shown}: expected {'numbers' if len(numbers) > 1 else 'a number'} {allowed}")
    return converted
