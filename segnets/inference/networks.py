"""One protocol for networks: models in memory, weights files and exported files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from segnets.card import Decoding, ModelCard, check_card
from segnets.deploy import Exported, load_exported
from segnets.deploy.formats import network_for_cpu
from segnets.errors import ExportError, PredictError
from segnets.files import format_of_suffix, is_export
from segnets.layers import resize_bilinear
from segnets.neutral_state import neutral_state
from segnets.preprocessing import Preprocess, check_batch
from segnets.resize_rules import parse_resize
from segnets.segmenter import Decode, check_ready
from segnets.weights import load
from segnets.weights.wrappers import is_sharded, without_inner_wrappers

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class Logits:
    """Logits of a batch, or of one image.

    Attributes:
        values: Logits of shape (N, C, h, w), or (C, h, w), float32, on the CPU.
        size: Height and width to which the network would resize the logits, or None if it has done so. The resize is
            left for later because combining it with the resize to the image is faster.
        align_corners: Whether the network's resize aligns the centres of the corner pixels.
    """

    values: Tensor
    size: tuple[int, int] | None = None
    align_corners: bool = False

    def __getitem__(self, index: int) -> Logits:
        """Return the logits of one image of a batch."""
        return replace(self, values=self.values[index])

    def batch(self) -> Logits:
        """Return the logits of one image as a batch of one."""
        return replace(self, values=self.values[None])

    def resized(self) -> Tensor:
        """Return the logits at the size of the network's input, (N, C, H, W)."""
        return self.values if self.size is None else resize_bilinear(self.values, list(self.size), self.align_corners)


class Network(Protocol):
    """A network that turns images into logits.

    Attributes:
        name: Name of the file or of the model's class, for messages.
        card: Classes, colours, preprocessing and decoding.
        num_classes: Number of channels of the logits.
        device: Device of the input and of the logits.
        form: Description of what computes the logits, for records.
    """

    name: str
    card: ModelCard
    num_classes: int
    device: torch.device
    form: str

    @property
    def decoding(self) -> Decoding:
        """Rule that turns logits into ids."""

    @property
    def channels(self) -> int:
        """Number of channels of the images."""

    def prepare(self, images: Tensor) -> Tensor:
        """Turn images, (N, H, W, K) uint8, into the network's input, (N, K, h, w) float32, both on the CPU.

        Raises:
            ImageError: If `images` has the wrong shape or dtype, or would become too large.
        """

    def logits(self, batch: Tensor) -> Logits:
        """Compute logits, (N, C, h, w) float32 on the CPU, from an input on the CPU.

        Raises:
            ImageError: If the computation does not fit into memory.
        """

    def own_mask(self, images: Tensor, logits: Logits) -> Tensor:
        """Compute masks, (N, H, W), or planes, (N, C, H, W), as the model's or the file's own `segment` does.

        Args:
            images: Images, (N, H, W, K) uint8, on the CPU.
            logits: Their logits, (N, C, h, w).
        """


class _Base:
    def __init__(self, name: str, card: ModelCard, num_classes: int, device: torch.device, form: str) -> None:
        self.name, self.card, self.num_classes, self.device, self.form = name, card, num_classes, device, form
        self.decoding = card.decoding or Decoding.default(num_classes)
        self.channels = card.preprocessing.channels
        self._prepare = Preprocess(card.preprocessing)

    def prepare(self, images: Tensor) -> Tensor:
        """Prepare images; see `Network.prepare`."""
        check_batch(images, self._prepare, self.num_classes)
        with neutral_state():
            prepared: Tensor = self._prepare(images)
            return prepared

    def own_mask(self, images: Tensor, logits: Logits) -> Tensor:
        """Decode logits as `segnets.segment` does."""
        with neutral_state():
            mask: Tensor = Decode(self.decoding)(logits.resized(), images.shape[1], images.shape[2])
            return mask


