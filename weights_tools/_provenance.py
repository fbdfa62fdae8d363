"""What a converted file says of where it came from, and of what was proven about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import segnets
from segnets.card import JSON, ModelCard, ModelConfig
from segnets.catalog import CATALOG, Published
from segnets.errors import WeightsError
from segnets.weights.geometry import other_geometry
from weights_tools._text import printable
from weights_tools.extract.state_dict import StateDict
from weights_tools.reader import Container
from weights_tools.recognise._recognise import Recognised

# The kinds of proof in a file: that the tensors are the source's; by results that the source gave; beside its network.
TENSORS, GOLDEN, COMPARED = "tensors", "golden", "compared"


def find_published(path: Path, sha256: str, config: ModelConfig) -> Published | None:
    """Return the published file that this is, under whatever name, if `config` is the network that it is for.

    Raises WeightsError if it has the full name of a published file and other content: then it is damaged.
    """
    for row in CATALOG:
        if sha256.startswith(row.sha256 or row.hash_prefix):
            if row.model == config.name and not other_geometry(config, row.config(), ""):
                return row
        elif row.file == path.name:
            raise WeightsError(
                f"it has the name of a published file but its sha256 begins with {sha256[:8]}, not {row.hash_prefix}: "
                "it is damaged or another file; download it again, or rename it if it is yours"
            )
    return None


def new_card(
    path: Path, sha256: str, container: Container, found: Recognised, published: Published | None, numbers: Numbers
) -> ModelCard:
    """The card of weights that come from elsewhere."""
    match = found.match
    provenance: dict[str, JSON] = {
        "layout": match.layout,
        "layout_version": match.version,
        "geometry": dict(match.geometry),
        "container": container.kind,
        "source_file": printable(path.name, quote=False),
        "source_sha256": sha256,
        "tool": f"weights_tools of segnets {segnets.__version__}",
        "proof": {TENSORS: numbers.proof()},
        **_taken_off(found.state),
        **numbers.changes(),
    }
    if published is None:
        return ModelCard(provenance=provenance)
    card = published.card()
    known = dict(card.provenance)
    if numbers.changed:  # then it is no longer what was published
        known["made_of"] = known.pop("published_as")
    return replace(card, provenance={**known, **provenance})


def kept_card(card: ModelCard, numbers: Numbers) -> ModelCard:
    """The card of a file of segnets; what it proves is not true of tensors that were changed."""
    changes = numbers.changes()
    if not changes:
        return card
    derived = card.derived()
    return replace(derived, provenance={**derived.provenance, **changes})


def proofs(card: ModelCard) -> dict[str, JSON]:
    """What is proven of the weights: of the tensors themselves, by a golden file, by comparing with projects."""
    known = card.provenance.get("proof")
    if isinstance(known, str):  # files of before there were several
        return {TENSORS: known}
    return dict(known) if isinstance(known, dict) else {}


def with_comparison(card: ModelCard, project: str, entry: dict[str, JSON]) -> ModelCard:
    """The card with a comparison in it, in place of an older one with the same project."""
    older = proofs(card).get(COMPARED)
    return _with_proof(card, COMPARED, {**(older if isinstance(older, dict) else {}), project: entry})


def with_golden(card: ModelCard, entry: dict[str, JSON]) -> ModelCard:
    """The card with the comparison with a kept result in it, in place of an older one."""
    return _with_proof(card, GOLDEN, entry)


def _with_proof(card: ModelCard, kind: str, proof: dict[str, JSON]) -> ModelCard:
    return replace(card, provenance={**card.provenance, "proof": {**proofs(card), kind: proof}})


@dataclass(frozen=True)
class Numbers:
    """What differs in the numbers themselves from those of the source; every tensor is compared after it is written.

    zeroed, reshaped: batch norm counters that were absent, or no int64 without dimensions. cast: the dtype asked for.
    changed: what was changed on request.
    """

    zeroed: int = 0
    reshaped: int = 0
    cast: str | None = None
    changed: tuple[str, ...] = ()

    def changes(self) -> dict[str, JSON]:
        made: dict[str, JSON] = {
            "counters_set_to_0": self.zeroed,
            "counters_made_int64": self.reshaped,
            "cast_to": self.cast,
            "changed": list(self.changed),
        }
        return {name: change for name, change in made.items() if change}

    def proof(self) -> str:
        done = "renamed only; every tensor byte-equal to the source's"
        if self.cast is not None:
            done = f"cast to {self.cast}"
        but = list(self.changed)
        if self.zeroed:
            but.append(f"{self.zeroed} absent batch norm counters set to 0")
        if self.reshaped:
            but.append(f"{self.reshaped} batch norm counters made int64")
        return f"{done}, but for {' and '.join(but)}" if but else done


def _taken_off(state: StateDict) -> dict[str, JSON]:
    taken: dict[str, JSON] = {
        "key": ".".join(state.path),
        "stripped": "".join(state.stripped),
        "dropped": list(state.dropped),
    }
    return {name: what for name, what in taken.items() if what}
