"""Segment an image: preprocessing, network, resizing the logits to the image, ids from logits.

The code stays in the subset of Python that TorchScript compiles. Python runs it eagerly, and exported files contain it,
so Python, exported files and C++ give the same mask.

Shapes: N batch, K channels of the image, C classes, H W the image, h w the network's input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnets.card import Decoding, ModelCard, assumption_of, check_card
from segnets.errors import ImageError, warn_caller
from segnets.forks import check_not_forked
from segnets.images import image_pixels
from segnets.neutral_state import neutral_state
from segnets.preprocessing import Preprocess, Preprocessing, check_batch, check_input

if TYPE_CHECKING:
    from segnets.images import ImageLike

# Largest number of logits to hold at the image's size (256 MiB of float32). Without a limit, 21 classes of a
# 12000x12000 image would take 12 GB.
MAX_LOGITS = 1 << 26


class Decode(nn.Module):
    """Module that turns logits into ids at the image's size. Scriptable; has no parameters or buffers.

    Args:
        decoding: Rule to apply; None means argmax, and for one channel a threshold of 0.5.
    """

    def __init__(self, decoding: Decoding | None = None) -> None:
        super().__init__()
        self.rule: str = "" if decoding is None else decoding.rule
        self.cut: float = 0.0 if decoding is None else decoding.cut

    def forward(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Resize logits to the image, and decode them.

        Args:
            logits: Logits of shape (N, C, h, w).
            height: Height of the image.
            width: Width of the image.

        Returns:
            Mask of ids of shape (N, height, width), uint8, or int16 for more than 256 classes. For "multilabel",
            planes of 0 and 1 of shape (N, C, height, width), uint8.

        Raises:
            ValueError: If the rule is "threshold" and C is not 1.
        """
        rule = self.rule
        if rule == "":
            rule = "threshold" if logits.shape[1] == 1 else "argmax"
        if rule == "argmax":
            return logits_to_mask(logits, height, width)
        planes = logits_to_planes(logits, height, width, self.cut)
        if rule == "multilabel":
            return planes
        if planes.shape[1] != 1:
            raise ValueError(f"a threshold needs logits of one channel, got {planes.shape[1]}")
        return planes[:, 0]


