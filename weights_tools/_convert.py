"""Convert a checkpoint of a known network to one self-describing `.safetensors` file.

Nothing in the source is executed or guessed, and the report lists everything that was renamed. The output only gets
its final name after it was read back and compared.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from segnets.card import JSON, PREPARATION, Decoding, ModelCard, ModelConfig, assumed_fields, describe_assumed
from segnets.catalog import Published
from segnets.errors import OutputError, WeightsError
from segnets.files import check_writable_target
from segnets.forks import check_not_forked
from segnets.garbage_collection import without_garbage_collection
from segnets.preprocessing import Preprocessing
from segnets.registry import BACKBONES
from segnets.weights import write_weights_file
from weights_tools._provenance import (
    ValueChanges,
    described_card,
    find_published,
    hash_in_name,
    new_card,
    other_channels,
    updated_card,
    with_checks,
)
from weights_tools._reports import ConversionReport
from weights_tools.check.requested import CheckResults, RequestedChecks
from weights_tools.check.values import ValueCheck, check_values
from weights_tools.edit import ClassMap, Edits, Weights
from weights_tools.extract.safety import refuse_attacks
from weights_tools.extract.state_dict import find_state_dict
from weights_tools.reader import Container, Content, TensorReader, open_checkpoint, prefix_errors
from weights_tools.recognise import Recognised, recognise


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
    decoding: Decoding | None = None,
    dtype: str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    golden: str | os.PathLike[str] | None = None,
    golden_tolerance: float | None = None,
    compare_with: str | None = None,
    allow_nonfinite: bool = False,
    overwrite: bool = False,
) -> ConversionReport:
    """Write the weights in `src` to the new file `dst`, together with a description of their network.

    Args:
        src: Checkpoint of any readable container format.
        dst: Output path, ending in `.safetensors`.
        layout: Layout of the source's names, for example "timm"; "auto" recognises it.
        key: Dictionary of the file that holds the weights, if there are several.
        options: Options that the weights do not determine, such as `output_stride`, if they differ from the source
            project's defaults.
        backbone_only: Whether to leave out every head. Builders accept the result as `weights_backbone`.
        drop_aux: Whether to leave out the auxiliary classifier.
        classes: One name per class of the source, or a text file with one name per line.
        num_classes: Number of classes for newly initialised last layers, if the source has a different number.
        remap_classes: New class -> class of the source (name or number) whose rows it takes, or None for newly
            initialised rows; or a JSON file with this mapping.
        decoding: Rule that turns logits into ids, if the source does not record it, or to override it.
        dtype: Dtype to cast floating-point tensors to: "float32", "float16", "bfloat16" or "float64". By default
            every tensor keeps its bytes.
        preprocessing: Preprocessing that the network was trained with; or only the known fields of it, by name. The
            others come from the source's config, or from the source project's own scripts.
        golden: A golden file to reproduce; see `weights_tools.check.golden.check_golden`.
        golden_tolerance: Tolerance for the golden file.
        compare_with: Project whose own network must give the same outputs; see `weights_tools.compare`.
        allow_nonfinite: Whether to accept NaN and other values that no trained network has.
        overwrite: Whether to replace an existing `dst`.

    Returns:
        A report of what was written. The file also records the requested checks.

    Raises:
        WeightsError: If the source can't be converted or fails a check. Nothing was executed or written.
        OutputError: If `dst` can't be written. An existing file is untouched.
        ForkError: If this process was forked after a network had run in several threads.
    """
    check_not_forked()
    checks = RequestedChecks(golden, golden_tolerance, compare_with)
    checks.validate()
    edits = Edits.validated(
        classes=classes,
        num_classes=num_classes,
        remap_classes=remap_classes,
        drop_aux=drop_aux,
        decoding=decoding,
        dtype=dtype,
    )
    target = _check_target(Path(src), Path(dst), overwrite=overwrite)
    with without_garbage_collection():
        with open_checkpoint(src) as (content, container):
            _check_not_source(content.paths, target)
            refuse_attacks(container)
            state = find_state_dict(container, key)
            found = recognise(
                container, state, file=content.path, layout=layout, options=options, backbone_only=backbone_only
            )
            source = _read_source(content, container, found, preprocessing)
            edited = edits.apply(source.weights)
            values = _check_values(source.weights, edited, edits.dtype)
            if values.problems and not allow_nonfinite:
                raise WeightsError(
                    f"{'; '.join(values.problems)}. The file is damaged or badly trained. "
                    "Use --allow-nonfinite to convert it anyway."
                )
            results = checks.run(
                source.weights.config,
                source.weights.tensors,
                source.tensors_as_named,
                unused=found.match.unused,
                changes=edits.describe(source.weights, edited),
            )
            differences = ValueChanges(
                len(found.fit.zeroed),
                len(found.fit.reshaped),
                cast=edits.dtype,
                changed=(*found.state.computed, *edited.changes),
            )
            card = with_checks(source.card(edited.card, differences), golden=results.golden, compared=results.compared)
        with prefix_errors(src):
            write_weights_file(target, edited.tensors, edited.config, card, overwrite=overwrite)
    return _report(Path(src), source, target, replace(edited, card=card), differences, values, results)


def _check_not_source(sources: Iterable[Path], dst: Path) -> None:
    for source in sources:
        try:
            same = source.samefile(dst)
        except (OSError, ValueError):
            same = False
        if same:
            raise OutputError(f"{dst}: is the source file. Choose another name for the output.")


def _check_target(src: Path, dst: Path, *, overwrite: bool) -> Path:
    _check_not_source([src], dst)
    target = check_writable_target(dst, overwrite=overwrite)
    if target.suffix != ".safetensors":
        raise OutputError(f"{dst}: the output's name must end in .safetensors.")
    return target


@dataclass(frozen=True)
class _Source:
    """A recognised checkpoint with its tensors in memory.

    Attributes:
        content: Bytes of the checkpoint.
        container: Structure of the checkpoint.
        found: Network in the checkpoint.
        weights: Unedited weights of the network.
        published: Catalog row, if the checkpoint is a published file.
        note: Origin of the mean and standard deviation, or an empty string.
    """

    content: Content
    container: Container
    found: Recognised
    weights: Weights
    published: Published | None
    note: str = ""

    def tensors_as_named(self) -> dict[str, torch.Tensor]:
        """Read the tensors under their names in the file."""
        reader = TensorReader(self.content, self.container)
        return {name: reader.read(name, ref) for name, ref in self.found.state.tensors.items()}

    def card(self, edited: ModelCard, differences: ValueChanges) -> ModelCard:
        """Return the card of the output: provenance of this source, classes and preprocessing of `edited`."""
        if self.found.card is None:
            sha256 = self.content.sha256()
            card = new_card(self.content.path, sha256, self.container, self.found, self.published, differences)
        else:
            card = updated_card(self.found.card, differences)
        card = replace(card, classes=edited.classes, palette=edited.palette, decoding=edited.decoding)
        return card.preparing(edited.preprocessing).assuming(assumed_fields(edited))

    def notes(self) -> list[str]:
        """Return notes on the file and its network, for the report."""
        notes = [*self.container.notes, *self.found.state.notes, *self.found.match.notes]
        sha256 = self.content.sha256()
        if self.note:
            notes.append(self.note)
        if self.published is not None:
            known = "sha256" if self.published.sha256 else "the first 8 digits of its sha256"
            notes.append(f"this is torchvision's {self.published.model} {self.published.name} (same {known})")
        elif hash_in_name(self.content.path) not in (None, sha256[:8]):
            notes.append(f"the sha256 begins with {sha256[:8]}, not with the digits in the file's name")
        return notes


def _read_source(
    content: Content, container: Container, found: Recognised, given: Preprocessing | Mapping[str, Any] | None
) -> _Source:
    """Read the tensors of the recognised network and determine its card."""
    reader = TensorReader(content, container)
    tensors = {name: reader.read(name, ref) for name, ref in found.tensors.items()}
    for name in found.fit.zeroed:
        tensors[name] = torch.zeros((), dtype=torch.int64)
    for name in found.fit.reshaped:
        # A counter beyond float16's range is infinite. Only a batch norm with momentum=None would use it.
        tensors[name] = tensors[name].reshape(()).double().nan_to_num(0, 0, 0).to(torch.int64)
    config = found.match.config
    published = find_published(content.path, content.sha256(), config)
    card, note = described_card(found, published, reader)
    card = _with_preprocessing(card, given, config)
    return _Source(content, container, found, Weights(config, tensors, card), published, note)


def _with_preprocessing(
    card: ModelCard, given: Preprocessing | Mapping[str, Any] | None, config: ModelConfig
) -> ModelCard:
    """Return the card with the preprocessing fields that the caller specified.

    Raises:
        WeightsError: If a field is unknown, its value is not allowed, or the network takes a different number of
            channels.
    """
    if given is None:
        return card
    try:
        if isinstance(given, Preprocessing):
            card = card.preparing(given)
        else:
            card = card.preparing(replace(card.preprocessing, **given), given)
    except (TypeError, ValueError) as error:
        reason = str(error).removeprefix("Preprocessing.__init__() ")
        raise WeightsError(f"preprocessing: {reason}") from None
    misfit = other_channels(config, card)
    if misfit and "mean" in (PREPARATION if isinstance(given, Preprocessing) else given):
        raise WeightsError(misfit)
    return card


def _check_values(source: Weights, edited: Weights, dtype: str | None) -> ValueCheck:
    """Check the source's values and, after a cast, the output's too, because small values may have become 0."""
    check = check_values(source.tensors)
    if dtype is None or check.problems:
        return check
    after = check_values(edited.tensors)
    return replace(after, problems=tuple(f"cast to {dtype}, {each}" for each in after.problems))


def _name_of(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _report(
    src: Path,
    source: _Source,
    target: Path,
    edited: Weights,
    differences: ValueChanges,
    values: ValueCheck,
    results: CheckResults,
) -> ConversionReport:
    found, tensors = source.found, edited.tensors
    prepares = edited.config.name not in BACKBONES
    dtypes = Counter(map(_name_of, tensors.values()))
    notes = source.notes()
    others = sorted({name for t in tensors.values() if t.is_floating_point() and (name := _name_of(t)) != "float32"})
    if others:
        notes.append(
            f"the weights are kept in {', '.join(others)}. segnets.load makes a float32 model of them; "
            "load(..., dtype=None) keeps their dtype, and convert --dtype float32 changes the file"
        )
    if misfit := other_channels(edited.config, edited.card):
        notes.append(misfit)
    return ConversionReport(
        source=str(src),
        source_sha256=source.content.sha256(),
        container=source.container.kind,
        output=str(target),
        layout=found.match.layout,
        model=edited.config.name,
        options=edited.config.options,
        classes=edited.card.classes,
        decoding=None if edited.card.decoding is None else edited.card.decoding.to_json(),
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
        cast_to=differences.cast,
        changed=differences.changed,
        preprocessing=edited.card.preprocessing.to_json() if prepares else {},
        assumed=describe_assumed(edited.card),
        proven=results.texts,
        notes=tuple(notes),
        doubts=(*values.problems, *values.doubts),
    )
