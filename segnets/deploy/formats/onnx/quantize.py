"""Quantize an ONNX network to int8 after training, with ONNX Runtime's quantizer.

Weights get one scale per channel. Activations get one scale per tensor, from their range on images of a folder. The
cost is measured on images that were not used for calibration, and recorded in the file's contract.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnets.card import JSON, Decoding
from segnets.deploy._reason import reason_of
from segnets.deploy.check.golden import Golden, golden_input, make_golden
from segnets.deploy.check.reference import logits_of
from segnets.deploy.check.tolerance import SHAPES, TOLERANCE_FLOOR, compare_quantized, ids_of, relative_difference
from segnets.deploy.formats.onnx._calibration import calibration_images, prepared_image
from segnets.deploy.formats.onnx.graph import list_domains_once, name_producer, strip_metadata
from segnets.deploy.formats.onnx.runtime import Session, check_installed, session
from segnets.errors import ExportError, SegnetsError
from segnets.preprocessing import Preprocess, Preprocessing

MINIMUM_AGREEMENT = 0.9
# One image in four is held out to measure with, if there are at least four.
_HOLD_OUT_EVERY, _HOLD_OUT_FROM = 4, 4
_LATENCY_ROUNDS = 5
# To find the layers that lose most: groups to leave out in turn, and images to compare on.
_GROUPS, _SENSITIVITY_IMAGES = 12, 2


@dataclass(frozen=True)
class QuantizationReport:
    """Cost and gain of int8, measured on images; `str()` formats it for people.

    Attributes:
        method: Library and settings.
        calibrated: Number of images used for calibration.
        measured: Number of images used for measuring.
        held_out: Whether the measured images were not used for calibration.
        agreement: Share of pixels that keep the float32 network's class, over all measured images.
        worst_agreement: The same share in the worst image.
        logits_difference: Largest difference of the logits, relative to the largest logit of its image.
        size_ratio: Size of the int8 network, relative to float32.
        latency_ratio: Latency of the int8 network, relative to float32. The networks took turns on this machine.
        minimum_agreement: Smallest `agreement` that is accepted.
    """

    method: str
    calibrated: int
    measured: int
    held_out: bool
    agreement: float
    worst_agreement: float
    logits_difference: float
    size_ratio: float
    latency_ratio: float
    minimum_agreement: float = MINIMUM_AGREEMENT

    def to_json(self) -> dict[str, JSON]:
        """Return the report for the contract, without the latency, which other machines don't share."""
        return {
            "method": self.method,
            "images_calibrated": self.calibrated,
            "images_measured": self.measured,
            "held_out": self.held_out,
            "mask_agreement": round(self.agreement, 6),
            "minimum_agreement": self.minimum_agreement,
            "worst_mask_agreement": round(self.worst_agreement, 6),
            "logits_difference": round(self.logits_difference, 6),
            "size_ratio": round(self.size_ratio, 6),
        }

    def __str__(self) -> str:
        which = "held out" if self.held_out else "the same ones: too few to hold any out"
        return (
            f"int8 ({self.method}): calibrated on {self.calibrated} images, measured on {self.measured} ({which}): "
            f"masks agree with float32 on {self.agreement:.2%} of the pixels (worst image {self.worst_agreement:.2%}), "
            f"at least {100 * self.minimum_agreement:.6g}% is required; logits differ "
            f"by at most {self.logits_difference:.1e} of the largest; {self.size_ratio:.2f} times the size, "
            f"{self.latency_ratio:.2f} times the time on this machine"
        )


def quantize(
    network: bytes,
    preprocessing: Preprocessing,
    decoding: Decoding,
    folder: str | PathLike[str],
    minimum_agreement: float,
) -> tuple[bytes, QuantizationReport]:
    """Quantize a network, and measure the cost.

    If int8 loses too much, it is tried again with 16-bit activations, and without the layers that lose most.

    Args:
        network: Serialized model, by `segnets.deploy.formats.onnx.network.network_of`.
        preprocessing: Preprocessing of the images.
        decoding: Rule that turns logits into ids.
        folder: Folder of images for calibration and measuring.
        minimum_agreement: Share of pixels that must keep their class, 0 to 1.

    Returns:
        The serialized int8 model, and the measured cost.

    Raises:
        ExportError: If the folder has no images, ONNX Runtime can't quantize the network, or fewer than
            `minimum_agreement` of the pixels keep their class.
    """
    check_installed("dtype='int8'", "onnx", "onnxruntime")
    images = calibration_images(folder)
    measured = images[_HOLD_OUT_EVERY - 1 :: _HOLD_OUT_EVERY] if len(images) >= _HOLD_OUT_FROM else images
    calibrated = [image for image in images if image not in measured] or images
    prepare = Preprocess(preprocessing)
    with tempfile.TemporaryDirectory(prefix="segnets-") as folder_:
        quantizer = _Quantizer(
            network, decoding, Path(folder_), lambda: (prepared_image(prepare, path) for path in calibrated)
        )
        best: tuple[bytes, QuantizationReport] | None = None
        for settings in quantizer.ladder():
            quantized = quantizer.quantized(settings)
            report = _measure(
                (network, quantized),
                decoding,
                [prepared_image(prepare, path) for path in measured],
                settings.method(),
                len(calibrated),
                images != measured,
                minimum_agreement,
            )
            if report.agreement >= minimum_agreement:
                return quantized, report
            if best is None or report.agreement > best[1].agreement:
                best = quantized, report
    assert best is not None
    raise ExportError(
        "int8 loses too much, even with 16-bit activations and without the layers that lose most. The best was "
        f"{best[1]}. Export in float32, lower minimum_agreement (--minimum-agreement), or add more images like those "
        "that the network will see"
    )


