"""Where checkpoints come from, one file per origin. A new origin is one more entry in `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping

from segnets.card import JSON
from segnets.errors import WeightsError
from weights_tools.layouts.base import Layout, Match, Tensors
from weights_tools.layouts.kin import describe_stranger
from weights_tools.layouts.origins import MMSEG, SMP, VAINF
from weights_tools.layouts.renaming import OriginLayout
from weights_tools.layouts.torchvision import TorchvisionLayout

__all__ = ["LAYOUTS", "Match", "recognise"]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        TorchvisionLayout(),
        OriginLayout("smp", "segmentation_models_pytorch", SMP),
        OriginLayout("mmseg", "mmsegmentation", MMSEG, basic_block_dilation="first"),
        OriginLayout("vainf", "VainF/DeepLabV3Plus-Pytorch", VAINF),
    )
}


def recognise(tensors: Tensors, layout: str = "auto", chosen: Mapping[str, JSON] | None = None) -> Match:
    """Return the one layout that fits. chosen: options that no tensor shows.

    Raises WeightsError that says what the tensors look like if none fits, or which layouts fit if several do.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise WeightsError(f"unknown layout {layout!r}; known are auto, {', '.join(LAYOUTS)}")
    candidates = list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]]
    answers = [answer for each in candidates if (answer := each.recognise(tensors, chosen or {})) is not None]
    matches = [answer for answer in answers if isinstance(answer, Match)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise WeightsError(f"it fits several layouts: {', '.join(m.layout for m in matches)}; choose one with --layout")
    reasons = [answer for answer in answers if isinstance(answer, str)]
    raise WeightsError(reasons[0] if reasons else describe_stranger(tensors))
