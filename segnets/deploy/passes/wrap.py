"""A SegmentationModel as it is deployed: its parts, the precision that they compute in, and the resizing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.resize import Upsample, UpsampleLines, UpsamplePlain, UpsampleProducts
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


class InPrecision(nn.Module):
    """Any network that returns {"out": logits}, computed like `Deployed` does it for one whose parts are known."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        scores = self.network(image.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return {"out": scores["out"].to(torch.float32)}


class LogitsOnly(nn.Module):
    """A network that returns its logits instead of a dictionary. (N, 3, H, W) -> (N, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image)["out"]
        return logits


def require_segmentation_model(network: nn.Module, context: Context) -> Outcome:
    """Refuse a network whose parts are unknown.

    Raises:
        ExportError: If the network is no SegmentationModel.
    """
    _parts(network, context)
    return Outcome(network)


def resize_by_lines(network: nn.Module, context: Context) -> Outcome:
    """Compute a batch in groups, in `context.dtype`, and resize its logits line by line."""
    return Outcome(DeployedInGroups(_parts(network, context), context.dtype, UpsampleLines), {"networks": 1})


def compute_in_precision(network: nn.Module, context: Context) -> Outcome:
    """Compute the network in `context.dtype` with channels last in memory."""
    deployed: nn.Module
    if context.format != "aoti":
        deployed = Deployed(_parts(network, context), context.dtype, UpsamplePlain)
    elif isinstance(network, SegmentationModel):
        deployed = Deployed(network, context.dtype, UpsampleProducts)
    else:
        deployed = InPrecision(network, context.dtype)
    convert_conv2d_weight_memory_format(deployed.to(context.dtype), torch.channels_last)
    return Outcome(deployed, {"networks": 1})


def return_logits(network: nn.Module, _context: Context) -> Outcome:
    """Return the logits instead of a dictionary, which graphs don't have."""
    return Outcome(LogitsOnly(network), {"networks": 1})


def _parts(network: nn.Module, context: Context) -> SegmentationModel:
    if isinstance(network, SegmentationModel):
        return network
    option = "device" if context.target == "cuda" else "target"
    raise ExportError(
        f"{option}={context.target!r} takes a segnets.SegmentationModel, whose parts are known, and not a "
        f"{type(network).__name__}; target='portable' with device='cpu' takes any network that gives {{'out': scores}}"
    )