class Segmenter(nn.Module):
    """Segmentation model together with its preprocessing. Scriptable. Must be in eval mode.

    Args:
        model: Network that maps (N, K, h, w) to a dictionary with logits "out" of shape (N, C, h, w).
        preprocessing: Preprocessing from an image to the network's input, with K means.
        decoding: Rule that turns logits into ids; None means argmax, and for one channel a threshold of 0.5.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, decoding: Decoding | None = None) -> None:
        super().__init__()
        self.model = model
        self.image_to_input = Preprocess(preprocessing)
        self.decode = Decode(decoding)

    def forward(self, image: Tensor) -> Tensor:
        """Compute class logits for every pixel of the network's input.

        Args:
            image: Batch of shape (N, K, h, w), floating point, normalised; any N, h, w >= 1.

        Returns:
            Logits (not probabilities) of shape (N, C, h, w).

        Raises:
            ImageError: If `image` has the wrong shape or dtype.
        """
        check_input(image, self.image_to_input.channels)
        logits: Tensor = self.model(image)["out"]
        return logits

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """Convert images to the network's input.

        Args:
            image: Batch of shape (N, H, W, K), uint8, 0..255, RGB for three channels.

        Returns:
            The network's input of shape (N, K, h, w), float32.

        Raises:
            ImageError: If `image` has the wrong shape or dtype, or would become too large.
        """
        result: Tensor = self.image_to_input(image)
        return result

    @torch.jit.export
    def segment(self, image: Tensor) -> Tensor:
        """Compute a mask of class ids.

        Args:
            image: Batch of shape (N, H, W, K), uint8, 0..255, RGB for three channels.

        Returns:
            Mask of shape (N, H, W), uint8, or int16 for more than 256 classes. For the rule "multilabel", planes of 0
            and 1 of shape (N, C, H, W), uint8.

        Raises:
            ImageError: If `image` has the wrong shape or dtype, or would become too large.
        """
        logits = self.forward(self.preprocess(image))
        mask: Tensor = self.decode(logits, image.shape[1], image.shape[2])
        return mask


def check_channels(model: nn.Module, preprocessing: Preprocessing) -> None:
    """Check that a network from a builder takes images with as many channels as the preprocessing has means.

    Raises:
        ImageError: If the numbers differ.
    """
    channels = image_channels(model)
    if channels is not None and (reason := channels_differ(channels, preprocessing)):
        raise ImageError(reason)


def image_channels(model: nn.Module) -> int | None:
    """Return the number of channels of the images that a network from a builder takes.

    It is None for other networks: the order of their modules need not be the order of the calls.
    """
    backbone = getattr(model, "backbone", None)
    if getattr(model, "config", None) is None or not isinstance(backbone, nn.Module):
        return None
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def channels_differ(channels: int, preprocessing: Preprocessing) -> str:
    """Return a sentence that explains why a preprocessing does not suit images with this many channels, or ""."""
    if channels == preprocessing.channels:
        return ""
    return (
        f"preprocessing: its mean has {_counted(preprocessing.channels, 'number')}, but the model takes images with "
        f"{_counted(channels, 'channel')}. Pass preprocessing=segnets.Preprocessing(mean=..., std=...) (--mean, --std) "
        "of the images that it was trained on, one number each per channel"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def logits_to_mask(logits: Tensor, height: int, width: int, max_logits: int = MAX_LOGITS) -> Tensor:
    """Resize logits to the image and take the argmax over the classes. Scriptable.

    Ties give the lowest class id.

    Args:
        logits: Logits of shape (N, C, h, w).
        height: Height of the image.
        width: Width of the image.
        max_logits: Largest number of logits to hold at the image's size, at least one class.

    Returns:
        Mask of shape (N, height, width), uint8, or int16 if C > 256.
    """
    classes = logits.shape[1]
    group = max(1, max_logits // (logits.shape[0] * height * width))
    # Process a group of classes at a time to bound the memory. The maximum over groups is the maximum over classes.
    best, mask = logits_at(logits[:, :group], height, width).max(dim=1)
    for start in range(group, classes, group):
        values, index = logits_at(logits[:, start : start + group], height, width).max(dim=1)
        better = values > best
        best = torch.where(better, values, best)
        mask = torch.where(better, index + start, mask)
    return mask.to(torch.uint8 if classes <= 256 else torch.int16)


def logits_to_planes(logits: Tensor, height: int, width: int, cut: float = 0.0, max_logits: int = MAX_LOGITS) -> Tensor:
    """Resize logits to the image and compare each with a threshold. Scriptable.

    Args:
        logits: Logits of shape (N, C, h, w).
        height: Height of the image.
        width: Width of the image.
        cut: Logit of the threshold. A logit above it gives 1.
        max_logits: Largest number of logits to hold at the image's size, at least one channel.

    Returns:
        Planes of 0 and 1 of shape (N, C, height, width), uint8.
    """
    channels = logits.shape[1]
    group = max(1, max_logits // (logits.shape[0] * height * width))
    planes = torch.empty([logits.shape[0], channels, height, width], dtype=torch.uint8, device=logits.device)
    for start in range(0, channels, group):
        planes[:, start : start + group] = logits_at(logits[:, start : start + group], height, width) > cut
    return planes


def logits_at(logits: Tensor, height: int, width: int) -> Tensor:
    """Resize logits (N, C, h, w) to (N, C, height, width), bilinear with align_corners=False. Scriptable."""
    if logits.shape[2] == height and logits.shape[3] == width:
        return logits
    return F.interpolate(logits.contiguous(), size=[height, width], mode="bilinear", align_corners=False)


@overload
def segment(
    model: nn.Module, image: Tensor, preprocessing: Preprocessing | None = None, decoding: Decoding | None = None
) -> Tensor: ...
@overload
def segment(
    model: nn.Module, image: ImageLike, preprocessing: Preprocessing | None = None, decoding: Decoding | None = None
) -> npt.NDArray[np.integer]: ...


def segment(
    model: nn.Module,
    image: Tensor | ImageLike,
    preprocessing: Preprocessing | None = None,
    decoding: Decoding | None = None,
) -> Tensor | npt.NDArray[np.integer]:
    """Segment one image, or a batch of images, without gradients.

    Args:
        model: Network in eval mode that maps (N, K, h, w) to a dictionary with logits "out" of shape (N, C, h, w).
        image: Path of an image file, its bytes, binary file, Pillow image, or array (H, W, K) uint8 or uint16; or a
            tensor (N, H, W, K) uint8, 0..255, on the model's device. RGB for three channels. Files are read by the
            rules of `segnets.images.read_image`: the EXIF orientation and the ICC profile are applied, 16 bits are
            scaled, transparency is dropped.
        preprocessing: Preprocessing of the images; None means that of the model's card, or of torchvision's
            segmentation weights for a model without one.
        decoding: Rule that turns logits into ids; None means that of `model.card`, else argmax, and for a network of
            one channel a threshold of 0.5.

    Returns:
        Mask of class ids, uint8, or int16 for more than 256 classes: an array (H, W) at the displayed size of the
        image, or for a tensor, a tensor (N, H, W). For the rule "multilabel", planes of 0 and 1, uint8: an array
        (C, H, W), or for a tensor, a tensor (N, C, H, W).

    Raises:
        ImageError: If `image` can't be read, has the wrong shape or dtype, or takes more memory than is free.
        TypeError: If `model` is not a network but, for example, a path or a loaded export.
        ValueError: If the model is in training mode or not in float32, or `decoding` contradicts its number of
            channels.
        ForkError: If this process was forked after a network had run in several threads.

    Example:
        >>> model = segnets.load("weights.safetensors")
        >>> mask = segnets.segment(model, "photo.jpg")
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model: expected a network, got {type(model).__name__}. segnets.load(path) makes a network from a weights "
            "file; a loaded export has a method of its own, exported.segment(tensor)"
        )
    check_not_forked()
    card = getattr(model, "card", None)
    decoding = decoding or getattr(card, "decoding", None)
    if preprocessing is None:
        preprocessing = Preprocessing() if card is None else card.preprocessing
    check_ready(model, preprocessing)
    if isinstance(image, Tensor):
        batch = image
    else:
        batch = pixels_to_batch(image_pixels(image, preprocessing.channels)).to(_device_of(model))
    segmenter = Segmenter(model, preprocessing, decoding).eval()
    check_batch(batch, segmenter.image_to_input, _classes_of(model))
    with neutral_state(batch.device):
        logits = segmenter(segmenter.preprocess(batch))
        if assumed := assumption_of(decoding, logits.shape[1]):
            warn_caller(assumed)
        check_card(ModelCard(decoding=decoding), logits.shape[1])
        mask: Tensor = segmenter.decode(logits, batch.shape[1], batch.shape[2])
    if isinstance(image, Tensor):
        return mask
    result: npt.NDArray[np.integer] = mask[0].cpu().numpy()
    return result


def pixels_to_batch(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Return pixels, (H, W, K), as a batch of one, (1, H, W, K), which shares their memory if it is writable."""
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())[None]


def _classes_of(model: nn.Module) -> int:
    """Return the number of channels of the logits if the model's config has it, else 1."""
    options = getattr(getattr(model, "config", None), "options", {})
    classes = options.get("num_classes")
    return classes if isinstance(classes, int) else 1


def check_ready(model: nn.Module, preprocessing: Preprocessing) -> None:
    """Check that a network is in eval mode, and one from a builder in float32, as prepared images are.

    Raises:
        ImageError: If a network from a builder takes images with a different number of channels.
        ValueError: If it is in training mode or not in float32.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout is active; call model.eval() first")
    check_channels(model, preprocessing)
    if getattr(model, "config", None) is None:
        return
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    if dtype != torch.float32:
        raise ValueError(f"the model is in {dtype}, but images are prepared in float32; call model.float() first")


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
