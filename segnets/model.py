"""Segmentation model: a backbone, a classifier and optionally an auxiliary classifier.

One class for all networks. Behaves like torchvision's FCN, DeepLabV3 and LRASPP, which only differ in their parts.
"""

from collections import OrderedDict
from typing import Literal, Self

import torch
import torch.fx
from torch import Tensor, nn

from segnets.backbones import forward_checkpointed
from segnets.card import ModelCard, ModelConfig
from segnets.layers import is_batch_norm, is_symbolic, resize_bilinear
from segnets.options import check_values


# `torch.fx.wrap` makes a check one step of a traced graph; otherwise, its condition would end the tracing. A check
# returns its tensor, so that removing unused steps of the graph keeps it.
@torch.fx.wrap
def check_batch(x: Tensor) -> Tensor:
    """Return `x` if it is a batch of images for a network. Scriptable.

    Raises:
        ValueError: If `x` is not 4-D.
        RuntimeError: If `x` is not floating point.
    """
    if x.dim() != 4:
        raise ValueError(
            f"expected 4D input (got {x.dim()}D input): a batch of images (N, C, H, W); add the batch dimension "
            "of a single image with image.unsqueeze(0)"
        )
    if not x.is_floating_point():
        raise RuntimeError(
            f"expected a floating point image, normalised as the weights require, but found {x.dtype}; "
            "segnets.preprocess converts uint8 images"
        )
    return x


class SegmentationModel(nn.Module):
    """Segmentation network that computes class logits for every pixel of an image.

    Args:
        backbone: Module that maps an image to a dictionary of feature maps: "out", and "aux" if there is an auxiliary
            classifier, or the names that `classifier` reads.
        classifier: Module that maps the feature map "out" to logits. If it has `reads_all_features = True`, it gets
            the whole dictionary.
        aux_classifier: Module that maps the feature map "aux" to logits, or None.
        align_corners: Whether resizing to the image aligns the centres of the corner pixels (see
            `segnets.layers.resize_bilinear`).
        config: Name and options that rebuild this network, or None for a network assembled by hand.
        gradient_checkpointing: Whether training recomputes the backbone's activations instead of keeping them (see
            `segnets.backbones.forward_checkpointed`). Ignored under torch.compile, which decides for itself, and in
            graphs of torch.fx.
        norm_eval: Whether batch norms use their running statistics in training: True for all of them, "backbone" for
            those of the backbone.

    Attributes:
        card: Classes, colours, preprocessing and origin of the weights, or None.
        backbone_frozen: Whether `freeze_backbone` is in effect.

    Raises:
        ValueError: If `norm_eval` has a value that is not allowed.
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
        if norm_eval:  # new modules start in training mode, so switch their norms now
            self.train()

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode.

        A frozen backbone and the batch norms selected by `norm_eval` stay in eval mode. A scripted network has
        TorchScript's own `train`, which ignores both.

        Args:
            mode: True for training mode, False for eval mode.

        Returns:
            The network itself.
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
        """Exclude the backbone from training: it gets no gradients and stays in eval mode, even after `train()`.

        Call this before creating the optimizer, or pass only parameters that require gradients to the optimizer.
        """
        self.backbone_frozen = True
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def unfreeze_backbone(self) -> None:
        """Undo `freeze_backbone`: every parameter requires gradients, and the backbone follows `train()` again."""
        self.backbone_frozen = False
        self.backbone.requires_grad_(True)
        self.train(self.training)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute class logits for every pixel.

        Args:
            x: Batch of shape (N, in_channels, H, W), floating point, RGB, normalised as by `segnets.preprocess`; any
                H, W >= 1.

        Returns:
            "out": logits (not probabilities) of shape (N, num_classes, H, W), and "aux" of the same shape if the model
            has an auxiliary classifier. An OrderedDict in eager mode, a Dict[str, Tensor] in TorchScript.

        Raises:
            ValueError: If `x` is not 4-D, or is a batch of one image in training and a batch norm needs more.
            RuntimeError: If `x` is not floating point.
        """
        x = check_batch(x)
        size = [x.shape[2], x.shape[3]]
        features = self._features(x)

        result = OrderedDict()
        if self.reads_all_features:
            logits = self.classifier(features)  # (N, num_classes, h, w)
        else:
            logits = self.classifier(features["out"])
        result["out"] = resize_bilinear(logits, size, self.align_corners)
        if self.aux_classifier is not None:
            result["aux"] = resize_bilinear(self.aux_classifier(features["aux"]), size, self.align_corners)
        return result

    def _features(self, x: Tensor) -> dict[str, Tensor]:
        checkpointed = self.gradient_checkpointing and self.training and not self.backbone_frozen
        if not torch.jit.is_scripting():
            # The compiler decides which activations to keep, and a graph of torch.fx has no place for checkpointing.
            checkpointed = checkpointed and not torch.compiler.is_compiling() and not is_symbolic(x)
            if checkpointed:
                return forward_checkpointed(self.backbone, x)
        result: dict[str, Tensor] = self.backbone(x)
        return result
