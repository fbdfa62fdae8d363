"""`convert`: any readable checkpoint of a known network to one self-describing `.safetensors`.

Nothing of the source is executed, nothing is guessed, nothing is renamed without being reported, and the output has its
name only after it was read back and found equal.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import segnets
from segnets.card import JSON, ModelCard
from segnets.catalog import CATALOG, Published
from segnets.collector import without_garbage_collection
from segnets.errors import OutputError, WeightsError
from segnets.files import check_writable_target
from segnets.weights import write_weights_file
from weights_tools.checkpoint import StateDict
from weights_tools.names import shown
from weights_tools.opened import (
    Recognised,
    hash_in_name,
    naming,
    opened,
    recognise_network,
    refuse_attacks,
)
from weights_tools.reader import Container, Content, Source
from weights_tools.reader.tensors import TensorReader
from weights_tools.report import ConversionReport
from weights_tools.soundness import Soundness, examine

DTYPES = ("float32", "float16", "bfloat16", "float64")
_MAX_CLASS_FILE = 1 << 20
_MAX_CLASS_NAME = 200


@dataclass(frozen=True)
class _Plan:
    """Everything that goes into the output, before it is written."""

    found: Recognised
    tensors: dict[str, Tensor]
    card: ModelCard
    soundness: Soundness
    notes: tuple[str, ...]


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    layout: str = "auto",
    key: str | None = None,
    classes: Sequence[str] | str | os.PathLike[str] | None = None,
    allow_nonfinite: bool = False,
    force: bool = False,
    dtype: str | None = None,
    options: Mapping[str, JSON] | None = None,
) -> ConversionReport:
    """Write the weights in `src` to the new file `dst`, together with what builds their network.

    layout: where the checkpoint comes from; "auto" recognises it. key: which dictionary of the file holds the weights,
    where it has several. classes: one name per class, or a text file with one per line. allow_nonfinite: accept
    values that no trained network has. force: replace `dst`. dtype: cast floating-point tensors to one of DTYPES;
    without it every tensor keeps its bytes. options: what no tensor shows, such as the output stride of a network of
    another project, where it is not that project's default.

    Raises WeightsError for a source that can't be converted, and OutputError for a target that can't be written. In
    both cases nothing was executed, and what stood at `dst` is untouched.
    """
    if dtype is not None and dtype not in DTYPES:
        raise WeightsError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
    target = _check_target(Path(src), Path(dst), force=force)
    names = _class_names(classes)
    with without_garbage_collection(), opened(src) as (source, container):
        _check_not_source(source.paths, target)
        refuse_attacks(container)
        found = recognise_network(container, layout, key, options)
        plan = _plan(source, container, found, dtype)
        if plan.soundness.problems and not allow_nonfinite:
            problems = "; ".join(plan.soundness.problems)
            raise WeightsError(
                f"{problems}. It is damaged or badly trained; --allow-nonfinite converts it all the same"
            )
        plan = _with_classes(plan, names)
    with naming(src):
        config = found.match.config
        write_weights_file(target, plan.tensors, config, plan.card, overwrite=force)
    return _report(Path(src), target, source, container, plan, dtype)


def _check_not_source(sources: Iterable[Path], dst: Path) -> None:
    for source in sources:
        try:
            same = source.samefile(dst)
        except (OSError, ValueError):
            same = False
        if same:
            raise OutputError(f"{dst}: is the file to be converted; choose another name for the output")


def _check_target(src: Path, dst: Path, *, force: bool) -> Path:
    _check_not_source([src], dst)
    target = check_writable_target(dst, overwrite=force)
    if target.suffix != ".safetensors":
        raise OutputError(f"{dst}: the output is a safetensors file; give it a name that ends in .safetensors")
    return target


def _plan(source: Content, container: Container, found: Recognised, dtype: str | None) -> _Plan:
    reader = TensorReader(source, container)
    tensors = {name: reader.read(old, found.state.tensors[old]) for name, old in found.fit.names.items()}
    for name in found.fit.zeroed:
        tensors[name] = torch.zeros((), dtype=torch.int64)
    for name in found.fit.reshaped:
        # A counter that float16 could not hold is infinite. Only a batch norm with momentum=None would read it.
        tensors[name] = tensors[name].reshape(()).double().nan_to_num(0, 0, 0).to(torch.int64)
    if dtype is not None:
        wanted = getattr(torch, dtype)
        tensors = {name: t.to(wanted) if t.is_floating_point() else t for name, t in tensors.items()}
    soundness = examine(tensors)
    sha256 = source.sha256()
    published = _published(source.path, sha256, found.match.config.name)
    notes = [*container.notes, *found.state.notes, *found.match.notes]
    if published is not None:
        known = "its sha256" if published.sha256 else "the first 8 digits of its sha256"
        notes.append(f"it is torchvision's {published.model} {published.name}, by {known}")
    elif hash_in_name(source.path) not in (None, sha256[:8]):
        notes.append(f"its sha256 begins with {sha256[:8]}, not with the digits in its name")
    if any(t.element_size() == 1 for t in tensors.values() if t.is_floating_point()):
        notes.append("8-bit floats are kept; call model.float() after loading, or convert with --dtype float32")
    if found.card is None:
        card = _card(source.path, sha256, container, found, published, dtype)
    else:
        card = _card_kept(found.card, _changes(found, dtype))
    return _Plan(found, tensors, card, soundness, tuple(notes))


def _published(path: Path, sha256: str, model: str) -> Published | None:
    """Return the published file that this is, under whatever name.

    Raises WeightsError if it has the full name of a published file and other content: then it is damaged.
    """
    for row in CATALOG:
        if row.model == model and sha256.startswith(row.sha256 or row.hash_prefix):
            return row
        if row.file == path.name:
            raise WeightsError(
                f"it has the name of a published file but its sha256 begins with {sha256[:8]}, not {row.hash_prefix}: "
                "it is damaged or another file; download it again, or rename it if it is yours"
            )
    return None


def _card(
    path: Path, sha256: str, container: Container, found: Recognised, published: Published | None, dtype: str | None
) -> ModelCard:
    match = found.match
    provenance: dict[str, JSON] = {
        "layout": match.layout,
        "layout_version": match.version,
        "geometry": dict(match.geometry),
        "container": container.kind,
        "source_file": shown(path.name, quote=False),
        "source_sha256": sha256,
        "tool": f"weights_tools of segnets {segnets.__version__}",
        "proof": _proof(found, dtype),
        **_taken_off(found.state),
        **_changes(found, dtype),
    }
    if published is None:
        return ModelCard(provenance=provenance)
    card = published.card()
    return replace(card, provenance={**card.provenance, **provenance})


def _taken_off(state: StateDict) -> dict[str, JSON]:
    taken: dict[str, JSON] = {
        "key": ".".join(state.path),
        "stripped": "".join(state.stripped),
        "dropped": list(state.dropped),
    }
    return {name: what for name, what in taken.items() if what}


def _changes(found: Recognised, dtype: str | None) -> dict[str, JSON]:
    """What differs in the numbers themselves."""
    changes: dict[str, JSON] = {
        "counters_set_to_0": len(found.fit.zeroed),
        "counters_made_int64": len(found.fit.reshaped),
        "cast_to": dtype,
    }
    return {name: change for name, change in changes.items() if change}


def _proof(found: Recognised, dtype: str | None) -> str:
    """Say exactly what was done: every tensor was compared with this after it was written."""
    done = f"cast to {dtype}" if dtype is not None else "renamed only; every tensor byte-equal to the source's"
    counters = []
    if found.fit.zeroed:
        counters.append(f"{len(found.fit.zeroed)} absent batch norm counters set to 0")
    if found.fit.reshaped:
        counters.append(f"{len(found.fit.reshaped)} batch norm counters made int64")
    return f"{done}, but for {' and '.join(counters)}" if counters else done


def _card_kept(card: ModelCard, changes: Mapping[str, JSON]) -> ModelCard:
    """The card of a file of segnets; what it proves is not true of tensors that were changed."""
    if not changes:
        return card
    derived = card.derived()
    return replace(derived, provenance={**derived.provenance, **changes})


def _with_classes(plan: _Plan, names: tuple[str, ...] | None) -> _Plan:
    if names is None:
        return plan
    count = plan.found.match.config.options.get("num_classes")
    if len(names) != count:
        raise WeightsError(f"its network has {count} classes, but {len(names)} class names were given")
    # Colours of a former class list would belong to other classes.
    return replace(plan, card=replace(plan.card, classes=names, palette=()))


def _class_names(classes: Sequence[str] | str | os.PathLike[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, str | os.PathLike):
        names = _read_class_file(Path(classes))
        where = f"{classes}: "
    else:
        names, where = tuple(classes), ""
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str) or not name.strip() or len(name) > _MAX_CLASS_NAME or not name.isprintable():
            raise WeightsError(
                f"{where}class name {number} is empty, too long or not printable; one name per line is needed"
            )
    return names


def _read_class_file(path: Path) -> tuple[str, ...]:
    with naming(path), Source(path) as source:
        if source.size > _MAX_CLASS_FILE:
            raise WeightsError("it is too large for a list of class names")
        try:
            text = bytes(source.view(0, source.size)).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise WeightsError("it is no UTF-8 text; a list of class names has one name per line") from None
        names = tuple(line.strip() for line in text.rstrip().splitlines())
        if not names:
            raise WeightsError("it is empty; a list of class names has one name per line")
        return names


def _report(
    src: Path, target: Path, source: Content, container: Container, plan: _Plan, dtype: str | None
) -> ConversionReport:
    found = plan.found
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in plan.tensors.values())
    return ConversionReport(
        source=str(src),
        source_sha256=source.sha256(),
        container=container.kind,
        output=str(target),
        layout=found.match.layout,
        model=found.match.config.name,
        options=found.match.config.options,
        classes=plan.card.classes,
        geometry=found.match.geometry,
        tensors=len(plan.tensors),
        parameters=sum(tensor.numel() for tensor in plan.tensors.values()),
        dtypes=dict(sorted(dtypes.items())),
        path=found.state.path,
        stripped=found.state.stripped,
        dropped=found.state.dropped,
        ignored=found.state.ignored,
        zeroed=found.fit.zeroed,
        reshaped=found.fit.reshaped,
        cast_to=dtype,
        notes=plan.notes,
        doubts=(*plan.soundness.problems, *plan.soundness.doubts),
    )
