"""The passes that rewrite a network for deployment, in order, for each format and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from segnets.deploy.passes import (
    activations,
    aspp,
    convolutions,
    fuse_cudnn,
    fuse_onednn,
    lraspp,
    pooling,
    residual,
    simplify,
    wrap,
)
from segnets.deploy.passes.context import Context, Outcome
from segnets.model import SegmentationModel


@dataclass(frozen=True)
class Pass:
    """One step of a pipeline.

    Attributes:
        apply: Function that rewrites a network, usually in place, and counts its changes.
        reason: Reason for its place in the order.
        any_network: Whether the pass also applies to networks other than a SegmentationModel; else it skips them.
    """

    apply: Callable[[nn.Module, Context], Outcome]
    reason: str
    any_network: bool = True

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.apply.__name__


@dataclass(frozen=True)
class Done:
    """The changes that one pass made.

    Attributes:
        name: Name of the pass.
        counts: Number of changes by kind.
    """

    name: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Rewritten:
    """A rewritten network.

    Attributes:
        network: The network in its deployed form.
        done: The changes of each pass, in the order of the pipeline.
    """

    network: nn.Module
    done: tuple[Done, ...]

    def count(self, name: str, kind: str | None = None) -> int:
        """Return how many changes a pass made.

        Args:
            name: Name of the pass.
            kind: Kind of change; None for all kinds together.

        Raises:
            KeyError: If the pipeline has no such pass.
        """
        counts = {done.name: done.counts for done in self.done}[name]
        return sum(counts.values()) if kind is None else counts.get(kind, 0)


# Passes for every format. The simpler network has plain layers and still runs in torch.
COMMON = (
    Pass(simplify.copy_for_evaluation, "First: the other passes change the network in place."),
    Pass(simplify.drop_aux_classifier, "Before fold_batch_norms, which would needlessly fold the classifier's norm."),
    Pass(simplify.remove_dropouts, "Before pool_apart, which splits ASPP's projection only if no dropout follows it."),
    Pass(simplify.fold_batch_norms, "Before every pass that replaces or splits a convolution."),
    Pass(lraspp.classify_before_resizing, "Anywhere: it reorders layers without changing them."),
    Pass(aspp.pool_apart, "After fold_batch_norms: it splits a convolution that a norm is folded into."),
)

PIPELINES: Mapping[tuple[str, str], tuple[Pass, ...]] = {
    ("torchscript", "portable"): (
        *COMMON,
        Pass(lraspp.gate_in_place, "Anywhere: no other pass looks at gates.", any_network=False),
        Pass(convolutions.use_winograd, "After every pass that looks for convolutions.", any_network=False),
        Pass(wrap.lay_out_channels_last, "Last: it keeps only the rewritten parts of the network.", any_network=False),
    ),
    ("torchscript", "cpu"): (
        *COMMON,
        Pass(wrap.require_segmentation_model, "Before any work for a network that is refused."),
        Pass(pooling.average_by_window, "Anywhere: no other pass looks at poolings."),
        Pass(lraspp.gate_in_place, "Before fuse_convolutions, after which the network can't run in Python."),
        Pass(residual.fuse_additions, "Before fuse_convolutions, which lowers each addition with its convolution."),
        Pass(aspp.broadcast_pooled_branches, "Before fuse_convolutions, for the same reason."),
        Pass(fuse_onednn.fuse_convolutions, "After every pass that runs the network or replaces a convolution."),
        Pass(wrap.resize_by_lines, "Last: it keeps only the rewritten parts of the network."),
    ),
    ("torchscript", "cuda"): (
        *COMMON,
        Pass(wrap.require_segmentation_model, "Before any work for a network that is refused."),
        Pass(residual.fuse_additions, "Before fuse_convolutions, which lowers each addition with its convolution."),
        Pass(
            fuse_cudnn.merge_shortcut_biases, "After fuse_additions, and before fuse_convolutions lowers the additions."
        ),
        Pass(fuse_cudnn.fuse_convolutions, "Before compute_in_precision, which converts the new weights."),
        Pass(wrap.compute_in_precision, "Last: it converts every weight."),
    ),
    ("aoti", "cpu"): (
        *COMMON,
        Pass(convolutions.choose_forms, "Before compute_in_precision, which converts the new weights."),
        Pass(pooling.average_by_lines, "Anywhere: no other pass looks at poolings."),
        Pass(wrap.compute_in_precision, "After every pass that makes weights: it converts them."),
        Pass(wrap.return_logits, "Last: passes that run the network expect its dictionary."),
    ),
    ("onnx", "portable"): (
        *COMMON,
        Pass(activations.activate_out_of_place, "Anywhere: no other pass of ONNX looks at activations."),
        Pass(pooling.average_in_onnx, "After passes that run the network: ONNX's pooling computes nothing in torch."),
        Pass(wrap.return_logits, "Last: passes that run the network expect its dictionary."),
    ),
}


def rewrite(model: nn.Module, context: Context) -> Rewritten:
    """Rewrite a copy of a model for deployment.

    Args:
        model: Model that returns {"out": logits}; it is not changed.
        context: Deployment to rewrite it for; its format and target select the pipeline.

    Returns:
        A network that computes the same function, up to the last bits, and the changes of each pass.

    Raises:
        ExportError: If the model doesn't run, returns something else, or has parts that a pass needs and doesn't find.
    """
    network, done = model, []
    for each in PIPELINES[context.format, context.target]:
        applies = each.any_network or isinstance(network, SegmentationModel)
        outcome = each.apply(network, context) if applies else Outcome(network)
        network = outcome.network
        done.append(Done(each.name, outcome.counts))
    return Rewritten(network, tuple(done))
