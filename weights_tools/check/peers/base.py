"""What a project is here: it can say which call makes its network with our geometry, make it, and run it.

The geometry is what our file records. Each project takes every option of it: one that it has an argument for becomes
that argument, one that it has no choice in must have the project's own value, and one that nobody took is refused. So
an option that a project knows nothing of never goes unnoticed.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.errors import SegnetsError, WeightsError
from segnets.registry import BACKBONES, MODELS

Size = tuple[int, int]  # height, width
# Without a part in the result of a trained network.
_OF_TRAINING = ("head_dropout", "dropout")
# The same names and shapes with every value of these: where a project has a choice, its answer is ours.
UNSEEN = {
    "output_stride",
    "first_block_dilation",
    "basic_block_dilation",
    "multi_grid",
    "stride_in_1x1",
    "norm_eps",
    "head_norm_eps",
    "atrous_rates",
    "align_corners",
    "replace_stride_with_dilation",
    "dilated",
}


@dataclass(frozen=True)
class Call:
    """A call that makes a network of a project. function: what is called; arguments: with what, by name.

    assumed: options of ours that no tensor shows and that became arguments: the project would take other values, too.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, JSON] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.function}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def changed(self, arguments: Mapping[str, JSON]) -> Call:
        """The same call with other arguments; "backbone.depth" is the entry `depth` of the dictionary `backbone`.

        Raises WeightsError for an entry of an argument that is no dictionary.
        """
        changed = copy.deepcopy(dict(self.arguments))
        for name, value in arguments.items():
            *parents, last = name.split(".")
            place: Any = changed
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                raise WeightsError(f"the argument {name} has no place in {self}")
            place[last] = value
        return replace(self, arguments=changed)


class Project(Protocol):
    """Another project that has networks of its own.

    name: what people type; title: what it is called; modules: what is imported of it.
    distribution: whose version counts; install: what `pip install` needs.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def modules(self) -> tuple[str, ...]: ...

    @property
    def distribution(self) -> str: ...

    @property
    def install(self) -> str: ...

    def call(self, config: ModelConfig, names: Collection[str]) -> Call:
        """What makes this network in the project, its tensors named `names`. Nothing of the project is imported.

        Raises WeightsError if the project has no such network.
        """
        ...

    def build(self, call: Call) -> nn.Module:
        """Make the network, with random weights. Whatever the project raises passes through."""
        ...

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """The results for a batch of images (N, C, H, W) under our names: "out" and "aux", or "logits"."""
        ...

    def step(self, config: ModelConfig) -> int:
        """What the height and width of an image have to be multiples of; 1 if any will do."""
        ...


class Choices:
    """The options of a network of ours, of which a project takes one after the other."""

    def __init__(self, title: str, config: ModelConfig) -> None:
        """title: the project. Raises WeightsError for options that ours can't be built with either."""
        self.model = config.name
        self.assumed: dict[str, JSON] = {}
        self._title = title
        if config.name in MODELS:
            try:
                self._left: dict[str, Any] = MODELS[config.name].resolve(config.options)
            except (TypeError, ValueError) as error:
                raise WeightsError(f"its description of {config.name} can't be built: {error}") from None
        else:
            self._left = {name: value for name, value in config.options.items() if value is not None}
        for name in _OF_TRAINING:
            self._left.pop(name, None)

    def take(self, name: str, default: Any = None) -> Any:
        """The value of an option that the project has an argument for, or `default` where it does not apply."""
        if name in self._left and name in UNSEEN:
            self.assumed[name] = self._left[name]
        return self._left.pop(name, default)

    def need(self, name: str, *allowed: Any) -> None:
        """Raise WeightsError if the option applies and has a value that the project does not have."""
        if name in self._left and self._left.pop(name) not in allowed:
            raise self.refused(name, *allowed)

    def need_plain_norms(self) -> None:
        """Batch norms everywhere, synchronised or not: in eval mode they are one."""
        for name in ("norm_layer", "head_norm_layer"):
            self.need(name, "batch", "sync")

    def refused(self, name: str, *allowed: Any) -> WeightsError:
        """What to raise for an option that the project does not have this value of."""
        has = f"; it has {' and '.join(map(repr, allowed))} only" if allowed else ""
        return WeightsError(f"{self._title} has no {self.model} with the {name} that the file is for{has}")

    def call(self, function: str, arguments: Mapping[str, Any]) -> Call:
        """The call, once every option was taken. Raises WeightsError for one that the project knows nothing of."""
        if self._left:
            name, value = next(iter(self._left.items()))
            raise WeightsError(f"{self._title} has no {self.model} with an option like {name}={value!r}")
        return Call(function, arguments, self.assumed)


def parts_of(model: str) -> tuple[str, str]:
    """The head and the backbone in the name of a network of ours; ("", name) for a classifier.

    Raises WeightsError for one that segnets does not have.
    """
    if model in MODELS:
        return MODELS[model].head.name, MODELS[model].backbone.name
    if model in BACKBONES:
        return "", model
    raise WeightsError(f"is for a model {model[:80]!r} that this segnets does not have; update segnets")


def without(title: str, model: str) -> WeightsError:
    """What to raise where a project has no network of this kind at all."""
    return WeightsError(f"{title} has no network that could be compared with a {model}")


def package(name: str) -> Any:
    """Import a module of a project, of which no type is known here."""
    return importlib.import_module(name)


def check_installed(project: Project) -> None:
    """Raise WeightsError, which says what to install, if a module of the project is missing."""
    missing = [module for module in project.modules if importlib.util.find_spec(module) is None]
    if missing:
        raise WeightsError(
            f"comparing with {project.title} needs it installed, and {', '.join(missing)} can't be found: "
            f"pip install {project.install}"
        )


def version_of(project: Project) -> str:
    """Its installed version."""
    try:
        return importlib.metadata.version(project.distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


@contextlib.contextmanager
def foreign(project: Project, doing: str) -> Iterator[None]:
    """Run code of a project: without its warnings, what it prints on stderr, and one line for whatever it raises."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        try:
            # Most of them import torchvision, which beside some builds of torch needs its door.
            with contextlib.suppress(ImportError):
                importlib.import_module("segnets.torchvision_compat")
            yield
        except (SegnetsError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or "no reason given"
            raise WeightsError(
                f"{project.title} {version_of(project)} failed to {doing}: {type(error).__name__}: {reason}"
            ) from None
