"""`compare`: a checkpoint in its project's own network, and the file that it was converted to in ours, side by side.

What comes out may be written into the converted file, so that whoever gets it knows what was proven of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

import segnets
from segnets.card import JSON, ModelCard, ModelConfig
from segnets.errors import WeightsError
from segnets.files import check_writable_target
from segnets.garbage_collection import without_garbage_collection
from segnets.weights import read_weights_file, write_weights_file
from segnets.weights.geometry import describe
from weights_tools._provenance import with_comparison
from weights_tools.check.outputs import Measured
from weights_tools.check.peer import Proof, Size, explain, prove
from weights_tools.check.peers import UNSEEN, find_project
from weights_tools.extract.safety import refuse_attacks
from weights_tools.extract.state_dict import StateDict, find_state_dict, inner_networks
from weights_tools.reader import Container, TensorReader, open_checkpoint, prefix_errors


@dataclass(frozen=True)
class CompareReport:
    """What a comparison gave.

    source, target: the files. network: the converted one, in few words. project, version: whose network ran beside it;
    call: what made that, every argument written out. assumed: what no tensor shows, as the converted file has it and
    as the project's network got it, where the project leaves a choice. measured: every result at every size.
    holds: whether they are the same. verdict: one sentence. recorded: whether the proof now stands in the converted
    file.
    """

    source: str
    target: str
    network: str
    project: str
    version: str
    call: str
    assumed: Mapping[str, JSON]
    measured: tuple[Measured, ...]
    holds: bool
    verdict: str
    recorded: bool = False

    def to_json(self) -> dict[str, JSON]:
        """Plain lists, numbers and strings."""
        record: dict[str, JSON] = asdict(replace(self, measured=()))
        return {**record, "assumed": dict(self.assumed), "measured": [each.to_json() for each in self.measured]}

    def __str__(self) -> str:
        rows = [
            ("compared", self.source),
            ("in", f"{self.project} {self.version}: {self.call}"),
            ("with", self.target),
            ("in", f"segnets {segnets.__version__}: {self.network}"),
        ]
        if self.assumed:
            options = ", ".join(f"{name}={value}" for name, value in self.assumed.items())
            rows.append(("assumed", f"{options}: no tensor shows these; --argument NAME=VALUE says other ones"))
        rows += [(each.output, str(each)) for each in self.measured]
        rows.append(("result", self.verdict))
        if self.recorded:
            rows.append(("recorded", f"in {self.target}, whose tensors are what they were"))
        return "\n".join(f"{title:<11}{text}" for title, text in rows)


def compare(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    project: str,
    sizes: Sequence[Size] | None = None,
    arguments: Mapping[str, JSON] | None = None,
    record: bool = False,
) -> CompareReport:
    """Run `src` in its project's own network beside `dst`, the file that it was converted to, on the same images.

    project: "torchvision", "timm", "smp", "mmseg" or "transformers", which has to be installed. sizes: (height, width)
    of the images, by default even and odd ones that suit the network. arguments: of the project's network, by their
    own names ("encoder_output_stride", "backbone.depth"), where they are known: the others follow the options that
    `dst` records. record: if the results are the same, write that into `dst`, in place of an older proof with this
    project; its tensors stay as they are, byte for byte.

    Raises WeightsError if one of the files can't be read, if `dst` was not made of `src`, or if the project is not
    installed or has no such network; OutputError if the proof can't be written. Results that differ are no error: see
    `CompareReport.holds`.
    """
    find_project(project)  # what is wrong with the call comes before all the computing
    if record:
        check_writable_target(dst)
    with without_garbage_collection():
        before = _identity(Path(dst))
        ours = segnets.load(dst)
        config, card = _described(ours, dst)
        _check_unchanged(config, card, dst)
        with open_checkpoint(src) as (source, container):
            refuse_attacks(container)
            _check_origin(card, source.sha256(), dst)
            theirs = _tensors(container, TensorReader(source, container), card)
        with prefix_errors(dst):
            proof = prove(project, theirs, config, ours, sizes=sizes, arguments=arguments)
        done = record and proof.holds
        if done:
            _record(Path(dst), before, proof)
    return CompareReport(
        source=str(src),
        target=str(dst),
        network=describe(config),
        project=proof.project,
        version=proof.version,
        call=proof.call,
        assumed=proof.assumed,
        measured=proof.measured,
        holds=proof.holds,
        verdict=explain(proof),
        recorded=done,
    )


def _described(model: object, dst: str | os.PathLike[str]) -> tuple[ModelConfig, ModelCard]:
    config, card = getattr(model, "config", None), getattr(model, "card", None)
    if not isinstance(config, ModelConfig) or not isinstance(card, ModelCard):
        raise WeightsError(f"{dst}: does not say which network it is for; convert it again")
    return config, card


def _origin(card: ModelCard) -> Mapping[str, JSON]:
    """What the file says of its source, also where it was loaded and saved again since."""
    provenance: Mapping[str, JSON] = card.provenance
    for _ in range(8):
        inner = provenance.get("derived_from")
        if "source_sha256" in provenance or not isinstance(inner, dict):
            break
        provenance = inner
    return provenance


def _check_origin(card: ModelCard, sha256: str, dst: str | os.PathLike[str]) -> None:
    """Raise WeightsError, naming the source, if the converted file was made of another one."""
    origin = _origin(card)
    stated = origin.get("source_sha256")
    if not isinstance(stated, str):
        raise WeightsError(f"{dst} does not say of which file it was made; compare a file that `convert` wrote")
    if stated != sha256:
        name = origin.get("source_file")
        raise WeightsError(
            f"{dst} was not made of it but of {name if isinstance(name, str) else 'another file'}: its sha256 begins "
            f"with {sha256[:8]}, and that of the source of {dst} with {stated[:8]}"
        )


def _check_unchanged(config: ModelConfig, card: ModelCard, dst: str | os.PathLike[str]) -> None:
    """Raise WeightsError if the options are no longer those that the conversion settled on.

    The project's network follows the options, so where it has a choice both would change together.
    """
    geometry = _origin(card).get("geometry")
    for name, value in (geometry if isinstance(geometry, dict) else {}).items():
        if name in UNSEEN and name in config.options and config.options[name] != value:
            raise WeightsError(
                f"{dst}: its options were changed since it was converted: {name}={config.options[name]}, and the "
                f"conversion settled on {value}; convert it again"
            )


def _tensors(container: Container, reader: TensorReader, card: ModelCard) -> dict[str, Tensor]:
    """The tensors of the network under the names that they have in the source, prefixes of wrappers taken off."""
    origin = _origin(card)
    key, stripped = origin.get("key"), origin.get("stripped") or ""
    state = find_state_dict(container, key if isinstance(key, str) else None)
    for candidate in (state, *inner_networks(state)):
        if "".join(candidate.stripped) == stripped:
            return _read(reader, candidate)
    raise WeightsError(f"it holds no network under {stripped!r} as it did when it was converted")


def _read(reader: TensorReader, state: StateDict) -> dict[str, Tensor]:
    return {name: reader.read(name, ref) for name, ref in state.tensors.items()}


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None  # `load` says what is wrong with it
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _record(path: Path, before: tuple[int, ...] | None, proof: Proof) -> None:
    file = read_weights_file(path)
    if _identity(path) != before or file.config is None or file.card is None:
        raise WeightsError(f"{path}: was changed while it was compared, so nothing was recorded; compare it again")
    card = with_comparison(file.card, proof.project, proof.to_json())
    write_weights_file(path, file.tensors, file.config, card, overwrite=True)
