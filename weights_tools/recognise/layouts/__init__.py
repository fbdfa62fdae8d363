"""Layouts of checkpoints, one per project. Add a project by adding an entry to `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.preprocessing import Preprocessing
from segnets.registry import MODELS
from weights_tools.recognise.layouts import tables
from weights_tools.recognise.layouts._backbone import match_own_backbone
from weights_tools.recognise.layouts._unsupported import explain_no_match
from weights_tools.recognise.layouts.base import Evidence, ExportNames, Layout, Match, Tensors
from weights_tools.recognise.layouts.table_layout import TableLayout
from weights_tools.recognise.layouts.torchvision import TorchvisionLayout

__all__ = [
    "LAYOUTS",
    "PREPROCESSING",
    "Evidence",
    "ExportNames",
    "Layout",
    "Match",
    "Tensors",
    "match_layout",
    "match_own_backbone",
]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        TorchvisionLayout(),
        TableLayout("timm", "timm", tables.TIMM),
        TableLayout("smp", "segmentation_models_pytorch", tables.SMP),
        TableLayout("mmseg", "mmsegmentation", tables.MMSEG),
        TableLayout("transformers", "transformers", tables.TRANSFORMERS),
        TableLayout("vainf", "VainF/DeepLabV3Plus-Pytorch", tables.VAINF),
        TableLayout("navifra", "Navifra-Kerry/SemanticSegmentation-Libtorch", tables.NAVIFRA, container="C++ archive"),
        TableLayout("allentdan", "AllentDan/LibtorchSegmentation", tables.ALLENTDAN),
        TableLayout("segnets", "segnets", tables.SEGNETS),
    )
}

# Layout -> the preprocessing of its project's own scripts, for weights that come without a config.
# torchvision: references/segmentation/presets.py. VainF: main.py without --crop_val. Navifra: its inference, which
# scales OpenCV's BGR to 693x520 and subtracts RGB numbers. AllentDan: its Predict, which only divides by 255.
# SMP, mmseg: encoders/_preprocessing.py and mmengine's data_preprocessor; both leave sizes to the user's pipeline.
_UNRESIZED = Preprocessing(resize="none")
PREPROCESSING: dict[str, Preprocessing] = {
    "torchvision": Preprocessing(),
    "segnets": Preprocessing(),
    "navifra": Preprocessing(resize="fixed", size=(520, 693), antialias=False, channel_order="BGR"),
    "allentdan": Preprocessing(resize="none", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), channel_order="BGR"),
    **dict.fromkeys(("timm", "smp", "mmseg", "transformers", "vainf"), _UNRESIZED),
}


def match_layout(
    tensors: Tensors,
    layout: str = "auto",
    chosen: Mapping[str, JSON] | None = None,
    *,
    configured: Mapping[str, JSON] | None = None,
    configured_by: str | None = None,
    container: str = "",
    backbone_only: bool = False,
) -> Match:
    """Return the match of the only layout that fits.

    Args:
        tensors: See `Evidence`.
        layout: Name of the layout, or "auto" to try all.
        chosen: See `Evidence`.
        configured: See `Evidence`.
        configured_by: Layout of the project whose config has the options in `configured`; other layouts ignore them.
        container: See `Evidence`.
        backbone_only: Whether to recognise the backbone alone.

    Raises:
        WeightsError: If no layout fits, or if several do and disagree.
        ValueError: If the options contradict each other.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise WeightsError(f"unknown layout {layout!r}; known are auto, {', '.join(LAYOUTS)}")
    evidence = Evidence(tensors, chosen or {}, {}, container, requested=layout != "auto")
    results = []
    for each in LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]:
        known = replace(evidence, configured=configured) if configured and configured_by == each.name else evidence
        results.append(each.match_backbone(known) if backbone_only else each.match(known))
    matches = [result for result in results if isinstance(result, Match)]
    if matches:
        return _merge_equal(matches)
    reasons = [result for result in results if isinstance(result, str)]
    if reasons:
        raise WeightsError(reasons[0])
    hint = "" if backbone_only else _hint_backbone_only(tensors, layout)
    reason = explain_no_match(tensors)
    if layout != "auto" or backbone_only:
        wanted = "a backbone" if backbone_only else f"a network of {layout}"
        reason = f"the tensors are not those of {wanted}: {reason}"
    raise WeightsError(reason + hint)


def _hint_backbone_only(tensors: Tensors, layout: str) -> str:
    try:
        match = match_layout(tensors, layout, backbone_only=True)
    except WeightsError:
        return ""
    return f"; --backbone-only converts its {match.config.name}"


def _merge_equal(matches: list[Match]) -> Match:
    """Return the first match if all of them give the same network, so that the project does not matter."""
    first, *others = matches
    different = [match for match in others if _meaning(match) != _meaning(first)]
    if different:
        names = ", ".join(match.layout for match in (first, *different))
        raise WeightsError(f"the tensors fit several layouts: {names}. Choose one with --layout")
    if not others:
        return first
    same = ", ".join(match.layout for match in others)
    have = "has the same names and computes" if len(others) == 1 else "have the same names and compute"
    added = [note for match in others for note in match.notes if note not in first.notes]
    return replace(first, notes=(*first.notes, f"{same} {have} the same", *added))


def _meaning(match: Match) -> object:
    options = match.config.options
    builder = MODELS.get(match.config.name)
    resolved = options if builder is None else builder.resolve(options)
    return ModelConfig(match.config.name, resolved), match.names
