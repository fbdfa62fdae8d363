"""SegmentationModel: a backbone, a classifier and perhaps an auxiliary one, resized to the image.

Behaves as torchvision's FCN, DeepLabV3 and LRASPP, which are this one class with different parts.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from segnets.backbones import forward_checkpointed
from segnets.card import ModelCard, ModelConfig
from segnets.layers import is_batch_norm, resize_bilinear
from segnets.options import check_values


class SegmentationModel(nn.Module):
    """Scores every pixel of an image for every class.

    backbone: image -> {"out": features[, "aux": features]}, or the names that the classifier reads.
    classifier: features["out"] -> scores; one that sets `reads_all_features = True` gets the whole dictionary.
    aux_classifier: features["aux"] -> scores, or None.
    align_corners: of the resizing to the image (see `segnets.layers.resize_bilinear`).
    config: what builds this network again; None for one that was put together by hand.
    gradient_checkpointing: in training, trade time for memory in the backbone (see `forward_checkpointed`);
    torch.compile decides by itself what to keep.
    norm_eval: in training, batch norms keep to their running statistics: True for all, "backbone" for its own.
    """

    __constants__ = ("reads_all_features",)

    def __init__(
        self,
        backbone: nn.Module,
        classifier: nn.Module,
        aux_classifier: nn.Module | None = None,
        *,
        align_corners: bool = False,
        config: ModelConfig | None = None,
        gradient_checkpointing: bool = False,
        norm_eval: bool | Literal["backbone"] = False,
    ) -> None:
        super().__init__()
        check_values({"norm_eval": norm_eval})
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier
        self.reads_all_features = bool(getattr(classifier, "reads_all_features", False))
        self.align_corners = align_corners
        self.gradient_checkpointing = gradient_checkpointing
        self.norm_eval = norm_eval
        self.backbone_frozen = False
        self.config = config
        self.card: ModelCard | None = None
        if norm_eval:  # a new module is in training mode; parts that were put into another stay in it
            self.train()

    def train(self, mode: bool = True) -> SegmentationModel:
        """As every module's; a frozen backbone stays in eval mode, and so do the batch norms that norm_eval names.

        A network that was scripted has TorchScript's own `train`, which knows nothing of that.
        """
        super().train(mode)
        if mode and self.backbone_frozen:
            self.backbone.eval()
        if mode and self.norm_eval:
            part = self.backbone if self.norm_eval == "backbone" else self
            for module in part.modules():
                if is_batch_norm(module):
                    module.eval()
        return self

    def freeze_backbone(self) -> None:
        """Train the classifiers alone: the backbone gets no gradients and stays in eval mode, after `.train()` too.

        Call it before the optimizer is made, or give the optimizer the parameters that still require gradients.
        """
        self.backbone_frozen = True
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def unfreeze_backbone(self) -> None:
        """Train everything again."""
        self.backbone_frozen = False
        self.backbone.requires_grad_(True)
        self.train(self.training)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: (N, in_channels, H, W) float, RGB, normalised as by `segnets.preprocess`; any H, W >= 1.

        Returns "out": (N, num_classes, H, W) logits, not probabilities; and "aux", of the same shape, when the model
        has an auxiliary classifier. Eager mode returns an OrderedDict, TorchScript a Dict[str, Tensor].

        Raises ValueError if x is not 4-D (or a batch of one meets batch norm in training where that can't work),
        RuntimeError if x is not floating point.
        """
        if x.dim() != 4:
            raise ValueError(
                f"expected 4D input (got {x.dim()}D input): a batch of images (N, C, H, W); add the batch dimension "
                "of a single image with image.unsqueeze(0)"
            )
        if not x.is_floating_point():
            raise RuntimeError(
                f"expected a floating point image, normalised as the weights ask for, but found {x.dtype}; "
                "segnets.preprocess turns uint8 images into it"
            )
        size = [x.shape[2], x.shape[3]]
        features = self._features(x)

        result = OrderedDict()
        if self.reads_all_features:
            scores = self.classifier(features)  # (N, num_classes, h, w)
        else:
            scores = self.classifier(features["out"])
        result["out"] = resize_bilinear(scores, size, self.align_corners)
        if self.aux_classifier is not None:
            result["aux"] = resize_bilinear(self.aux_classifier(features["aux"]), size, self.align_corners)
        return result

    def _features(self, x: Tensor) -> dict[str, Tensor]:
        frugal = self.gradient_checkpointing and self.training and not self.backbone_frozen
        # A compiler plans for itself what to keep and what to compute again.
        if not torch.jit.is_scripting() and frugal and not torch.compiler.is_compiling():
            return forward_checkpointed(self.backbone, x)
        result: dict[str, Tensor] = self.backbone(x)
        return result
