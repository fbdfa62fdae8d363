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

from segnets.card import JSON, ModelCard
from segnets.errors import OutputError, WeightsError
from segnets.files import check_writable_target
from segnets.garbage_collection import without_garbage_collection
from segnets.preprocessing import Preprocessing
from segnets.weights import write_weights_file
from weights_tools._provenance import Numbers, find_published, kept_card, new_card
from weights_tools._reports import ConversionReport
from weights_tools.check.requested import WantedProof
from weights_tools.check.values import Soundness, examine
from weights_tools.edit import weights as changes
from weights_tools.edit.classes import ClassMap, read_class_map, read_class_names, rows_of
from weights_tools.edit.weights import Weights
from weights_tools.extract.safety import refuse_attacks
from weights_tools.reader import Container, Content, TensorReader, open_checkpoint, prefix_errors
from weights_tools.recognise._recognise import (
    Asked,
    Recognised,
    hash_in_name,
    recognise,
)

DTYPES = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True)
class _Wishes:
    """What is to be different from the source, checked."""

    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    class_map: ClassMap | None = None
    drop_aux: bool = False
    dtype: str | None = None


@dataclass(frozen=True)
class _Plan:
    """Everything that goes into the output, before it is written. read: the same before anything was changed."""

    found: Recognised
    read: Weights
    weights: Weights
    soundness: Soundness
    numbers: Numbers
    notes: tuple[str, ...] = ()
    proven: tuple[str, ...] = ()


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    layout: str = "auto",
    key: str | None = None,
    options: Mapping[str, JSON] | None = None,
    backbone_only: bool = False,
    drop_aux: bool = False,
    classes: Sequence[str] | str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    remap_classes: ClassMap | str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    golden: str | os.PathLike[str] | None = None,
    golden_tolerance: float | None = None,
    compare_with: str | None = None,
    allow_nonfinite: bool = False,
    overwrite: bool = False,
) -> ConversionReport:
    """Write the weights in `src` to the new file `dst`, together with what builds their network.

    layout: where the checkpoint comes from; "auto" recognises it. key: which dictionary of the file holds the weights,
    where it has several. options: what no tensor shows, such as the output stride of a network of another project,
    where it is not that project's default. backbone_only: leave every head out; builders take the file as
    `weights_backbone`. drop_aux: leave the auxiliary classifier out.
    classes: one name per class of the source, or a text file with one per line. num_classes: make the last layers
    afresh for so many classes, if the source has another number. remap_classes: new class -> class of the source (name
    or number) whose rows it takes over, or None for fresh ones; or a JSON file of that.
    dtype: cast floating-point tensors to one of DTYPES; without it every tensor keeps its bytes.
    golden: a `.safetensors` file with an input and the output that the source gave for it, see
    `check.golden.check_golden`. compare_with: a project whose own network is run beside the converted one, see
    `weights_tools.compare`. If the results differ nothing is written; if not, the proof stands in the file.
    allow_nonfinite: accept values that no trained network has. overwrite: replace `dst`.

    Raises WeightsError for a source that can't be converted, and OutputError for a target that can't be written. In
    both cases nothing was executed, and what stood at `dst` is untouched.
    """
    asked = Asked(layout, options or {}, backbone_only)
    wanted_proof = WantedProof(golden, golden_tolerance, compare_with)
    wanted_proof.check()
    wishes = _wishes(classes, num_classes, remap_classes, drop_aux=drop_aux, dtype=dtype)
    target = _check_target(Path(src), Path(dst), overwrite=overwrite)
    with without_garbage_collection():
        with open_checkpoint(src) as (source, container):
            _check_not_source(source.paths, target)
            refuse_attacks(container)
            found = recognise(container, key, asked, file=source.path)
            plan = _plan(source, container, found, wishes)
            if plan.soundness.problems and not allow_nonfinite:
                problems = "; ".join(plan.soundness.problems)
                raise WeightsError(
                    f"{problems}. It is damaged or badly trained; --allow-nonfinite converts it all the same"
                )
            made = _made(plan, wishes)
            proven = wanted_proof.prove(plan.read, found, TensorReader(source, container), made)
            plan = replace(plan, weights=proven.into(plan.weights), proven=proven.texts)
        with prefix_errors(src):
            weights = plan.weights
            write_weights_file(target, weights.tensors, weights.config, weights.card, overwrite=overwrite)
    return _report(Path(src), target, source, container, plan)


def _wishes(
    classes: Sequence[str] | str | os.PathLike[str] | None,
    num_classes: int | None,
    remap_classes: ClassMap | str | os.PathLike[str] | None,
    *,
    drop_aux: bool,
    dtype: str | None,
) -> _Wishes:
    if dtype is not None and dtype not in DTYPES:
        raise WeightsError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
    if num_classes is not None and (isinstance(num_classes, bool) or not 1 <= num_classes <= changes.MOST_CLASSES):
        raise WeightsError(f"num_classes={num_classes}: expected 1 to {changes.MOST_CLASSES:,}")
    class_map = None if remap_classes is None else read_class_map(remap_classes)
    if class_map is not None and num_classes not in (None, len(class_map)):
        raise WeightsError(f"num_classes={num_classes}, but the map of classes has {len(class_map)}; leave one out")
    return _Wishes(read_class_names(classes), num_classes, class_map, drop_aux, dtype)


