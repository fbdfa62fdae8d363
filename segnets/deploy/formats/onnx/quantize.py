"""int8 after training: an ONNX network whose convolutions compute in 8 bits, by ONNX Runtime's quantizer.

Weights get a scale per channel, activations one per tensor, from the range that they have on images of a folder. What
that costs is measured on images that were not used for it, and stands in the file's contract.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnets.card import JSON
from segnets.deploy._reason import reason_of
from segnets.deploy.check.golden import Golden, golden_input, make_golden
from segnets.deploy.check.reference import logits_of
from segnets.deploy.check.tolerance import TOLERANCE_FLOOR, compare_quantized, relative_difference
from segnets.deploy.formats.onnx.network import check_installed, session
from segnets.errors import ExportError, SegnetsError
from segnets.preprocessing import Preprocess, Preprocessing
from segnets.segmenter import Segmenter

MINIMUM_AGREEMENT = 0.9
# More change the ranges little, and take long.
MAX_IMAGES = 128
# Every how many images one is kept back to measure with, and from how many images on.
_HOLD_OUT_EVERY, _HOLD_OUT_FROM = 4, 4
_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_LATENCY_ROUNDS = 5


@dataclass(frozen=True)
class QuantizationReport:
    """What int8 costs and gives, measured on real images; `str()` of it is for people.

    method: library and settings. calibrated, measured: numbers of images; held_out: whether they are others.
    agreement, worst_agreement: share of pixels with the float32 network's class, of all images and of the worst one.
    logits_difference: the largest, relative to the largest logit of its image.
    size_ratio, latency_ratio: int8 to float32, of the networks; latency in turns, in one run on this machine.
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

    def to_json(self) -> dict[str, JSON]:
        """For the contract; without the latency, which is of one machine and moment."""
        return {
            "method": self.method,
            "images_calibrated": self.calibrated,
            "images_measured": self.measured,
            "held_out": self.held_out,
            "mask_agreement": round(self.agreement, 6),
            "worst_mask_agreement": round(self.worst_agreement, 6),
            "logits_difference": round(self.logits_difference, 6),
            "size_ratio": round(self.size_ratio, 6),
        }

    def __str__(self) -> str:
        which = "held out" if self.held_out else "the same ones: too few to hold any out"
        return (
            f"int8: calibrated on {self.calibrated} images, measured on {self.measured} ({which}): masks agree with "
            f"float32 on {self.agreement:.2%} of the pixels (worst image {self.worst_agreement:.2%}), logits differ "
            f"by at most {self.logits_difference:.1e} of the largest; {self.size_ratio:.2f} times the size, "
            f"{self.latency_ratio:.2f} times the time on this machine"
        )


def quantize(
    network: bytes, preprocessing: Preprocessing, folder: str | PathLike[str], minimum_agreement: float
) -> tuple[bytes, QuantizationReport]:
    """The network of `segnets.deploy.formats.onnx.network.network_of` in int8, and what that costs.

    Raises ExportError if the folder has no images, ONNX Runtime can't quantize it, or fewer than `minimum_agreement`
    of the pixels keep their class.
    """
    check_installed("dtype='int8'", "onnx", "onnxruntime")
    images = _images(folder)
    measured = images[_HOLD_OUT_EVERY - 1 :: _HOLD_OUT_EVERY] if len(images) >= _HOLD_OUT_FROM else images
    calibrated = [image for image in images if image not in measured] or images
    prepare = Preprocess(preprocessing)
    quantized, method = _quantized(network, (_prepared(prepare, path) for path in calibrated))
    report = _measure(
        network, quantized, [_prepared(prepare, path) for path in measured], method, len(calibrated), images != measured
    )
    if not report.agreement >= minimum_agreement:
        raise ExportError(
            f"int8 loses too much: {report}; at least {100 * minimum_agreement:.6g}% is asked for: give images like "
            "those that the network will see, more of them, or allow it with minimum_agreement (--minimum-agreement)"
        )
    return quantized, report


class _Scores(nn.Module):
    """A network of ONNX Runtime in the place of a model."""

    def __init__(self, network: bytes) -> None:
        super().__init__()
        self.session = session(network, "int8 network")

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": torch.from_numpy(self.session.run(["logits"], {"input": image.numpy()})[0])}


