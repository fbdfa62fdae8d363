"""A SegmentationModel as it is deployed: its parts, the precision that they compute in, and the resizing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnets.deploy.passes.resize import Upsample
from segnets.errors import ExportError
from segnets.model import SegmentationModel

# What a processor computes at once: of one image of usual size most maps stay in its caches, and of a batch none do.
# cpp/src/aoti.cpp has the same number.
PIXELS_AT_ONCE = 520 * 520


def images_at_once(height: int, width: int, pixels: int = PIXELS_AT_ONCE) -> int:
    """How many images of this size a processor should compute together. Scriptable."""
    return max(1, pixels // max(1, height * width))


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
        return {"out": self.upsample(self._scores(x), x.shape[2], x.shape[3])}

    def _scores(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w) float32, not resized."""
        features = self.backbone(x.to(self.dtype).contiguous(memory_format=torch.channels_last))
        if self.reads_all_features:
            scores = self.classifier(features)
        else:
            scores = self.classifier(features["out"])
        result: Tensor = scores.to(torch.float32)
        return result


class DeployedInGroups(Deployed):
    """As Deployed, a few images of a batch at a time: as fast for each as one alone, in no more memory."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        group = images_at_once(x.shape[2], x.shape[3])
        if x.shape[0] <= group:
            scores = self._scores(x)
        else:
            scores = torch.cat([self._scores(x[start : start + group]) for start in range(0, x.shape[0], group)])
        return {"out": self.upsample(scores, x.shape[2], x.shape[3])}


def checked_parts(model: nn.Module, what: str) -> SegmentationModel:
    """`model`, if its parts are known. what: needs them, for the message. Raises ExportError."""
    if isinstance(model, SegmentationModel):
        return model
    raise ExportError(
        f"{what} takes a segnets.SegmentationModel, whose parts are known, and not a {type(model).__name__}; "
        "target='portable' with device='cpu' takes any network that gives {'out': scores}"
    )