class _OnnxModel(nn.Module):
    """A network in ONNX Runtime, called like a model."""

    def __init__(self, network: bytes) -> None:
        super().__init__()
        self.session = session(network, "int8 network")

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": torch.from_numpy(self.session.run(["logits"], {"input": image.numpy()})[0])}


def quantized_golden(
    network: bytes,
    reference: nn.Module,
    preprocessing: Preprocessing,
    decoding: Decoding,
    shape: tuple[int, int, int] | None = None,
) -> Golden:
    """Make the golden pair of an int8 network from its own output.

    Args:
        network: Serialized int8 model.
        reference: Plain model in eval mode, in float32 on the CPU. Its difference from the network is the tolerance.
        preprocessing: Preprocessing of the network.
        decoding: Rule that turns its logits into ids.
        shape: Batch, height and width of its input if they are fixed, else None.

    Raises:
        ExportError: If the logits are not finite.
    """
    model = _OnnxModel(network)
    image = golden_input(preprocessing)
    shapes = (shape,) if shape else SHAPES
    compared = compare_quantized(lambda each: logits_of(model, each), reference, image, 0.0, decoding, shapes)
    tolerance = max(TOLERANCE_FLOOR, *(each.difference for each in compared))
    return make_golden(model.eval(), preprocessing, decoding, "int8", tolerance, shape)


class _Reader:
    """Source of prepared images for ONNX Runtime's calibration."""

    def __init__(self, images: Iterator[Tensor]) -> None:
        self._images = images

    def get_next(self) -> Mapping[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"input": image.numpy()}


@dataclass(frozen=True)
class _Settings:
    """One attempt to quantize a network.

    Attributes:
        activations: Type of the activations, "uint8" or "uint16".
        left_out: Names of the nodes that stay in float32.
        share: Share of all nodes that are left out.
    """

    activations: str = "uint8"
    left_out: tuple[str, ...] = ()
    share: float = 0.0

    def method(self) -> str:
        """Describe the attempt for the report."""
        without = f", {self.share:.0%} of the layers, which lose most, in float32" if self.left_out else ""
        return (
            f"onnxruntime {metadata.version('onnxruntime')} static QDQ, weights int8 per channel, activations "
            f"{self.activations}, moving average of ranges{without}"
        )


