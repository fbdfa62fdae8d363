"""The protocol of an export format, and helpers that formats share.

An export takes two steps. A format first drafts a model, and refuses a model or an option that it does not support
before anything is measured. Once the golden pair and the contract exist, it packs the draft into a file, which may
take minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from segnets.card import Decoding
from segnets.deploy.check.golden import Golden, make_golden
from segnets.deploy.contract import Contract, ContractFields
from segnets.deploy.passes.pipeline import Rewritten
from segnets.errors import ExportError
from segnets.preprocessing import Preprocessing
from segnets.resize_rules import DEFAULT_SHORT_SIDE, scaled_side

if TYPE_CHECKING:
    from segnets.deploy.formats.onnx.quantize import QuantizationReport


@dataclass(frozen=True)
class ExportOptions:
    """The arguments of `export` that a format interprets. `export` documents them."""

    output: str
    dtype: str
    device: str
    target: str
    opset: int | None
    calibration: str | os.PathLike[str] | None
    minimum_agreement: float | None
    size: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Draft:
    """A model translated to a format, but not yet packed into a file.

    Attributes:
        rewritten: The deployed network, and the changes of each pass.
        contract: Fields of the contract that the format determines.
        golden: Function that makes the golden pair of a plain model in eval mode, in float32 on the CPU.
        pack: Function that returns the bytes of a file that holds the model and the given files, by name.
        quantization: Cost of int8; None for other precisions.
    """

    rewritten: Rewritten
    contract: ContractFields
    golden: Callable[[nn.Module], Golden]
    pack: Callable[[Contract, Mapping[str, bytes]], bytes]
    quantization: QuantizationReport | None = None


class Container(Protocol):
    """An opened, undamaged exported file. Nothing in it was executed.

    Attributes:
        data: Contents of the file.
        where: Name of the file, for messages.
        kind: Format of the file, detected from its bytes.
    """

    data: bytes
    where: str
    kind: str

    def read(self, name: str) -> bytes:
        """Return the contents of one of segnets' files in the container.

        Raises:
            ExportError: If there is no such file.
        """


class Program(Protocol):
    """A loaded export."""

    def __call__(self, image: Tensor, /) -> Tensor | dict[str, Tensor]:
        """Compute logits, (N, C, h, w), or `{"out": logits}`, from a normalised image, (N, K, h, w) float32."""

    def preprocess(self, image: Tensor, /) -> Tensor:
        """Turn an image, (N, H, W, K) uint8, into the network's input, (N, K, h, w) float32."""

    def segment(self, image: Tensor, /) -> Tensor:
        """Compute class ids, (N, H, W), or planes, (N, C, H, W), from an image, (N, H, W, K) uint8."""


class Format(Protocol):
    """A format of exported files."""

    def check(self, options: ExportOptions) -> None:
        """Check that the format supports these options on this machine.

        Raises:
            ExportError: If an option is not supported.
        """

    def draft(
        self, model: nn.Module, preprocessing: Preprocessing, decoding: Decoding, options: ExportOptions
    ) -> Draft:
        """Translate a model without changing it.

        Raises:
            ExportError: If the format does not support the model.
        """

    def load(self, container: Container, contract: Contract) -> Program:
        """Load an exported file. This executes the program in it.

        Raises:
            ExportError: If the file can't be loaded, or can't run here.
        """


def golden_maker(
    preprocessing: Preprocessing, decoding: Decoding, dtype: str, shape: tuple[int, int, int] | None = None
) -> Callable[[nn.Module], Golden]:
    """Return a function that makes a plain model's golden pair for a file with this dtype and, if fixed, (N, H, W)."""
    return lambda reference: make_golden(reference, preprocessing, decoding, dtype, shape=shape)


def usual_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the typical size of images at the network's input, (height, width)."""
    if isinstance(preprocessing.size, tuple):
        return preprocessing.size
    if isinstance(preprocessing.size, float):
        side = scaled_side(DEFAULT_SHORT_SIDE, preprocessing.size)
    else:
        side = preprocessing.size or DEFAULT_SHORT_SIDE
    return side, side


def refuse_torchscript_options(name: str, options: ExportOptions, reason: str) -> None:
    """Refuse options that only TorchScript supports.

    Args:
        name: Format to export.
        options: Options to check.
        reason: Reason why the format has no targets.

    Raises:
        ExportError: If one of them is set.
    """
    if options.output == "dict":
        raise ExportError(f"output='dict' needs format='torchscript'; format={name!r} returns tensors. Omit output")
    if options.device != "cpu":
        raise ExportError(f"device={options.device!r} needs format='torchscript', not format={name!r}")
    if options.target != "portable":
        raise ExportError(f"target={options.target!r} needs format='torchscript'; {reason}. Omit target")


def refuse_onnx_options(name: str, options: ExportOptions) -> None:
    """Refuse options that only ONNX supports.

    Raises:
        ExportError: If one of them is set.
    """
    if options.opset is not None:
        raise ExportError(f"opset={options.opset!r} needs format='onnx', not format={name!r}")
    if options.size is not None:
        raise ExportError(
            f"size={options.size} needs format='onnx': a file of format={name!r} takes images of many sizes. To resize "
            "every image to one, pass Preprocessing(resize='fixed', size=(height, width)) (--resize 480x640)"
        )
    if options.dtype == "int8":
        raise ExportError(f"dtype='int8' needs format='onnx', not format={name!r}")
    if options.calibration is not None or options.minimum_agreement is not None:
        raise ExportError("calibration and minimum_agreement need dtype='int8'")
