"""The order of the passes for each format and target, and the counts that they report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from segnets.deploy.passes.aspp import BroadcastBranch, FusedPooledApart, PooledApart
from segnets.deploy.passes.context import Context
from segnets.deploy.passes.convolutions import OnePixelConv, Pieces
from segnets.deploy.passes.fuse_cudnn import ConvAddReLU, ConvReLU
from segnets.deploy.passes.fuse_onednn import FusedConv, FusedConvAdd
from segnets.deploy.passes.lraspp import ClassifiedFirst, GateInPlace
from segnets.deploy.passes.pipeline import PIPELINES, rewrite
from segnets.deploy.passes.pooling import GridAverage, MeanByLines, MeanByWindow, WholeAverage
from segnets.deploy.passes.residual import FusedResidual
from segnets.deploy.passes.winograd import WinogradConv, WinogradMatrices, WinogradProducts
from segnets.deploy.passes.wrap import Deployed, DeployedInGroups, LogitsOnly
from tests.deploy.common import calm_model
from tests.tiers import full_but

COMMON = [
    "copy_for_evaluation",
    "drop_aux_classifier",
    "remove_dropouts",
    "fold_batch_norms",
    "classify_before_resizing",
    "pool_apart",
]
ORDER = {
    ("torchscript", "portable"): [*COMMON, "gate_in_place", "use_winograd", "lay_out_channels_last"],
    ("torchscript", "cpu"): [
        *COMMON,
        "require_segmentation_model",
        "average_by_window",
        "gate_in_place",
        "fuse_additions",
        "broadcast_pooled_branches",
        "fuse_convolutions",
        "resize_by_lines",
    ],
    ("torchscript", "cuda"): [
        *COMMON,
        "require_segmentation_model",
        "fuse_additions",
        "merge_shortcut_biases",
        "fuse_convolutions",
        "compute_in_precision",
    ],
    ("aoti", "cpu"): [*COMMON, "choose_forms", "average_by_lines", "compute_in_precision", "return_logits"],
    ("onnx", "portable"): [*COMMON, "activate_out_of_place", "average_in_onnx", "return_logits"],
}


def test_order() -> None:
    assert {key: [each.name for each in passes] for key, passes in PIPELINES.items()} == ORDER
    assert all(each.reason for passes in PIPELINES.values() for each in passes)


Count = Callable[[nn.Module], int]


def number_of(*types: type[nn.Module]) -> Count:
    return lambda network: sum(type(module) in types for module in network.modules())


def minus(count: Count) -> Count:
    return lambda network: -count(network)


def biases(network: nn.Module) -> int:
    shortcuts = [module.shortcut for module in network.modules() if isinstance(module, FusedResidual)]
    return sum(isinstance(m, nn.Conv2d) and m.bias is None for shortcut in shortcuts for m in shortcut.modules())


def plain_convolutions(network: nn.Module) -> int:
    """Return the number of fused convolutions that are not a piece of another."""
    split = [m for m in network.modules() if isinstance(m, Pieces) and is_pieces_of_convolutions(m)]
    pieces = sum(len(module.parts) for module in split)
    return number_of(FusedConv)(network) - pieces


def is_pieces_of_convolutions(module: nn.Module) -> bool:
    """Return whether a module is a convolution in pieces; ASPP's branches are `Pieces` too."""
    return isinstance(module, Pieces) and all(isinstance(part, nn.Conv2d | FusedConv) for part in module.parts)


def convolutions_in_pieces(network: nn.Module) -> int:
    return sum(map(is_pieces_of_convolutions, network.modules()))


def winograd_with_addition(network: nn.Module) -> int:
    adding = [module.last for module in network.modules() if isinstance(module, FusedResidual)]
    adding += [module.projection for module in network.modules() if isinstance(module, FusedPooledApart)]
    return sum(isinstance(each, WinogradConv) for each in adding)


