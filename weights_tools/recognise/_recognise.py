"""The way that `inspect` and `convert` share: open a file, find its weights, recognise the network, fit them to it."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from segnets.card import JSON, ModelCard
from segnets.errors import WeightsError
from segnets.weights.description import METADATA_KEY, decode
from weights_tools._text import join_names, printable
from weights_tools.extract.state_dict import StateDict, find_state_dict, inner_networks, looks_trained
from weights_tools.reader import Container
from weights_tools.reader.tensors import check_bounds
from weights_tools.reader.values import TensorRef
from weights_tools.recognise._fit import Fit, fit
from weights_tools.recognise.config import SourceConfig, contradiction, read_source_config
from weights_tools.recognise.layouts import Match, match_layout
from weights_tools.recognise.layouts._backbone import match_own_backbone

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.(?:pth|pt|safetensors)(?!\.index)")


@dataclass(frozen=True)
class Recognised:
    """A network in a file. card: what the file itself says of the weights, if it is one of segnets.

    state: the tensors as the file has them. tensors: those of our network, by our names and in our shapes.
    told: what a configuration of the project's own says beside them.
    """

    state: StateDict
    match: Match
    fit: Fit
    tensors: Mapping[str, TensorRef]
    card: ModelCard | None = None
    told: SourceConfig | None = None


@dataclass(frozen=True)
class Asked:
    """What somebody said of a file. layout: where it comes from. options: what no tensor shows.

    backbone_only: the backbone is wanted, whatever the head.
    """

    layout: str = "auto"
    options: Mapping[str, JSON] = field(default_factory=dict)
    backbone_only: bool = False


def recognise(
    container: Container, key: str | None = None, asked: Asked | None = None, *, file: Path | None = None
) -> Recognised:
    """Find the weights and the network that they are. file: where they lie, for what may lie beside them.

    Raises WeightsError if there is none, or no single one.
    """
    asked = asked or Asked()
    state = find_state_dict(container, key)
    described = container.metadata.get(METADATA_KEY)
    if described is not None:
        return _own(container, state, described, asked)
    told = read_source_config(container.top, state.path, file or Path())
    try:
        return _recognised(container, state, asked, told)
    except WeightsError as error:
        inner = []
        for candidate in inner_networks(state):
            with contextlib.suppress(WeightsError):
                inner.append(_recognised(container, candidate, asked, told))
        if len(inner) > 1:
            names = " and ".join(printable("".join(each.state.stripped)) for each in inner)
            raise WeightsError(
                f"it holds several networks, whose names begin with {names}; choose one with --key, "
                f"{''.join(inner[0].state.stripped).rstrip('.')} say"
            ) from None
        if not inner:
            raise error
    if not asked.backbone_only:
        _check_dropped(state, inner[0])
    return inner[0]


def _check_dropped(outer: StateDict, inner: Recognised) -> None:
    """Raise WeightsError if the tensors beside a network that was found are part of a larger one."""
    lost = [name for name in inner.state.dropped if name in outer.tensors and looks_trained(name, outer.tensors[name])]
    if lost:
        raise WeightsError(
            f"it holds a {inner.match.config.name} under {printable(''.join(inner.state.stripped))} and other weights "
            f"beside it, which would be lost: {join_names(map(printable, lost), 3)}; to convert that network only, "
            "save its state dict alone"
        )


def _recognised(container: Container, state: StateDict, asked: Asked, told: SourceConfig | None) -> Recognised:
    if told is None:
        return _fitted(container, state, _matched(container, state, asked, None))
    why = _why_unbelieved(container, state, asked, told)
    if why:
        match = _matched(container, state, asked, None)
        match = replace(match, notes=(*match.notes, f"{told.source} is of {why}, and is not believed"))
        return _fitted(container, state, match)
    match = _believed(_matched(container, state, asked, told), told)
    return replace(_fitted(container, state, match), told=told)


def _why_unbelieved(container: Container, state: StateDict, asked: Asked, told: SourceConfig) -> str:
    """Whose a configuration is if it is not that of the network beside it; "" if it is."""
    try:
        match = _matched(container, state, asked, None)
    except WeightsError:  # it may be what settles that network
        return ""
    # timm's ResNets have torchvision's names.
    if told.project not in (match.layout, None) and (told.project, match.layout) != ("timm", "torchvision"):
        return str(told.project)
    # Of a backbone alone only a part is known, and the configuration may be the whole network's.
    other = "" if asked.backbone_only else contradiction(told, match.config)
    return f"another network, {other}" if other else ""


def _matched(container: Container, state: StateDict, asked: Asked, told: SourceConfig | None) -> Match:
    try:
        return match_layout(
            state.tensors,
            asked.layout,
            asked.options,
            told=told.options if told else None,
            told_by=told.project if told else None,
            container=container.kind,
            backbone_only=asked.backbone_only,
        )
    except ValueError as error:  # options that don't go together
        raise WeightsError(str(error)) from None


def _believed(match: Match, told: SourceConfig) -> Match:
    """The match with what a configuration beside it adds. Raises WeightsError if it says that it is something else."""
    if told.refused is not None:
        raise WeightsError(f"it has the tensors of a {match.config.name}, but {told.source} says {told.refused}")
    notes = [*match.notes, *told.notes]
    settled = [f"{name}={match.geometry[name]}" for name in told.options if name in match.geometry]
    if settled:
        notes.append(f"{told.source} says {', '.join(settled)}")
    return replace(match, notes=tuple(notes))


def _own(container: Container, state: StateDict, described: str, asked: Asked) -> Recognised:
    """A file that segnets wrote says itself what it is."""
    try:
        config, card = decode(described, "it")
    except WeightsError as error:
        raise WeightsError(str(error).removeprefix("it: ")) from None
    if asked.options:
        raise WeightsError(f"it says itself what it is; the option {next(iter(asked.options))} is not open")
    names = {name: name for name in state.tensors}
    found = _fitted(container, state, Match("segnets", 1, config, names, {}), card)
    if not asked.backbone_only or config.options.get("num_classes") == 0:
        return found
    match = match_own_backbone(config, state.tensors)
    return _fitted(container, state, match, card.without_classes())


def _fitted(container: Container, state: StateDict, match: Match, card: ModelCard | None = None) -> Recognised:
    """Compare with the network, and take the options that it records itself: equal networks have equal ones."""
    state = replace(state, dropped=(*state.dropped, *match.unused))
    flat = {match.names[name]: _flattened(name, state.tensors[match.names[name]]) for name in match.flattened}
    tensors = {**state.tensors, **flat}
    fitted = fit(match.config, match.names, tensors)
    ours = {name: tensors[theirs] for name, theirs in fitted.names.items()}
    _check_tensors(container, ours)
    return Recognised(state, replace(match, config=fitted.config), fitted, ours, card)


def _flattened(name: str, ref: TensorRef) -> TensorRef:
    """A 1x1 convolution as the linear layer that it is."""
    if ref.shape[2:] != (1, 1):
        raise WeightsError(f"its {name} (as it is called here) has the shape {ref.shape}; (C, C, 1, 1) was expected")
    return replace(ref, shape=ref.shape[:2], stride=ref.stride[:2])


def _check_tensors(container: Container, tensors: Mapping[str, TensorRef]) -> None:
    for name, ref in tensors.items():
        check_bounds(name, ref, container)


def count_dtypes(tensors: Mapping[str, TensorRef]) -> dict[str, int]:
    return dict(sorted(Counter(ref.dtype for ref in tensors.values()).items()))


def hash_in_name(path: Path) -> str | None:
    """Return the eight digits that torchvision and torch.hub put into file names: the beginning of the sha256."""
    found = _HASH_IN_NAME.search(path.name)
    return found[1] if found else None