def quantized_golden(network: bytes, reference: nn.Module, preprocessing: Preprocessing) -> Golden:
    """The golden pair of an int8 network: its own answers, and how far the model's are from them.

    reference: in eval mode, float32, CPU. Raises ExportError if the logits are not finite.
    """
    model = _Scores(network)
    image = golden_input(preprocessing)
    compared = compare_quantized(lambda each: logits_of(model, each), reference, image, 0.0)
    tolerance = max(TOLERANCE_FLOOR, *(each.difference for each in compared))
    return make_golden(Segmenter(model, preprocessing).eval(), preprocessing, "int8", tolerance)


def _images(folder: str | PathLike[str]) -> list[Path]:
    """At most MAX_IMAGES, evenly from the sorted folder."""
    if not str(folder):
        raise ExportError("calibration='': expected a folder of images")
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
    except OSError as error:
        raise ExportError(f"calibration={str(folder)!r}: can't be read: {error.strerror or error}") from None
    if not paths:
        raise ExportError(f"calibration={str(folder)!r}: has no images ({', '.join(_ENDINGS)}) in it")
    step = max(1, -(-len(paths) // MAX_IMAGES))
    return paths[::step]


def _prepared(prepare: Preprocess, path: Path) -> Tensor:
    from PIL import Image, UnidentifiedImageError  # only here is an image read

    try:
        with Image.open(path) as picture:
            # Of 16-bit grey and of floating point pillow cuts off whatever is above 255.
            if picture.mode.startswith(("I", "F")):
                raise ExportError(f"{path}: has more than 8 bits per channel ({picture.mode}); save it with 8")
            pixels = np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ExportError(f"{path}: can't be read as an image: {reason_of(error)}") from None
    try:
        result: Tensor = prepare(torch.from_numpy(pixels)[None])
    except SegnetsError as error:
        raise ExportError(f"{path}: {error}") from None
    return result


class _Reader:
    """Gives ONNX Runtime one prepared image after the other."""

    def __init__(self, images: Iterator[Tensor]) -> None:
        self._images = images

    def get_next(self) -> Mapping[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"input": image.numpy()}


def _quantized(network: bytes, images: Iterator[Tensor]) -> tuple[bytes, str]:
    onnx: Any = import_module("onnx")
    tools: Any = import_module("onnxruntime.quantization")
    shapes: Any = import_module("onnxruntime.quantization.shape_inference")
    with tempfile.TemporaryDirectory(prefix="segnets-") as folder, _quiet():
        plain, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
        plain.write_bytes(network)
        try:
            shapes.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            tools.quantize_static(
                prepared,
                result,
                _Reader(images),
                quant_format=tools.QuantFormat.QDQ,
                per_channel=True,
                activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                calibrate_method=tools.CalibrationMethod.MinMax,
                extra_options={"CalibMovingAverage": True},
            )
        except SegnetsError:  # an image of the folder
            raise
        except Exception as error:  # whatever the quantizer's layers raise
            raise ExportError(f"the network can't be quantized: {reason_of(error)}") from error
        model = onnx.load(result)
    for message in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
    data: bytes = model.SerializeToString(deterministic=True)
    version = metadata.version("onnxruntime")
    return (
        data,
        f"onnxruntime {version} static QDQ, weights int8 per channel, activations uint8, moving average of ranges",
    )


def _measure(
    network: bytes, quantized: bytes, images: Sequence[Tensor], method: str, calibrated: int, held_out: bool
) -> QuantizationReport:
    plain, small = session(network, "float32 network"), session(quantized, "int8 network")

    def timed(which: Any, image: Tensor) -> tuple[Tensor, float]:
        start = time.perf_counter()
        logits = which.run(["logits"], {"input": image.numpy()})[0]
        return torch.from_numpy(logits), time.perf_counter() - start

    agreements, differences, pixels = [], [], []
    for image in images:
        expected, logits = timed(plain, image)[0], timed(small, image)[0]
        same = expected.argmax(dim=1) == logits.argmax(dim=1)
        agreements.append(float(same.double().mean()))
        pixels.append(same.numel())
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
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer gives advice through warnings and the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
