"""Where checkpoints come from, one file per origin. A new origin is one more entry in `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.registry import MODELS
from weights_tools.recognise.layouts import tables as origins
from weights_tools.recognise.layouts._unsupported import describe_unsupported
from weights_tools.recognise.layouts.base import Evidence, ExportNames, Layout, Match, Tensors
from weights_tools.recognise.layouts.table_layout import TableLayout
from weights_tools.recognise.layouts.torchvision import TorchvisionLayout

__all__ = ["LAYOUTS", "Evidence", "ExportNames", "Layout", "Match", "Tensors", "match_layout"]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        TorchvisionLayout(),
        TableLayout("timm", "timm", origins.TIMM),
        TableLayout("smp", "segmentation_models_pytorch", origins.SMP),
        TableLayout("mmseg", "mmsegmentation", origins.MMSEG),
        TableLayout("transformers", "transformers", origins.TRANSFORMERS),
        TableLayout("vainf", "VainF/DeepLabV3Plus-Pytorch", origins.VAINF),
        TableLayout("navifra", "Navifra-Kerry/SemanticSegmentation-Libtorch", origins.NAVIFRA, container="C++ archive"),
        TableLayout("allentdan", "AllentDan/LibtorchSegmentation", origins.ALLENTDAN),
        TableLayout("segnets", "segnets", origins.OWN),
    )
}


def match_layout(
    tensors: Tensors,
    layout: str = "auto",
    chosen: Mapping[str, JSON] | None = None,
    *,
    told: Mapping[str, JSON] | None = None,
    told_by: str | None = None,
    container: str = "",
    backbone_only: bool = False,
) -> Match:
    """Return the one layout that fits. See `weights_tools.recognise.layouts.base.Evidence` for what it judges by.

    told_by: the layout whose project's configuration `told` is from; to the others it says nothing.

    Raises WeightsError that says what the tensors look like if none fits, or which layouts fit if several do.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise WeightsError(f"unknown layout {layout!r}; known are auto, {', '.join(LAYOUTS)}")
    evidence = Evidence(tensors, chosen or {}, {}, container, by_name=layout != "auto")
    answers = []
    for each in LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]:
        known = replace(evidence, told=told) if told and told_by == each.name else evidence
        answers.append(each.match_backbone(known) if backbone_only else each.match(known))
    matches = [answer for answer in answers if isinstance(answer, Match)]
    if matches:
        return _only_one(matches)
    reasons = [answer for answer in answers if isinstance(answer, str)]
    if reasons:
        raise WeightsError(reasons[0])
    hint = "" if backbone_only else _hint_of_backbone(tensors, layout)
    what = "a backbone" if backbone_only else f"a network of {layout}"
    stranger = describe_unsupported(tensors)
    if layout != "auto" or backbone_only:
        stranger = f"it is not {what}: {stranger}"
    raise WeightsError(stranger + hint)


def _hint_of_backbone(tensors: Tensors, layout: str) -> str:
    try:
        match = match_layout(tensors, layout, backbone_only=True)
    except WeightsError:
        return ""
    return f"; --backbone-only converts its {match.config.name}"


def _only_one(matches: list[Match]) -> Match:
    """Several projects may have one network: then it does not matter which of them it was."""
    first, *others = matches
    different = [match for match in others if _meaning(match) != _meaning(first)]
    if different:
        names = ", ".join(match.layout for match in (first, *different))
        raise WeightsError(f"it fits several layouts: {names}; choose one with --layout")
    if not others:
        return first
    same = ", ".join(match.layout for match in others)
    have = "has the same names and computes" if len(others) == 1 else "have the same names and compute"
    kin = [note for match in others for note in match.notes if note not in first.notes]
    return replace(first, notes=(*first.notes, f"{same} {have} the same", *kin))


def _meaning(match: Match) -> object:
    options = match.config.options
    builder = MODELS.get(match.config.name)
    settled = options if builder is None else builder.resolve(options)
    return ModelConfig(match.config.name, settled), match.names
