"""The proofs that a conversion can be asked for, before its output has a name: a golden file, a project's network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from weights_tools._provenance import with_comparison, with_golden
from weights_tools.check.outputs import NO_SCORES
from weights_tools.edit.weights import Weights
from weights_tools.reader.tensors import TensorReader
from weights_tools.recognise._recognise import Recognised

if TYPE_CHECKING:
    from weights_tools.check.peer import Proof


@dataclass(frozen=True)
class Proven:
    """What was proven, for the file, and the same in words."""

    golden: dict[str, JSON] | None = None
    compared: Mapping[str, dict[str, JSON]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    def into(self, weights: Weights) -> Weights:
        """The weights with a card that says it."""
        card = weights.card if self.golden is None else with_golden(weights.card, self.golden)
        for project, proof in self.compared.items():
            card = with_comparison(card, project, proof)
        return replace(weights, card=card)


@dataclass(frozen=True)
class WantedProof:
    """golden: a file with an input and an output; tolerance: of that. project: whose network is to run beside ours."""

    golden: str | os.PathLike[str] | None = None
    tolerance: float | None = None
    project: str | None = None

    def check(self) -> None:
        """Raise WeightsError for what could not be done, before anything is read."""
        if self.tolerance is not None and self.golden is None:
            raise WeightsError("a tolerance was given, but no golden file to hold it to")
        if self.project is not None:
            from weights_tools.check.peers import find_project

            find_project(self.project)

    def prove(self, weights: Weights, found: Recognised, reader: TensorReader, made: Sequence[str] = ()) -> Proven:
        """Run the network as it was read, before its classes or its dtype were changed.

        made: these changes, in words; a proof that was measured before them says so.

        Raises WeightsError if it gives other results than its source.
        """
        if self.golden is None and self.project is None:
            return Proven()  # without the imports that running needs
        from weights_tools.check.peer import explain, network_of

        before: dict[str, JSON] = {"before": list(made)} if made else {}
        since = f"; measured before: {', '.join(made)}" if made else ""
        model = network_of(weights.config, weights.tensors)
        kept: dict[str, JSON] | None = None
        compared: dict[str, dict[str, JSON]] = {}
        texts = []
        if self.golden is not None:
            from weights_tools.check.golden import check_golden

            given = {} if self.tolerance is None else {"tolerance": self.tolerance}
            golden = check_golden(self.golden, model, **given)
            kept = {**golden.to_json(), **before}
            texts.append(f"golden file: {golden}{since}")
        if self.project is not None:
            theirs = {name: reader.read(name, ref) for name, ref in found.state.tensors.items()}
            proof = _beside(self.project, theirs, weights.config, model, found.match.unused)
            if not proof.holds:
                raise WeightsError(explain(proof))
            compared[self.project] = {**proof.to_json(), **before}
            texts.append(f"beside {proof.project} {proof.version}{_assuming(proof.assumed)}: {explain(proof)}{since}")
        return Proven(kept, compared, tuple(texts))


def _beside(
    project: str, theirs: dict[str, Tensor], config: ModelConfig, model: nn.Module, unused: Sequence[str]
) -> Proof:
    """The comparison with a project; of a backbone, without what was left out, where the project can do without it."""
    from weights_tools.check.peer import check_fits, prove

    if not unused or config.options.get("num_classes") != 0:
        return prove(project, theirs, config, model)
    features = {name: theirs[name] for name in theirs.keys() - set(unused)}
    try:
        check_fits(project, features, config)
    except WeightsError:
        raise WeightsError(NO_SCORES) from None
    return prove(project, features, config, model)


def _assuming(assumed: Mapping[str, JSON]) -> str:
    """That the project's network got these options from ours: with others, both might be wrong together."""
    options = ", ".join(f"{name}={value}" for name, value in assumed.items())
    return f", assuming {options}, which no tensor shows" if options else ""
