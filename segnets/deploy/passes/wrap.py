"""Passes that wrap a network in its deployed form: precision, memory format, batching and resizing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from segnets.deploy.contract import PIXELS_AT_ONCE
from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.resize import Upsample, UpsampleLines, UpsamplePlain, UpsampleProducts
from segnets.errors import ExportError
from segnets.model import SegmentationModel


def images_at_once(height: int, width: int, pixels: int = PIXELS_AT_ONCE) -> int:
    """Return how many images of this size a CPU should compute together, at least 1. Scriptable."""
    return max(1, pixels // max(1, height * width))


class Deployed(nn.Module):
    """A SegmentationModel in its deployed form.

    The backbone and the classifier compute in `dtype` in channels-last memory format, the resizing in float32.

    Args:
        model: Model whose backbone and classifier are used.
        dtype: Precision of backbone and classifier.
        upsample: Type of the module that resizes the logits.
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
        """Compute {"out": (N, C, H, W) float32 logits} of normalised float32 images (N, 3, H, W)."""
        return {"out": self.upsample(self.coarse_logits(x), x.shape[2], x.shape[3])}

    def coarse_logits(self, x: Tensor) -> Tensor:
        """Compute logits before they are resized: (N, 3, H, W) -> (N, C, h, w), float32."""
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        features = self.backbone(x.to(self.dtype).contiguous(memory_format=torch.channels_last))
        if self.reads_all_features:
            logits = self.classifier(features)
        else:
            logits = self.classifier(features["out"])
        result: Tensor = logits.to(torch.float32)
        return result


class DeployedInGroups(Deployed):
    """A `Deployed` that computes a few images of a batch at a time.

    Each image takes as long as it would alone, and a batch takes no more memory than a group.
    """

    def coarse_logits(self, x: Tensor) -> Tensor:
        """Compute logits before they are resized: (N, 3, H, W) -> (N, C, h, w), float32."""
        group = images_at_once(x.shape[2], x.shape[3])
        if x.shape[0] <= group:
            return self._logits(x)
        return torch.cat([self._logits(x[start : start + group]) for start in range(0, x.shape[0], group)])


class InPrecision(nn.Module):
    """Any network that returns {"out": logits}, in another precision.

    Args:
        network: Network that resizes its logits itself, in `dtype`.
        dtype: Precision of the network.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute {"out": float32 logits}."""
        output = self.network(image.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return {"out": output["out"].to(torch.float32)}


class InDictionary(nn.Module):
    """A network that returns {"out": logits} instead of logits, the reverse of `LogitsOnly`. Scriptable."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute {"out": logits}."""
        return {"out": self.network(image)}

    @torch.jit.export
    def get_logits(self, image: Tensor) -> Tensor:
        """Compute logits."""
        logits: Tensor = self.network(image)
        return logits


class LogitsOnly(nn.Module):
    """A network that returns its logits instead of a dictionary. (N, 3, H, W) -> (N, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model  # part of tensor names in ONNX files

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits."""
        logits: Tensor = self.model(image)["out"]
        return logits


def require_segmentation_model(network: nn.Module, context: Context) -> Outcome:
    """Refuse networks other than a SegmentationModel, because their parts are unknown.

    Raises:
        ExportError: If the network isn't a SegmentationModel.
    """
    _parts(network, context)
    return Outcome(network)


def resize_by_lines(network: nn.Module, context: Context) -> Outcome:
    """Compute batches in groups, in `context.dtype`, and resize logits line by line."""
    return Outcome(DeployedInGroups(_parts(network, context), context.dtype, UpsampleLines), {"networks": 1})


def compute_in_precision(network: nn.Module, context: Context) -> Outcome:
    """Compute the network in `context.dtype` in channels-last memory format."""
    deployed: nn.Module
    if context.format != "aoti":
        deployed = Deployed(_parts(network, context), context.dtype, UpsamplePlain)
    elif isinstance(network, SegmentationModel):
        deployed = Deployed(network, context.dtype, UpsampleProducts)
    else:
        deployed = InPrecision(network, context.dtype)
    convert_conv2d_weight_memory_format(deployed.to(context.dtype), torch.channels_last)
    return Outcome(deployed, {"networks": 1})


def lay_out_channels_last(network: nn.Module, context: Context) -> Outcome:
    """Compute the network in channels-last memory format, and resize logits line by line.

    A network that doesn't run this way, for example because it views feature maps as rows, stays as it is.
    """
    model = _parts(network, context)
    deployed = Deployed(model, torch.float32, UpsampleLines)
    try:
        with torch.no_grad():
            deployed(torch.zeros(1, context.channels, 64, 64, dtype=torch.float32))
    except RuntimeError:
        return Outcome(network, {"networks": 0})
    convert_conv2d_weight_memory_format(deployed, torch.channels_last)
    return Outcome(deployed, {"networks": 1})


def return_logits(network: nn.Module, _context: Context) -> Outcome:
    """Return logits instead of a dictionary, because graphs have no dictionaries."""
    return Outcome(LogitsOnly(network), {"networks": 1})


def _parts(network: nn.Module, context: Context) -> SegmentationModel:
    if isinstance(network, SegmentationModel):
        return network
    option = "device" if context.target == "cuda" else "target"
    raise ExportError(
        f"{option}={context.target!r} takes a segnets.SegmentationModel, not a {type(network).__name__}. Use "
        "target='portable' with device='cpu', which takes any network that returns {'out': logits}."
    )