class _Quantizer:
    """ONNX Runtime's quantizer for one network.

    Args:
        network: Serialized float32 model.
        decoding: Rule that turns logits into ids.
        folder: Folder for the files that it writes.
        images: Function that returns the prepared images for calibration.

    Raises:
        ExportError: If ONNX Runtime can't prepare the network.
    """

    def __init__(
        self, network: bytes, decoding: Decoding, folder: Path, images: Callable[[], Iterator[Tensor]]
    ) -> None:
        self._decoding, self._images = decoding, images
        self._prepared, self._result = folder / "prepared.onnx", folder / "int8.onnx"
        plain = folder / "plain.onnx"
        plain.write_bytes(network)
        shapes: Any = import_module("onnxruntime.quantization.shape_inference")
        with _errors():
            shapes.quant_pre_process(plain, self._prepared, skip_symbolic_shape=True)

    def ladder(self) -> Iterator[_Settings]:
        """Yield settings to try, from the fastest to the most exact. Later ones are found by measuring."""
        yield _Settings()
        yield _Settings("uint16")
        groups, layers = self._by_loss(), self._layers()
        count = sum(map(len, groups))
        for activations, part in (("uint8", 4), ("uint16", 4), ("uint16", 2)):
            names = tuple(name for group in groups[: max(1, len(groups) // part)] for name in group)
            if not layers <= set(names):  # otherwise nothing would be int8
                yield _Settings(activations, names, len(names) / count)

    def quantized(self, settings: _Settings, images: Sequence[Tensor] | None = None) -> bytes:
        """Quantize the network.

        Args:
            settings: Settings of this attempt.
            images: Prepared images for calibration; None for all.

        Raises:
            ExportError: If ONNX Runtime can't quantize the network, or an image can't be read.
        """
        onnx: Any = import_module("onnx")
        tools: Any = import_module("onnxruntime.quantization")
        with _errors():
            tools.quantize_static(
                self._prepared,
                self._result,
                _Reader(self._images() if images is None else iter(images)),
                quant_format=tools.QuantFormat.QDQ,
                per_channel=True,
                activation_type=tools.QuantType.QUInt16 if settings.activations == "uint16" else tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                nodes_to_exclude=list(settings.left_out),
                calibrate_method=tools.CalibrationMethod.MinMax,
                extra_options={"CalibMovingAverage": True},
            )
        model = onnx.load(self._result)
        strip_metadata(model)
        list_domains_once(model)
        name_producer(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _layers(self) -> set[str]:
        """Return the names of the nodes that have weights."""
        onnx: Any = import_module("onnx")
        kinds = ("Conv", "Gemm", "MatMul")
        return {node.name for node in onnx.load(self._prepared).graph.node if node.op_type in kinds}

    def _by_loss(self) -> list[list[str]]:
        """Return groups of successive nodes, those that lose most first.

        The groups are ranked by the agreement with float32 without them, measured on two calibration images.
        """
        onnx: Any = import_module("onnx")
        names = [node.name for node in onnx.load(self._prepared).graph.node if node.name]
        size = -(-len(names) // _GROUPS)
        groups = [names[start : start + size] for start in range(0, len(names), size)]
        images = list(islice(self._images(), _SENSITIVITY_IMAGES))
        plain = session(self._prepared.read_bytes(), "float32 network")

        def agreement(left_out: Sequence[str]) -> float:
            small = session(self.quantized(_Settings(left_out=tuple(left_out)), images), "int8 network")
            return float(
                np.mean([_agreement(_logits(plain, image), _logits(small, image), self._decoding) for image in images])
            )

        return sorted(groups, key=agreement, reverse=True)


@contextmanager
def _errors() -> Iterator[None]:
    """Silence the quantizer, and turn its errors, which have many types, into one.

    Raises:
        ExportError: If it fails.
    """
    try:
        with _quiet():
            yield
    except SegnetsError:  # about an image of the folder
        raise
    except Exception as error:
        raise ExportError(f"the network can't be quantized: {reason_of(error)}") from error


def _logits(network: Session, image: Tensor) -> Tensor:
    return torch.from_numpy(network.run(["logits"], {"input": image.numpy()})[0])


def _agreement(expected: Tensor, logits: Tensor, decoding: Decoding) -> float:
    """Return the share of pixels with the same id, or, for the rule "multilabel", with the same planes."""
    same = ids_of(expected, decoding) == ids_of(logits, decoding)
    return float((same.all(dim=1) if decoding.rule == "multilabel" else same).double().mean())


def _measure(
    networks: tuple[bytes, bytes],
    decoding: Decoding,
    images: Sequence[Tensor],
    method: str,
    calibrated: int,
    held_out: bool,
    minimum_agreement: float,
) -> QuantizationReport:
    """Measure the second of two networks, in int8, against the first."""
    network, quantized = networks
    plain, small = session(network, "float32 network"), session(quantized, "int8 network")

    def timed(which: Session, image: Tensor) -> tuple[Tensor, float]:
        start = time.perf_counter()
        logits = _logits(which, image)
        return logits, time.perf_counter() - start

    agreements, differences, pixels = [], [], []
    for image in images:
        expected, logits = timed(plain, image)[0], timed(small, image)[0]
        agreements.append(_agreement(expected, logits, decoding))
        pixels.append(expected.numel() // expected.shape[1])
        differences.append(relative_difference(logits, expected))
    ratios = [timed(small, images[0])[1] / timed(plain, images[0])[1] for _ in range(_LATENCY_ROUNDS)]
    return QuantizationReport(
        method=method,
        calibrated=calibrated,
        measured=len(images),
        held_out=held_out,
        agreement=float(np.average(agreements, weights=pixels)),
        worst_agreement=min(agreements),
        logits_difference=max(differences),
        size_ratio=len(quantized) / len(network),
        latency_ratio=statistics.median(ratios),
        minimum_agreement=minimum_agreement,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer, which gives advice through warnings and the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
