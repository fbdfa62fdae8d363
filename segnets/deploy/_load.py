"""Load an exported file in Python.

Reading the contract executes nothing. Loading a TorchScript file or a `.pt2` executes the program in it; an `.onnx` is
a graph of known operators. Load only files from sources that you trust.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from segnets.deploy._memory import keep_freed_memory
from segnets.deploy.contract import CONTRACT_FILE, GOLDEN_FILE, Contract
from segnets.deploy.formats import FORMATS, Container, Program, open_container
from segnets.errors import ExportError, ImageError
from segnets.forks import check_not_forked
from segnets.memory import check_batch_fits
from segnets.neutral_state import neutral_state
from segnets.preprocessing import Preprocess, check_batch, check_input

# Half precision becomes float32 without rounding.
_EXACT_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Exported:
    """A loaded export.

    Attributes:
        path: The file.
        size_bytes: Size of the file.
        module: Loaded program. Calling it returns the output that the contract describes for `forward`.
        contract: Contract of the file.
        golden: Tensors of the golden pair by name (`segnets.deploy.check.golden`).
    """

    path: Path
    size_bytes: int
    module: Program
    contract: Contract
    golden: dict[str, Tensor]

    def logits(self, image: Tensor) -> Tensor:
        """Compute logits, whichever output `forward` has.

        Args:
            image: Normalised image, (N, K, H, W) float32, of the contract's number of channels; or float16 or
                bfloat16, which become float32.

        Returns:
            Logits, (N, C, H, W) float32.

        Raises:
            ImageError: If `image` has the wrong shape, dtype or device or, on the CPU, NaN or infinite values, whose
                mask would be 0.
        """
        self._check_place("input", image)
        check_input(image, self.contract.in_channels)
        if image.dtype not in _EXACT_IN_FLOAT32:
            raise ImageError(f"input: is {image.dtype}, expected torch.float32; round it with image.float()")
        if not image.is_cuda:
            check_batch_fits(image.shape[0], image.shape[2], image.shape[3], self.contract.num_classes)
        with _running():
            image = image.to(torch.float32)
            # This pass takes a hundredth of the smallest network's time. On a GPU it would force a synchronisation. A
            # sum of finite values that is not finite itself is rare enough for a second pass.
            if not image.is_cuda and not torch.isfinite(image.sum()) and not torch.isfinite(image).all():
                raise ImageError("input: NaN or infinite values; expected finite values, as from segnets.preprocess")
            output = self.module(image)
        return output["out"] if isinstance(output, dict) else output

    def preprocess(self, image: Tensor) -> Tensor:
        """Turn an image into the network's input.

        Args:
            image: Image, (N, H, W, K) uint8; RGB for three channels.

        Returns:
            Normalised image, (N, K, h, w) float32.

        Raises:
            ImageError: If `image` has the wrong shape, dtype or device, or is too large.
        """
        self._check_place("image", image)
        self._check_size(image)
        with _running():
            return self.module.preprocess(image)

    def segment(self, image: Tensor) -> Tensor:
        """Compute the class of each pixel.

        Args:
            image: Image, (N, H, W, K) uint8; RGB for three channels.

        Returns:
            Class ids, (N, H, W); uint8, or int16 for more than 256 classes. Planes of 0 and 1, (N, C, H, W) uint8, if
            the contract's decoding is "multilabel".

        Raises:
            ImageError: If `image` has the wrong shape, dtype or device, or is too large.
        """
        self._check_place("image", image)
        self._check_size(image)
        with _running():
            return self.module.segment(image)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Refuse to copy or pickle a program that uses oneDNN, because torch can't copy its weights.

        Raises:
            ExportError: If the file has target "cpu".
        """
        if self.contract.target == "cpu":
            raise ExportError(
                f"{self.path}: a loaded file of target 'cpu' can't be copied or pickled, because torch can't copy "
                "weights in oneDNN's layout. Load the file again where it is needed, or export with target='portable'"
            )
        return super().__reduce_ex__(protocol)

    def _check_size(self, image: Tensor) -> None:
        """Check the image's shape, dtype and size, which TorchScript would report in many lines or not at all.

        Raises:
            ImageError: If `image` is not an image batch, or if it, its resized form or its logits are too large.
        """
        check_batch(image, Preprocess(self.contract.card.preprocessing), self.contract.num_classes)

    def _check_place(self, name: str, image: object) -> None:
        """Check that the image is a tensor on a device that the file runs on; a compiled model would crash.

        Raises:
            ImageError: If it is not a tensor, or is on the wrong device.
        """
        if not isinstance(image, Tensor):
            raise ImageError(
                f"{name}: expected a torch.Tensor, got {type(image).__name__}; convert arrays with torch.from_numpy"
            )
        device = self.contract.device
        if image.device.type not in ("cpu", device):
            raise ImageError(
                f"{name}: is on {image.device}, but this file runs on {device}; move it with image.{device}()"
            )


@contextmanager
def _running() -> Iterator[None]:
    """Override the caller's torch settings and disable TorchScript's profiling, which makes the first two calls slow.

    Profiling recompiles in the second call for no gain: exports are already folded, and nothing is fused on CPUs.
    """
    check_not_forked()
    with neutral_state(), torch.jit.optimized_execution(False):
        yield


def read_contract(path: str | os.PathLike[str]) -> Contract:
    """Read the contract of an exported file without executing any of it.

    Raises:
        ExportError: If the file is not a complete export by segnets.
    """
    return _contract_in(open_container(_read(Path(path)), str(path)))


def load_exported(path: str | os.PathLike[str], *, keep_memory: bool = True) -> Exported:
    """Load an exported file onto its device. This executes the program in it.

    Args:
        path: A file that `export` wrote.
        keep_memory: Whether the process keeps the memory that a call frees for the next call, instead of returning it
            to the system. This saves up to a third of a batch's time. It changes malloc for the whole process (mallopt,
            glibc only), whose memory stays at its peak, and is logged once to "segnets" at level INFO. Exports for GPUs
            and ONNX files never change malloc: they manage their own memory.

    Returns:
        The loaded export.

    Raises:
        ExportError: If the file is not a complete, undamaged export by segnets, or can't run here.
    """
    exported = exported_from_bytes(_read(Path(path)), Path(path))
    if keep_memory and exported.contract.kind != "onnx" and exported.contract.device == "cpu":
        keep_freed_memory()
    return exported


def exported_from_bytes(data: bytes, path: Path) -> Exported:
    """Load the bytes of an exported file as `load_exported` does; `path` names it in messages."""
    container = open_container(data, str(path))
    contract = _contract_in(container)
    try:
        golden = safetensors.torch.load(container.read(GOLDEN_FILE))
    except SafetensorError as error:
        raise ExportError(f"{path}: {GOLDEN_FILE} is damaged ({error}). Export the model again") from None
    program = FORMATS[contract.kind].load(container, contract)
    return Exported(path, len(data), program, contract, golden)


def _contract_in(container: Container) -> Contract:
    contract = Contract.from_json(container.read(CONTRACT_FILE), container.where)
    if contract.kind != container.kind:
        raise ExportError(
            f"{container.where}: {CONTRACT_FILE} declares kind {contract.kind!r}, but the file is {container.kind}. "
            "Export the model again"
        )
    return contract


def _read(path: Path) -> bytes:
    try:
        # Checked before opening, because opening a pipe would wait forever.
        if path.exists() and not path.is_file():
            raise ExportError(f"{path}: is not a regular file. Pass a file written by segnets.export")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ExportError(f"{str(path)!r}: can't be read: {reason}") from None
