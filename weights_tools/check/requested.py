"""Output checks that a conversion can run on request: a golden file, or a project's own network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from weights_tools.check.outputs import NO_LOGITS

if TYPE_CHECKING:
    from weights_tools.check.peer import PeerComparison


@dataclass(frozen=True)
class CheckResults:
    """Records of the checks that passed.

    Attributes:
        golden: Record of the golden file, for the converted file; None if there was none.
        compared: Records of comparisons by project, for the converted file.
        texts: One sentence per check, for the report.
    """

    golden: dict[str, JSON] | None = None
    compared: Mapping[str, dict[str, JSON]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RequestedChecks:
    """Checks requested by the caller of a conversion.

    Attributes:
        golden: Golden file to reproduce; see `check.golden.check_golden`.
        tolerance: Tolerance for the golden file, or None for the default.
        project: Project whose own network to compare with; see `check.peer.compare_with_peer`.
    """

    golden: str | os.PathLike[str] | None = None
    tolerance: float | None = None
    project: str | None = None

    def validate(self) -> None:
        """Check the request before anything is read.

        Raises:
            WeightsError: If a tolerance comes without a golden file, or the project is unknown or not installed.
        """
        if self.tolerance is not None and self.golden is None:
            raise WeightsError("golden_tolerance requires golden, the file to compare with")
        if self.project is not None:
            from weights_tools.check.peers import find_peer

            find_peer(self.project)

    def run(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Tensor],
        read_source: Callable[[], Mapping[str, Tensor]],
        *,
        unused: Sequence[str] = (),
        changes: Sequence[str] = (),
    ) -> CheckResults:
        """Run the unedited network and check its outputs.

        Args:
            config: Configuration of the network in segnets.
            tensors: Tensors of the network.
            read_source: Function that returns the source's tensors under its own names; only called to compare with a
                project.
            unused: Names of the source's tensors that the conversion leaves out.
            changes: Descriptions of the edits that follow; the records state that the check ran before them.

        Raises:
            WeightsError: If the outputs differ from the source's.
        """
        if self.golden is None and self.project is None:
            return CheckResults()  # skip the imports below
        from weights_tools.check.network import build_network

        before: dict[str, JSON] = {"before": list(changes)} if changes else {}
        suffix = f"; measured before: {', '.join(changes)}" if changes else ""
        model = build_network(config, tensors)
        golden_record: dict[str, JSON] | None = None
        compared: dict[str, dict[str, JSON]] = {}
        texts = []
        if self.golden is not None:
            from weights_tools.check.golden import check_golden

            given = {} if self.tolerance is None else {"tolerance": self.tolerance}
            golden = check_golden(self.golden, model, **given)
            golden_record = {**golden.to_json(), **before}
            texts.append(f"golden file: {golden}{suffix}")
        if self.project is not None:
            comparison = _compare(self.project, read_source(), config, model, unused)
            if not comparison.holds:
                raise WeightsError(comparison.verdict)
            compared[self.project] = {**comparison.to_json(), **before}
            peer = f"{comparison.project} {comparison.version}{_assumptions(comparison.assumed)}"
            texts.append(f"compared with {peer}: {comparison.verdict}{suffix}")
        return CheckResults(golden_record, compared, tuple(texts))


def _compare(
    project: str, theirs: Mapping[str, Tensor], config: ModelConfig, model: nn.Module, unused: Sequence[str]
) -> PeerComparison:
    """Compare with the project's network; for a backbone alone, without the omitted tensors.

    Raises:
        WeightsError: If the project has no network without those tensors.
    """
    from weights_tools.check.peer import check_loads_into_peer, compare_with_peer

    if not unused or config.options.get("num_classes") != 0:
        return compare_with_peer(project, theirs, config, model)
    features = {name: theirs[name] for name in theirs.keys() - set(unused)}
    try:
        check_loads_into_peer(project, features, config)
    except WeightsError:
        raise WeightsError(NO_LOGITS) from None
    return compare_with_peer(project, features, config, model)


def _assumptions(assumed: Mapping[str, JSON]) -> str:
    """List the options that the project's network takes from ours: if they are wrong, both networks are."""
    options = ", ".join(f"{name}={value}" for name, value in assumed.items())
    return f" (assuming {options}, which the weights do not show)" if options else ""
