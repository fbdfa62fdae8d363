"""Find the weights in a checkpoint and the network that they fit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from segnets.card import JSON, ModelCard
from segnets.errors import WeightsError
from segnets.weights.description import METADATA_KEY, decode
from weights_tools._text import join_names, printable
from weights_tools.extract.state_dict import StateDict, inner_networks, looks_trained
from weights_tools.reader import Container
from weights_tools.reader.tensors import check_bounds
from weights_tools.reader.values import TensorRef
from weights_tools.recognise._fit import Fit, fit_tensors
from weights_tools.recognise.config import SourceConfig, find_contradiction, read_source_config
from weights_tools.recognise.layouts import Match, match_layout, match_own_backbone


@dataclass(frozen=True)
class Recognised:
    """A network found in a checkpoint.

    Attributes:
        state: State dict with the names in the file.
        match: Layout that the state dict matched, and the network that it describes.
        fit: Names of the network's tensors in the file, and the batch norm counters to fix.
        tensors: Tensors of the network, with their names and shapes in segnets.
        card: Description of the weights, if segnets wrote the file.
        source_config: Config of the source project, if one belongs to these weights.
    """

    state: StateDict
    match: Match
    fit: Fit
    tensors: Mapping[str, TensorRef]
    card: ModelCard | None = None
    source_config: SourceConfig | None = None


@dataclass(frozen=True)
class _Request:
    """Arguments of `recognise` that every attempt uses."""

    layout: str = "auto"
    options: Mapping[str, JSON] = field(default_factory=dict)
    backbone_only: bool = False


def recognise(
    container: Container,
    state: StateDict,
    *,
    file: Path | None = None,
    layout: str = "auto",
    options: Mapping[str, JSON] | None = None,
    backbone_only: bool = False,
) -> Recognised:
    """Find the network that the weights in a checkpoint fit.

    Args:
        container: Structure of the checkpoint.
        state: State dict that `find_state_dict` found in it.
        file: Path of the checkpoint. Its folder is searched for a config file.
        layout: Name of the layout, or "auto" to recognise it.
        options: Options that the weights do not determine. They override the project's config and defaults.
        backbone_only: Whether to recognise the backbone alone, ignoring any head.

    Raises:
        WeightsError: If no known network fits the weights, or several do.
    """
    request = _Request(layout, options or {}, backbone_only)
    description = container.metadata.get(METADATA_KEY)
    if description is not None:
        return _recognise_own(container, state, description, request)
    config = read_source_config(container.top, state.path, file or Path())
    try:
        return _recognise_foreign(container, state, request, config)
    except WeightsError:
        inner = _recognise_inner(container, state, request, config)
        if inner is None:
            raise
        return inner


def _recognise_inner(
    container: Container, state: StateDict, request: _Request, config: SourceConfig | None
) -> Recognised | None:
    """Recognise a network among other tensors, such as an attribute of a Lightning module; None if none fits.

    Raises:
        WeightsError: If several networks fit, or if weights of a larger network would be lost.
    """
    found = []
    for candidate in inner_networks(state):
        with contextlib.suppress(WeightsError):
            found.append(_recognise_foreign(container, candidate, request, config))
    if len(found) > 1:
        names = " and ".join(printable("".join(each.state.stripped)) for each in found)
        example = "".join(found[0].state.stripped).rstrip(".")
        raise WeightsError(
            f"the checkpoint holds several networks, whose names begin with {names}. Choose one with --key, for "
            f"example --key {example}"
        ) from None
    if not found:
        return None
    if not request.backbone_only:
        _check_dropped(state, found[0])
    return found[0]


def _check_dropped(outer: StateDict, inner: Recognised) -> None:
    """Raise WeightsError if tensors outside an inner network are also weights."""
    lost = [name for name in inner.state.dropped if name in outer.tensors and looks_trained(name, outer.tensors[name])]
    if lost:
        raise WeightsError(
            f"the checkpoint holds a {inner.match.config.name} under {printable(''.join(inner.state.stripped))}, and "
            f"other weights that would be lost: {join_names(map(printable, lost), 3)}. Choose that network with --key "
            f"{''.join(inner.state.stripped).rstrip('.')}"
        )


def _recognise_foreign(
    container: Container, state: StateDict, request: _Request, config: SourceConfig | None
) -> Recognised:
    """Recognise a network of another project, with the project's config if it belongs to these weights."""
    if config is None:
        return _fit_match(container, state, _match(container, state, request))
    found: Recognised | None = None
    failure: WeightsError | None = None
    try:
        match = _match(container, state, request, config)
        found = replace(_fit_match(container, state, _apply_config(match, config)), source_config=config)
    except WeightsError as error:
        failure = error
    else:
        if not _why_ignored(config, match, request):
            return found
    # The config may belong to another network, so try the weights without it.
    try:
        match = _match(container, state, request)
    except WeightsError:
        pass  # only the config identifies this network
    else:
        why = _why_ignored(config, match, request)
        if why:
            note = f"ignored {config.source}: it describes {why}"
            return _fit_match(container, state, replace(match, notes=(*match.notes, note)))
    if found is None:
        assert failure is not None
        raise failure
    return found


