"""What a converted file says of how it was proven: of its tensors, by other projects' networks, by a kept result.

Under "proof" in the provenance stands a text while only the tensors were compared, and from the first run of a network
on a dictionary: "tensors" is that text, "compared" has one entry for each project, "golden" is the kept result.
"""

from __future__ import annotations

from dataclasses import replace

from segnets.card import JSON, ModelCard

PROOF, OF_TENSORS, COMPARED, GOLDEN = "proof", "tensors", "compared", "golden"


def with_comparison(card: ModelCard, project: str, entry: dict[str, JSON]) -> ModelCard:
    """The card with a comparison in it, in place of an older one with the same project."""
    parts = _parts(card)
    older = parts.get(COMPARED)
    parts[COMPARED] = {**(older if isinstance(older, dict) else {}), project: entry}
    return _with(card, parts)


def with_golden(card: ModelCard, entry: dict[str, JSON]) -> ModelCard:
    """The card with the comparison with a kept result in it, in place of an older one."""
    return _with(card, {**_parts(card), GOLDEN: entry})


def _parts(card: ModelCard) -> dict[str, JSON]:
    before = card.provenance.get(PROOF)
    if isinstance(before, dict):
        return dict(before)
    return {OF_TENSORS: before} if isinstance(before, str) else {}


def _with(card: ModelCard, parts: dict[str, JSON]) -> ModelCard:
    return replace(card, provenance={**card.provenance, PROOF: parts})