class ModelNetwork(_Base):
    """A model in memory.

    Args:
        model: Network in eval mode that maps (N, K, h, w) to a dictionary with logits "out".
        name: Name for messages.
        card: Classes, colours, preprocessing and decoding.
        device: Device to run on; the model is moved there.
        dtype: Precision between the image and the logits. On a GPU, autocast chooses which operations run in bfloat16
            or float16.
        fast: Whether the network may be rewritten for this CPU, which changes results only by rounding.

    Raises:
        PredictError: If the device does not support the precision.
    """

    def __init__(
        self, model: nn.Module, name: str, card: ModelCard, device: torch.device, dtype: str, *, fast: bool
    ) -> None:
        check_ready(model, card.preprocessing)
        model = without_inner_wrappers(model)
        super().__init__(name, card, _channels_of_logits(model, card), device, f"model, {dtype}")
        check_card(ModelCard(decoding=card.decoding), self.num_classes)
        if dtype != "float32":
            _check_precision(dtype, device, fast)
        self._autocast: torch.dtype | None = None
        self._before_resizing: Callable[[Tensor], Tensor] | None = None
        if device.type == "cpu" and fast:
            try:
                self._network: nn.Module = network_for_cpu(model, card.preprocessing, getattr(torch, dtype))
                self._before_resizing = self._network.coarse_logits
                self._align_corners = bool(getattr(model, "align_corners", False))
                self.form = f"model rewritten for the CPU, {dtype}"
                return
            except ExportError as error:
                if dtype != "float32":
                    raise PredictError(f"{name}: can't run in {dtype} on this CPU: {error}") from None
        if dtype != "float32":
            self._autocast = getattr(torch, dtype)
            self.form = f"model with autocast to {dtype}"
        self._network = model.to(device)

    def logits(self, batch: Tensor) -> Logits:
        """Compute logits; see `Network.logits`."""
        with neutral_state(self.device), torch.jit.optimized_execution(False):
            if self._before_resizing is not None:
                size = (batch.shape[2], batch.shape[3])
                return Logits(self._before_resizing(batch), size, self._align_corners)
            with torch.autocast(self.device.type, self._autocast) if self._autocast else nullcontext():
                output: Tensor = self._network(batch.to(self.device))["out"]
            return Logits(output.to("cpu", torch.float32))


class ExportedNetwork(_Base):
    """An exported file: TorchScript, `.pt2` or ONNX."""

    def __init__(self, exported: Exported, card: ModelCard) -> None:
        contract = exported.contract
        self._own_preprocessing = card.preprocessing == contract.card.preprocessing
        card = replace(card, decoding=contract.decoding)
        form = f"{contract.kind} file, {contract.dtype}"
        super().__init__(str(exported.path), card, contract.num_classes, torch.device(contract.device), form)
        self._exported = exported

    def logits(self, batch: Tensor) -> Logits:
        """Compute logits; see `Network.logits`."""
        return Logits(self._exported.logits(batch.to(self.device)).cpu())

    def own_mask(self, images: Tensor, logits: Logits) -> Tensor:
        """Segment images with the file's own `segment`, or decode the logits if its preprocessing differs."""
        if self._own_preprocessing:
            return self._exported.segment(images.to(self.device)).cpu()
        return super().own_mask(images, logits)


def open_network(
    model: nn.Module | Exported | str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str | None = None,
    resize: str | int | tuple[int, int] | None = None,
    fast: bool = True,
) -> Network:
    """Open a model, a weights file or an exported file. An exported TorchScript file or `.pt2` is executed.

    Args:
        model: Model in memory, loaded export, or path of a weights file or an exported file.
        device: "auto", "cpu", "cuda" or "mps". "auto" chooses a CUDA GPU if there is one, else the CPU; for an exported
            file, the device that it was exported for.
        dtype: Precision of a model or a weights file: "float32", "bfloat16" on a CPU or GPU that supports it, or
            "float16" on a CUDA GPU. None means float32, and for an exported file its own precision.
        resize: Size of the network's input, overriding the card: pixels of the short side, (height, width), "x2" for
            twice the image, or "none" for the image's own size. None keeps the card's rule.
        fast: Whether a model may be rewritten for this CPU.

    Returns:
        The opened network.

    Raises:
        PredictError: If the device is missing, or the arguments contradict the file.
        WeightsError: If a weights file can't be read.
        ExportError: If an exported file can't be read or can't run here.
        TypeError: If `model` is none of these.
    """
    _check_choice("device", device, DEVICES)
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        name = str(path)
        if _is_exported(path):
            return _opened(load_exported(path), device, dtype, resize)
        _refuse_other_files(path)
        model = load(path)
    elif isinstance(model, Exported):
        return _opened(model, device, dtype, resize)
    else:
        name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a path, a model or a loaded export, got {name}")
    if is_sharded(model):
        raise PredictError(f"model: this {name} is sharded (FSDP), so no process holds all of its tensors")
    _check_choice("dtype", dtype or "float32", DTYPES)
    card: ModelCard = getattr(model, "card", None) or ModelCard().assuming()
    return ModelNetwork(model, name, _resized(card, resize), _chosen(device), dtype or "float32", fast=fast)


