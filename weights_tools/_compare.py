"""Compare a converted file with its source, run in its project's own network.

The result can be recorded in the converted file, for everyone who receives the file.
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
from weights_tools._provenance import with_checks
from weights_tools.check.outputs import OutputComparison
from weights_tools.check.peer import PeerComparison, Size, compare_with_peer
from weights_tools.check.peers import HIDDEN_OPTIONS, find_peer
from weights_tools.extract.safety import refuse_attacks
from weights_tools.extract.state_dict import StateDict, find_state_dict, inner_networks
from weights_tools.reader import Container, TensorReader, open_checkpoint, prefix_errors


@dataclass(frozen=True)
class CompareReport:
    """Result of a comparison.

    Attributes:
        source: Path of the checkpoint.
        target: Path of the converted file.
        network: Short description of the converted network.
        project: Project whose own network was compared.
        version: Installed version of the project.
        call: Call that built the project's network, with every argument.
        assumed: Options that the weights do not show. The project's network used the converted file's values if it
            could.
        measured: One comparison per output, size and dtype.
        holds: Whether all outputs are the same within the tolerance.
        verdict: The result in one sentence.
        recorded: Whether the result was recorded in the converted file.
    """

    source: str
    target: str
    network: str
    project: str
    version: str
    call: str
    assumed: Mapping[str, JSON]
    measured: tuple[OutputComparison, ...]
    holds: bool
    verdict: str
    recorded: bool = False

    def to_json(self) -> dict[str, JSON]:
        """Return the report as plain lists, numbers and strings."""
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
            rows.append(("assumed", f"{options}: the weights do not show these; --argument NAME=VALUE sets others"))
        rows += [(each.output, str(each)) for each in self.measured]
        rows.append(("result", self.verdict))
        if self.recorded:
            rows.append(("recorded", f"in {self.target}; its tensors are unchanged"))
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
    """Run a checkpoint in its project's own network and the converted file in ours, on the same images.

    Args:
        src: Checkpoint of the project.
        dst: File that `convert` wrote from it.
        project: "torchvision", "timm", "smp", "mmseg" or "transformers"; must be installed.
        sizes: (height, width) of the images; by default even and odd sizes that suit the network.
        arguments: Known arguments of the project's network under its own names, for example "encoder_output_stride" or
            "backbone.depth". All others follow the options that `dst` records.
        record: Whether to record equal outputs in `dst`, replacing an older record of this project. The tensors keep
            their bytes.

    Raises:
        WeightsError: If a file can't be read, `dst` was not made from `src`, or the project is not installed or lacks
            the network. Differing outputs are not an error: see `CompareReport.holds`.
        OutputError: If the record can't be written.
    """
    find_peer(project)  # fail before anything is computed
    if record:
        check_writable_target(dst)
    with without_garbage_collection():
        before = _identity(Path(dst))
        ours = segnets.load(dst, dtype=None)
        config, card = _described(ours, dst)
        _check_unchanged(config, card, dst)
        with open_checkpoint(src) as (source, container):
            refuse_attacks(container)
            _check_origin(card, source.sha256(), dst)
            theirs = _read_source(container, TensorReader(source, container), card)
        with prefix_errors(dst):
            comparison = compare_with_peer(project, theirs, config, ours, sizes=sizes, arguments=arguments)
        recorded = record and comparison.holds
        if recorded:
            _record(Path(dst), before, comparison)
    return CompareReport(
        source=str(src),
        target=str(dst),
        network=describe(config),
        project=comparison.project,
        version=comparison.version,
        call=comparison.call,
        assumed=comparison.assumed,
        measured=comparison.measured,
        holds=comparison.holds,
        verdict=comparison.verdict,
        recorded=recorded,
    )


def _described(model: object, dst: str | os.PathLike[str]) -> tuple[ModelConfig, ModelCard]:
    config, card = getattr(model, "config", None), getattr(model, "card", None)
    if not isinstance(config, ModelConfig) or not isinstance(card, ModelCard):
        raise WeightsError(f"{dst}: the file does not record its network. Convert the source again.")
    return config, card


def _origin(card: ModelCard) -> Mapping[str, JSON]:
    """Return the provenance entries about the source, even if the file has been loaded and saved again."""
    provenance: Mapping[str, JSON] = card.provenance
    for _ in range(8):
        inner = provenance.get("derived_from")
        if "source_sha256" in provenance or not isinstance(inner, dict):
            break
        provenance = inner
    return provenance


def _check_origin(card: ModelCard, sha256: str, dst: str | os.PathLike[str]) -> None:
    """Refuse a converted file that was made from a different source."""
    origin = _origin(card)
    stated = origin.get("source_sha256")
    if not isinstance(stated, str):
        raise WeightsError(f"{dst} does not record which file it was made from. Compare a file that `convert` wrote.")
    if stated != sha256:
        name = origin.get("source_file")
        raise WeightsError(
            f"{dst} was not made from this file but from {name if isinstance(name, str) else 'a different one'}: the "
            f"sha256 begins with {sha256[:8]}, and that of the source of {dst} with {stated[:8]}"
        )


def _check_unchanged(config: ModelConfig, card: ModelCard, dst: str | os.PathLike[str]) -> None:
    """Refuse a converted file whose options changed after the conversion.

    The project's network follows these options where it can, so both networks would change alike.
    """
    geometry = _origin(card).get("geometry")
    for name, value in (geometry if isinstance(geometry, dict) else {}).items():
        if name in HIDDEN_OPTIONS and name in config.options and config.options[name] != value:
            raise WeightsError(
                f"{dst}: the options were changed after the conversion: {name}={config.options[name]}, but the "
                f"conversion used {value}. Convert the source again."
            )


def _read_source(container: Container, reader: TensorReader, card: ModelCard) -> dict[str, Tensor]:
    """Read the network's tensors under the source's names, without prefixes of wrappers."""
    origin = _origin(card)
    key, stripped = origin.get("key"), origin.get("stripped") or ""
    state = find_state_dict(container, key if isinstance(key, str) else None)
    for candidate in (state, *inner_networks(state)):
        if "".join(candidate.stripped) == stripped:
            return _read(reader, candidate)
    raise WeightsError(f"the file has no network under {stripped!r}, but had one when it was converted")


def _read(reader: TensorReader, state: StateDict) -> dict[str, Tensor]:
    return {name: reader.read(name, ref) for name, ref in state.tensors.items()}


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None  # `load` below raises the error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _record(path: Path, before: tuple[int, ...] | None, comparison: PeerComparison) -> None:
    file = read_weights_file(path)
    if _identity(path) != before or file.config is None or file.card is None:
        raise WeightsError(
            f"{path}: the file was changed during the comparison, so nothing was recorded. Compare it again."
        )
    card = with_checks(file.card, compared={comparison.project: comparison.to_json()})
    write_weights_file(path, file.tensors, file.config, card, overwrite=True)
