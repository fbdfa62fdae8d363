"""The protocol of a peer: describe the call that builds its network with our geometry, then build and run the network.

The geometry comes from our file. A peer has to account for every option, so that none goes unnoticed. An option that
the peer has an argument for becomes that argument. An option that the peer fixes must have the peer's value. An option
that remains is refused.
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
from segnets.options import ALL_OPTIONS
from segnets.registry import BACKBONES, MODELS

Size = tuple[int, int]  # height, width
# Options that change the outputs but not the weights. A peer uses our value if it has such an argument.
HIDDEN_OPTIONS = frozenset(option.name for option in ALL_OPTIONS if option.visible == "no" and option.changes_inference)
# Options without any effect in eval mode, for example dropout.
_WITHOUT_EFFECT = frozenset(
    option.name for option in ALL_OPTIONS if option.visible == "no" and not option.changes_inference
)


@dataclass(frozen=True)
class PeerCall:
    """A call that builds a network of a peer.

    Attributes:
        function: Full name of the function or class.
        arguments: Arguments by name.
        assumed: Options of segnets that the weights do not show and that became arguments. The peer would also accept
            other values.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, JSON] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.function}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    def with_arguments(self, arguments: Mapping[str, JSON]) -> PeerCall:
        """Return the call with some arguments replaced.

        Args:
            arguments: New values by name; "backbone.depth" is the entry `depth` of the dictionary `backbone`.

        Raises:
            WeightsError: If a name refers to an entry of something that is not a dictionary.
        """
        changed = copy.deepcopy(dict(self.arguments))
        for name, value in arguments.items():
            *parents, last = name.split(".")
            place: Any = changed
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                raise WeightsError(f"the argument {name} does not fit in {self}: its parent is not a dictionary")
            place[last] = value
        return replace(self, arguments=changed)


class Peer(Protocol):
    """Another project with its own networks."""

    @property
    def name(self) -> str:
        """Name on the command line, for example "smp"."""
        ...

    @property
    def title(self) -> str:
        """Name in messages, for example "segmentation_models_pytorch"."""
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that must be importable."""
        ...

    @property
    def distribution(self) -> str:
        """Distribution whose version is recorded."""
        ...

    @property
    def install(self) -> str:
        """Requirements for `pip install`."""
        ...

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Name prefixes of tensors that no compared output depends on. They are not loaded."""
        ...

    def call(self, config: ModelConfig, names: Collection[str]) -> PeerCall:
        """Describe the call that builds this network, without importing the project.

        Args:
            config: Our network.
            names: Names of the source's tensors.

        Raises:
            WeightsError: If the project has no such network.
        """
        ...

    def build(self, call: PeerCall) -> nn.Module:
        """Build the network with random weights. The project's exceptions propagate."""
        ...

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Run the network on images of shape (N, C, H, W).

        Returns:
            Its outputs under our names: "out" and, if there is one, "aux"; or "logits".
        """
        ...

    def size_multiple(self, config: ModelConfig) -> int:
        """Return the number that an image's height and width must be multiples of; 1 allows any size."""
        ...


class PendingOptions:
    """Options of our network that a peer has yet to account for.

    Attributes:
        model: Name of our network.
        assumed: Options taken so far that the weights do not show.
    """

    def __init__(self, title: str, config: ModelConfig) -> None:
        """Resolve the options of `config`.

        Args:
            title: The project's name, for messages.
            config: Our network.

        Raises:
            WeightsError: If our network can't be built with these options.
        """
        self.model = config.name
        self.assumed: dict[str, JSON] = {}
        self._title = title
        if config.name in MODELS:
            try:
                self._pending: dict[str, Any] = MODELS[config.name].resolve(config.options)
            except (TypeError, ValueError) as error:
                raise WeightsError(f"the recorded options of {config.name} are invalid: {error}") from None
        else:
            self._pending = {name: value for name, value in config.options.items() if value is not None}
        for name in _WITHOUT_EFFECT:
            self._pending.pop(name, None)

    def take(self, name: str, default: Any = None) -> Any:
        """Return the value of an option that the peer has an argument for, or `default` if it does not apply."""
        if name in self._pending and name in HIDDEN_OPTIONS:
            self.assumed[name] = self._pending[name]
        return self._pending.pop(name, default)

    def require(self, name: str, *allowed: Any) -> None:
        """Refuse the network if the option applies and its value is not one of `allowed`."""
        if name in self._pending and self._pending.pop(name) not in allowed:
            raise self.unsupported(name, *allowed)

    def require_batch_norms(self) -> None:
        """Refuse all norms but batch norms; synchronised ones are the same in eval mode."""
        for name in ("norm_layer", "head_norm_layer"):
            self.require(name, "batch", "sync")

    def unsupported(self, name: str, *allowed: Any) -> WeightsError:
        """Return the error for a value of an option that the peer does not support."""
        only = f"; it supports only {' and '.join(map(repr, allowed))}" if allowed else ""
        return WeightsError(f"{self._title} has no {self.model} with the {name} of this file{only}")

    def into_call(self, function: str, arguments: Mapping[str, Any]) -> PeerCall:
        """Return the call, once every option is accounted for.

        Raises:
            WeightsError: If an option is not accounted for.
        """
        if self._pending:
            name, value = next(iter(self._pending.items()))
            raise WeightsError(f"{self._title} has no {self.model} with an option like {name}={value!r}")
        return PeerCall(function, arguments, self.assumed)


def head_and_backbone(model: str) -> tuple[str, str]:
    """Return the names of a network's head and backbone; the head of a classifier is "".

    Raises:
        WeightsError: If segnets does not have the network.
    """
    if model in MODELS:
        return MODELS[model].head.name, MODELS[model].backbone.name
    if model in BACKBONES:
        return "", model
    raise WeightsError(f"the file is for a model {model[:80]!r} that this segnets does not have. Update segnets.")


def no_such_network(title: str, model: str) -> WeightsError:
    """Return the error for a project that has no such network."""
    return WeightsError(f"{title} has no network that corresponds to {model}")


def import_untyped(name: str) -> Any:
    """Import a module of a project without type information."""
    return importlib.import_module(name)


def check_installed(peer: Peer) -> None:
    """Check that the modules of a project can be found.

    Raises:
        WeightsError: If a module is missing; the message gives the pip command.
    """
    missing = [module for module in peer.modules if importlib.util.find_spec(module) is None]
    if missing:
        raise WeightsError(
            f"comparing with {peer.title} needs {', '.join(missing)}, not installed here. "
            f"Run: pip install {peer.install}"
        )


def installed_version(peer: Peer) -> str:
    """Return the installed version of a project."""
    try:
        return importlib.metadata.version(peer.distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _import_torchvision_first() -> None:
    """Import torchvision through `segnets.torchvision_compat`, for the projects that import torchvision themselves.

    A missing or broken torchvision is not an error here: a project that needs it fails on its own, and others run.
    """
    try:
        from segnets import torchvision_compat  # noqa: F401
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "segnets":
            raise


@contextlib.contextmanager
def peer_errors(peer: Peer, doing: str) -> Iterator[None]:
    """Run code of a project: silence its warnings, send its prints to stderr, and reduce its exceptions to one line.

    Args:
        peer: The project.
        doing: Verb phrase for the message "failed to <doing>".

    Raises:
        WeightsError: If the code inside raises anything but an error of segnets.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        try:
            _import_torchvision_first()
            yield
        except (SegnetsError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or "no reason given"
            raise WeightsError(
                f"{peer.title} {installed_version(peer)} failed to {doing}: {type(error).__name__}: {reason}"
            ) from None