# Functions that a pass raises by the counts that it reports.
EVIDENCE: Mapping[str, Mapping[str, Count]] = {
    "drop_aux_classifier": {"aux_classifiers": lambda n: -int(getattr(n, "aux_classifier", None) is not None)},
    "remove_dropouts": {"dropouts": lambda n: -sum(isinstance(m, _DropoutNd) for m in n.modules())},
    "fold_batch_norms": {"batch_norms": minus(number_of(nn.BatchNorm2d))},
    "classify_before_resizing": {"heads": number_of(ClassifiedFirst)},
    "pool_apart": {"aspp": number_of(PooledApart)},
    "activate_out_of_place": {"activations": lambda n: -sum(getattr(m, "inplace", False) for m in n.modules())},
    "average_by_window": {"whole": number_of(MeanByWindow), "grid": number_of(GridAverage)},
    "average_by_lines": {"whole": number_of(MeanByLines), "grid": number_of(GridAverage)},
    "average_in_onnx": {"whole": number_of(WholeAverage), "grid": number_of(GridAverage)},
    "gate_in_place": {"gates": number_of(GateInPlace)},
    "fuse_additions": {"blocks": number_of(FusedResidual)},
    "broadcast_pooled_branches": {
        "branches": lambda n: number_of(BroadcastBranch)(n) - number_of(FusedPooledApart)(n),
        "aspp": number_of(FusedPooledApart),
    },
    "merge_shortcut_biases": {"biases": biases},
    "choose_forms": {
        "one_pixel": number_of(OnePixelConv),
        "winograd": number_of(WinogradProducts),
        "pieces": convolutions_in_pieces,
    },
    "use_winograd": {"winograd": number_of(WinogradMatrices)},
    "lay_out_channels_last": {"networks": number_of(Deployed)},
    "resize_by_lines": {"networks": number_of(DeployedInGroups)},
    "compute_in_precision": {"networks": number_of(Deployed)},
    "return_logits": {"networks": number_of(LogitsOnly)},
}
FUSED = {
    "cpu": {
        "plain": plain_convolutions,
        "pieces": convolutions_in_pieces,
        "winograd": lambda n: number_of(WinogradConv)(n) - winograd_with_addition(n),
        "plain_with_addition": number_of(FusedConvAdd),
        "winograd_with_addition": winograd_with_addition,
    },
    "cuda": {"plain": number_of(ConvReLU), "plain_with_addition": number_of(ConvAddReLU)},
}
SILENT = {"copy_for_evaluation", "require_segmentation_model"}
MODELS: Mapping[str, Mapping[str, object]] = {
    "lraspp_mobilenet_v3_large": {},
    "deeplabv3_resnet18": {"aux_loss": True},
    "pspnet_mobilenet_v3_small": {},
}


# Each pipeline in the precision that it is for; that of target "cpu" averages in another way in bfloat16.
EVERYDAY = [
    ("torchscript", "portable", torch.float32),
    ("torchscript", "cpu", torch.float32),
    ("torchscript", "cpu", torch.bfloat16),
    ("torchscript", "cuda", torch.bfloat16),
    ("aoti", "cpu", torch.float32),
    ("onnx", "portable", torch.float32),
]


def evidence_of(name: str, target: str) -> Mapping[str, Count]:
    return FUSED[target] if name == "fuse_convolutions" else EVIDENCE[name]


@pytest.mark.parametrize(
    ("format_", "target", "dtype"),
    full_but(EVERYDAY, [(*key, dtype) for key in PIPELINES for dtype in (torch.float32, torch.bfloat16)]),
)
def test_passes_report_what_they_did(format_: str, target: str, dtype: torch.dtype) -> None:
    context = Context(format_, target, dtype, (520, 520), 4096 if format_ == "aoti" else None)
    changed: set[tuple[str, str]] = set()
    for name, options in MODELS.items():
        changed |= changed_by_passes(calm_model(name, num_classes=5, **options), context)
    assert {name for name, _ in changed} | SILENT >= {each.name for each in PIPELINES[format_, target]} - (
        {"average_by_window"} if dtype == torch.float32 else set()
    )


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("format_", "target"), PIPELINES)
def test_passes_report_what_they_did_to_bottlenecks(format_: str, target: str, dtype: torch.dtype) -> None:
    context = Context(format_, target, dtype, (520, 520), 4096 if format_ == "aoti" else None)
    assert changed_by_passes(calm_model("fcn_resnet50", num_classes=5), context)


def changed_by_passes(network: nn.Module, context: Context) -> set[tuple[str, str]]:
    """Check that each pass reports the counts that it changes, and return the kinds of changes with their passes."""
    changed: set[tuple[str, str]] = set()
    for step in PIPELINES[context.format, context.target]:
        counts = {} if step.name in SILENT else evidence_of(step.name, context.target)
        before = {kind: count(network) for kind, count in counts.items()}
        outcome = step.apply(network, context)
        network = outcome.network
        seen = {kind: count(network) - before[kind] for kind, count in counts.items()}
        assert {kind: outcome.counts.get(kind, 0) for kind in counts} == seen, step.name
        assert set(outcome.counts) - set(counts) <= {"plain"}, f"{step.name} reports what nothing here checks"
        changed |= {(step.name, kind) for kind, number in seen.items() if number}
    return changed


def test_counts_of_a_rewritten_network() -> None:
    rewritten = rewrite(calm_model("deeplabv3_resnet18", aux_loss=True), Context("torchscript", "cpu"))
    assert [each.name for each in rewritten.done] == ORDER["torchscript", "cpu"]
    assert rewritten.count("drop_aux_classifier") == 1
    by_form = [
        rewritten.count("fuse_convolutions", kind)
        for kind in ("plain", "pieces", "winograd", "plain_with_addition", "winograd_with_addition")
    ]
    assert sum(by_form) == rewritten.count("fuse_convolutions")
    with pytest.raises(KeyError):
        rewritten.count("average_by_lines")