def _check_not_source(sources: Iterable[Path], dst: Path) -> None:
    for source in sources:
        try:
            same = source.samefile(dst)
        except (OSError, ValueError):
            same = False
        if same:
            raise OutputError(f"{dst}: is the file to be converted; choose another name for the output")


def _check_target(src: Path, dst: Path, *, overwrite: bool) -> Path:
    _check_not_source([src], dst)
    target = check_writable_target(dst, overwrite=overwrite)
    if target.suffix != ".safetensors":
        raise OutputError(f"{dst}: the output is a safetensors file; give it a name that ends in .safetensors")
    return target


def _plan(source: Content, container: Container, found: Recognised, wishes: _Wishes) -> _Plan:
    reader = TensorReader(source, container)
    tensors = {name: reader.read(name, ref) for name, ref in found.tensors.items()}
    for name in found.fit.zeroed:
        tensors[name] = torch.zeros((), dtype=torch.int64)
    for name in found.fit.reshaped:
        # A counter that float16 could not hold is infinite. Only a batch norm with momentum=None would read it.
        tensors[name] = tensors[name].reshape(()).double().nan_to_num(0, 0, 0).to(torch.int64)
    soundness = examine(tensors)
    sha256 = source.sha256()
    config = found.match.config
    published = find_published(source.path, sha256, config)
    meaning = found.card or (_told_card(found) if published is None else published.card())
    read = Weights(config, tensors, meaning)
    weights = _changed(read, wishes)
    if wishes.dtype is not None and not soundness.problems:
        after = examine(weights.tensors)  # numbers that are too small for the dtype are 0 in it
        soundness = replace(after, problems=tuple(f"cast to {wishes.dtype}, {each}" for each in after.problems))
    counters = (len(found.fit.zeroed), len(found.fit.reshaped))
    numbers = Numbers(*counters, cast=wishes.dtype, changed=weights.changes)
    if found.card is None:
        card = new_card(source.path, sha256, container, found, published, numbers)
    else:
        card = kept_card(found.card, numbers)
    meaning = weights.card
    card = replace(card, classes=meaning.classes, palette=meaning.palette, preprocessing=meaning.preprocessing)
    notes = [*container.notes, *found.state.notes, *found.match.notes]
    if published is not None:
        known = "its sha256" if published.sha256 else "the first 8 digits of its sha256"
        notes.append(f"it is torchvision's {published.model} {published.name}, by {known}")
    elif hash_in_name(source.path) not in (None, sha256[:8]):
        notes.append(f"its sha256 begins with {sha256[:8]}, not with the digits in its name")
    if any(t.element_size() == 1 for t in weights.tensors.values() if t.is_floating_point()):
        notes.append("8-bit floats are kept; call model.float() after loading, or convert with --dtype float32")
    return _Plan(found, read, replace(weights, card=card), soundness, numbers, tuple(notes))


def _told_card(found: Recognised) -> ModelCard:
    """What the configuration beside the tensors says of their meaning."""
    told, count = found.told, found.match.config.options.get("num_classes")
    if told is None:
        return ModelCard()
    named = len(told.classes) == count
    return ModelCard(
        classes=told.classes if named else (),
        palette=told.palette if named and len(told.palette) == count else (),
        preprocessing=told.preprocessing or Preprocessing(),
    )


def _changed(weights: Weights, wishes: _Wishes) -> Weights:
    """The weights as they are wanted. The names in `wishes.classes` are those of the source, if there is a map."""
    if wishes.drop_aux:
        weights = changes.drop_auxiliary(weights)
    if wishes.dtype is not None:
        weights = changes.cast(weights, wishes.dtype)
    count = weights.config.options.get("num_classes")
    assert isinstance(count, int)
    if wishes.class_map is not None:
        if wishes.classes is not None:
            weights = changes.with_class_names(weights, wishes.classes)
        rows = rows_of(wishes.class_map, weights.card.classes, count)
        return changes.with_classes(weights, rows, tuple(wishes.class_map))
    if wishes.num_classes not in (None, count):
        weights = changes.with_classes(weights, [None] * (wishes.num_classes or 0))
    return weights if wishes.classes is None else changes.with_class_names(weights, wishes.classes)


def _made(plan: _Plan, wishes: _Wishes) -> tuple[str, ...]:
    """What was done to the network after it was read, in words: it is no longer quite the one that runs for a proof."""
    before, after = plan.read.tensors, plan.weights.tensors
    cast = any(before[name].dtype != tensor.dtype for name, tensor in after.items())
    return (*plan.weights.changes, *([f"cast to {wishes.dtype}"] if cast else []))


def _report(src: Path, target: Path, source: Content, container: Container, plan: _Plan) -> ConversionReport:
    found, tensors = plan.found, plan.weights.tensors
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    return ConversionReport(
        source=str(src),
        source_sha256=source.sha256(),
        container=container.kind,
        output=str(target),
        layout=found.match.layout,
        model=plan.weights.config.name,
        options=plan.weights.config.options,
        classes=plan.weights.card.classes,
        geometry=found.match.geometry,
        tensors=len(tensors),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        dtypes=dict(sorted(dtypes.items())),
        path=found.state.path,
        stripped=found.state.stripped,
        dropped=found.state.dropped,
        ignored=found.state.ignored,
        zeroed=found.fit.zeroed,
        reshaped=found.fit.reshaped,
        cast_to=plan.numbers.cast,
        changed=plan.numbers.changed,
        proven=plan.proven,
        notes=plan.notes,
        doubts=(*plan.soundness.problems, *plan.soundness.doubts),
    )