def _resized(card: ModelCard, resize: str | int | tuple[int, int] | None) -> ModelCard:
    """Return the card with a new resize rule."""
    if resize is None:
        return card
    try:
        if isinstance(resize, str):
            rule = parse_resize(resize)
        else:
            rule = {"resize": "short_side" if isinstance(resize, int) else "fixed", "size": resize}
        return card.preparing(replace(card.preprocessing, **rule), ["resize"])
    except ValueError as error:
        raise PredictError(f"resize={resize!r} (--resize): {error}") from None


def _opened(
    exported: Exported, device: str, dtype: str | None, resize: str | int | tuple[int, int] | None
) -> ExportedNetwork:
    contract = exported.contract
    if device not in ("auto", contract.device):
        raise PredictError(
            f"{exported.path}: was exported for {contract.device}, not for device={device!r}; omit device"
        )
    if dtype not in (None, contract.dtype):
        raise PredictError(f"{exported.path}: computes in {contract.dtype}, not in dtype={dtype!r}; omit dtype")
    return ExportedNetwork(exported, _resized(contract.card, resize))


def _is_exported(path: Path) -> bool:
    return is_export(path) or path.suffix.lower() in (".ts", ".pt2", ".onnx")


def _refuse_other_files(path: Path) -> None:
    """Refuse files of other projects, and explain how to convert them."""
    if path.suffix.lower() != ".safetensors" and path.is_file() and format_of_suffix(path):
        raise PredictError(
            f"{path}: is not a weights file of segnets. Convert it first: weights-tools convert {path} OUT.safetensors"
        )


def _chosen(device: str) -> torch.device:
    """Return the device, and check that it is available."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[device]:
        raise PredictError(f"device={device!r}: torch finds no such device here; use device='cpu' (--device cpu)")
    return torch.device(device)


def _check_precision(dtype: str, device: torch.device, fast: bool) -> None:
    """Check that a device computes in bfloat16 or float16."""
    asked = f"dtype={dtype!r} (--dtype)"
    if not fast:
        raise PredictError(
            f"{asked}: deterministic masks (--deterministic) are computed in float32; omit one of the two"
        )
    if device.type == "mps":
        raise PredictError(f"{asked}: is for CPUs and CUDA GPUs, but the device is mps; omit dtype")
    if device.type == "cpu" and dtype == "float16":
        raise PredictError(
            f"{asked}: CPUs compute it slower than float32. Use 'bfloat16' on CPUs that support it, or a CUDA GPU"
        )
    if device.type == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise PredictError(f"{asked}: this GPU does not support it; use 'float16'")


def descriptions(networks: Sequence[Network]) -> list[str]:
    """Describe each network and its device, for records, for example "model, float32 on cpu"."""
    return [f"{network.form} on {network.device.type}" for network in networks]


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise PredictError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def _channels_of_logits(model: nn.Module, card: ModelCard) -> int:
    """Return the number of channels of the logits: from the model's config, else by running it once."""
    options = getattr(getattr(model, "config", None), "options", {})
    if isinstance(options.get("num_classes"), int):
        return int(options["num_classes"])
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    with neutral_state(device):
        output = model(torch.zeros(1, card.preprocessing.channels, 64, 64, dtype=torch.float32, device=device))
    logits = output.get("out") if isinstance(output, dict) else None
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        raise PredictError(
            "model: expected a network that returns {'out': logits (N, C, H, W)}, as the models of segnets do"
        )
    return int(logits.shape[1])
