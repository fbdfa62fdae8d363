"""A SegmentationModel as it is deployed: its parts, the precision that they compute in, and the resizing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnets.errors import ExportError
from segnets.export.upsample import Upsample
from segnets.model import SegmentationModel


class Deployed(nn.Module):
    """(N, 3, H, W) float32, normalised -> {"out": (N, C, H, W) float32 logits}.

    The backbone and the classifier compute in `dtype` with channels last in memory, the resizing in float32.
    """

    __constants__ = ("reads_all_features",)

    def __init__(self, model: SegmentationModel, dtype: torch.dtype, upsample: type[Upsample]) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.classifier = model.classifier
        self.reads_all_features = model.reads_all_features
        self.dtype = dtype
        self.upsample = upsample(model.align_corners)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x.to(self.dtype).contiguous(memory_format=torch.channels_last))
        if self.reads_all_features:
            scores = self.classifier(features)
        else:
            scores = self.classifier(features["out"])
        return {"out": self.upsample(scores.to(torch.float32), x.shape[2], x.shape[3])}


def checked_parts(model: nn.Module, what: str) -> SegmentationModel:
    """`model`, if its parts are known. what: needs them, for the message. Raises ExportError."""
    if isinstance(model, SegmentationModel):
        return model
    raise ExportError(
        f"{what} takes a segnets.SegmentationModel, whose parts are known, and not a {type(model).__name__}; "
        "target='portable' with device='cpu' takes any network that gives {'out': scores}"
    )
