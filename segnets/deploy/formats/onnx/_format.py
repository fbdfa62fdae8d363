"""Draft, pack and load ONNX files.

The graph of the file is the network alone, with dynamic batch, height and width unless they are fixed. Preprocessing
and decoding are two small graphs in the metadata of the file, so that runtimes that don't support them still run the
network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from segnets.card import Decoding
from segnets.deploy.contract import Bounds, Contract
from segnets.deploy.formats._base import Container, Draft, ExportOptions, golden_maker, refuse_torchscript_options
from segnets.deploy.formats.onnx._calibration import calibration_images
from segnets.deploy.formats.onnx.container import pack
from segnets.deploy.formats.onnx.graph import opset_of, parsed
from segnets.deploy.formats.onnx.image_graphs import mask_text, preprocess_text
from segnets.deploy.formats.onnx.network import DEFAULT_OPSET, check_opset, network_of
from segnets.deploy.formats.onnx.quantize import MINIMUM_AGREEMENT, quantize, quantized_golden
from segnets.deploy.formats.onnx.runtime import Session, check_installed, run, session
from segnets.deploy.passes.context import Context
from segnets.deploy.passes.pipeline import rewrite
from segnets.errors import ExportError, ImageError
from segnets.preprocessing import Preprocess, Preprocessing, check_image, check_input

PREPROCESS, MASK = "preprocess.onnx", "mask.onnx"
_AXES = {0: "batch", 2: "height", 3: "width"}


class Onnx:
    """The format "onnx"."""

    def check(self, options: ExportOptions) -> None:
        """Check that ONNX supports these options, that its packages are installed, and that there are images.

        Raises:
            ExportError: If an option is not supported, a package is missing, or there are no calibration images.
        """
        refuse_torchscript_options("onnx", options, "an ONNX file runs everywhere")
        if options.dtype not in ("float32", "int8"):
            raise ExportError(f"dtype={options.dtype!r}: format='onnx' takes 'float32' or 'int8'")
        if options.opset is not None:
            check_opset(options.opset)
        if options.dtype == "int8" and options.calibration is None:
            raise ExportError("dtype='int8' needs calibration, a folder of images like those that the network will see")
        if options.dtype != "int8" and (options.calibration is not None or options.minimum_agreement is not None):
            raise ExportError("calibration and minimum_agreement need dtype='int8'")
        if options.minimum_agreement is not None and not 0 <= options.minimum_agreement <= 1:
            raise ExportError(
                f"minimum_agreement={options.minimum_agreement!r}: expected a share of the pixels, 0 to 1"
            )
        if options.dtype == "int8" and options.size is not None and options.size[0] != 1:
            raise ExportError(
                f"size={options.size} with dtype='int8': calibration takes one image at a time. Use a batch of 1"
            )
        check_installed("format='onnx'", "onnx", "onnxscript", "onnxruntime")
        if options.calibration is not None:
            calibration_images(options.calibration)  # fail early: the translation takes seconds

    def draft(
        self, model: nn.Module, preprocessing: Preprocessing, decoding: Decoding, options: ExportOptions
    ) -> Draft:
        """Translate a copy of a model to a graph; quantize it for int8.

        Raises:
            ExportError: If the model can't be translated, or loses too much in int8.
        """
        opset = options.opset or DEFAULT_OPSET
        shape = None if options.size is None else (options.size[0], *options.size[2:])
        bounds = {} if shape is None else {axis: (n, n) for axis, n in zip(_AXES.values(), shape, strict=True)}
        rewritten = rewrite(model, Context("onnx", "portable", channels=preprocessing.channels))
        network = network_of(
            rewritten.network, opset, preprocessing.channels, shape, for_quantization=options.dtype == "int8"
        )
        if options.calibration is None:
            return Draft(
                rewritten,
                {"opset": opset, "bounds": bounds},
                golden_maker(preprocessing, decoding, options.dtype, shape),
                lambda contract, files: packed(network, contract, files),
            )
        agreement = MINIMUM_AGREEMENT if options.minimum_agreement is None else options.minimum_agreement
        quantized, report = quantize(network, preprocessing, decoding, options.calibration, agreement)
        return Draft(
            rewritten,
            # ONNX Runtime raises the opset for 16-bit activations.
            {"opset": opset_of(quantized), "bounds": bounds, "quantization": report.to_json()},
            lambda reference: quantized_golden(quantized, reference, preprocessing, decoding, shape),
            lambda contract, files: packed(quantized, contract, files),
            report,
        )

    def load(self, container: Container, contract: Contract) -> OnnxProgram:
        """Load a file into ONNX Runtime.

        Raises:
            ExportError: If ONNX Runtime is not installed or can't load it.
        """
        where = container.where
        check_installed(f"{where}: an ONNX file", "onnxruntime")
        # The three sessions take turns. Idle threads of one must not spin, which slows down the next.
        image, mask = (session(container.read(name), f"{where}: {name}", spin=False) for name in (PREPROCESS, MASK))
        checks = Preprocess(contract.card.preprocessing)
        return OnnxProgram(session(container.data, where), image, mask, checks, where, contract.bounds)


@dataclass(frozen=True)
class OnnxProgram:
    """A loaded ONNX file.

    Attributes:
        network: Session of the network, "input" to "logits".
        image: Session of the preprocessing, "image" to "input".
        mask: Session of the decoding, "logits" and "size" to "mask".
        checks: Preprocessing in Python, which refuses images that would become too large.
        where: Name of the file, for messages.
        bounds: Smallest and largest batch, height and width of the network's input; empty for any.
    """

    network: Session
    image: Session
    mask: Session
    checks: Preprocess
    where: str
    bounds: Bounds = field(default_factory=dict)

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the logits, (N, C, h, w), of a normalised image, (N, K, h, w).

        Raises:
            ImageError: If `image` has the wrong shape or dtype, or is outside the bounds.
        """
        check_input(image, self.checks.channels)
        for axis, name in _AXES.items():
            self._check_bounds("input", name, image.shape[axis])
        return run(self.network, {"input": image.to(torch.float32)}, self.where)

    def preprocess(self, image: Tensor) -> Tensor:
        """Preprocess an image as `Segmenter.preprocess` does."""
        check_image(image, self.checks.channels)
        self.checks.output_size(image.shape[1], image.shape[2])  # raises for an image that would become too large
        return run(self.image, {"image": image}, self.where)

    def segment(self, image: Tensor) -> Tensor:
        """Segment an image as `Segmenter.segment` does."""
        check_image(image, self.checks.channels)
        self._check_bounds("image", "batch", image.shape[0])
        logits = self(self.preprocess(image))
        size = torch.tensor([image.shape[1], image.shape[2]])
        return run(self.mask, {"logits": logits, "size": size}, self.where)

    def _check_bounds(self, given: str, name: str, length: int) -> None:
        low, high = self.bounds.get(name, (length, length))
        if not low <= length <= high:
            raise ImageError(
                f"{given}: a {name} of {length}, but this file was exported for a {name} of {low}. Export with another "
                "size, or omit size (--size) for any size"
            )


def packed(network: bytes, contract: Contract, files: Mapping[str, bytes]) -> bytes:
    """Return the bytes of an ONNX file.

    Args:
        network: Serialized graph of the network.
        contract: Contract of the file.
        files: Further files to include, by name. JSON files stay readable; others become base64.
    """
    graphs = {
        PREPROCESS: parsed(preprocess_text(contract.card.preprocessing, contract.opset)),
        MASK: parsed(mask_text(contract.num_classes, contract.decoding, contract.opset)),
    }
    texts = {name: contents.decode() for name, contents in files.items() if name.endswith(".json")}
    return pack(network, texts, {**{n: c for n, c in files.items() if n not in texts}, **graphs})