def _why_ignored(config: SourceConfig, match: Match, request: _Request) -> str:
    """Describe the network of a config if it is not the network that matched, else return ""."""
    # timm's ResNets use torchvision's names.
    if config.project not in (match.layout, None) and (config.project, match.layout) != ("timm", "torchvision"):
        return f"a network of {config.project}"
    # A backbone is only part of the network that the config describes.
    difference = "" if request.backbone_only else find_contradiction(config, match.config)
    return f"a different network, {difference}" if difference else ""


def _match(container: Container, state: StateDict, request: _Request, config: SourceConfig | None = None) -> Match:
    try:
        return match_layout(
            state.tensors,
            request.layout,
            request.options,
            configured=config.options if config else None,
            configured_by=config.project if config else None,
            container=container.kind,
            backbone_only=request.backbone_only,
        )
    except ValueError as error:  # contradictory options
        raise WeightsError(str(error)) from None


def _apply_config(match: Match, config: SourceConfig) -> Match:
    """Add the notes of a config to a match.

    Raises:
        WeightsError: If the config describes a network that segnets does not support.
    """
    if config.refused is not None:
        raise WeightsError(
            f"the tensors are those of a {match.config.name}, but {config.source} describes a network that segnets "
            f"does not support: {config.refused}"
        )
    notes = [*match.notes, *config.notes]
    used = [f"{name}={match.geometry[name]}" for name in config.options if name in match.geometry]
    if used:
        notes.append(f"from {config.source}: {', '.join(used)}")
    return replace(match, notes=tuple(notes))


def _recognise_own(container: Container, state: StateDict, description: str, request: _Request) -> Recognised:
    """Recognise a segnets file by the description in its metadata."""
    try:
        config, card = decode(description, "it")
    except WeightsError as error:
        raise WeightsError(str(error).removeprefix("it: ")) from None
    if request.options:
        raise WeightsError(
            f"the file records its options, so the option {next(iter(request.options))} cannot be set. Omit the option"
        )
    names = {name: name for name in state.tensors}
    found = _fit_match(container, state, Match("segnets", 1, config, names, {}), card)
    if not request.backbone_only or config.options.get("num_classes") == 0:
        return found
    match = match_own_backbone(config, state.tensors)
    return _fit_match(container, state, match, card.without_classes())


def _fit_match(container: Container, state: StateDict, match: Match, card: ModelCard | None = None) -> Recognised:
    """Fit the tensors to the network, and use the config that it records: equal networks record equal configs."""
    state = replace(state, dropped=(*state.dropped, *match.unused))
    flat = {match.names[name]: _flatten(name, state.tensors[match.names[name]]) for name in match.flattened}
    tensors = {**state.tensors, **flat}
    fit = fit_tensors(match.config, match.names, tensors)
    ours = {name: tensors[theirs] for name, theirs in fit.names.items()}
    for name, ref in ours.items():
        check_bounds(name, ref, container)
    return Recognised(state, replace(match, config=fit.config), fit, ours, card)


def _flatten(name: str, ref: TensorRef) -> TensorRef:
    """Reshape the weight of a 1x1 convolution to that of a linear layer."""
    if ref.shape[2:] != (1, 1):
        raise WeightsError(f"the tensor that becomes {name} has shape {ref.shape}; expected (C, C, 1, 1)")
    return replace(ref, shape=ref.shape[:2], stride=ref.stride[:2])
