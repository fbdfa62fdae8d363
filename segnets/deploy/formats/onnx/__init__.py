"""The format "onnx": a graph for ONNX Runtime, OpenVINO, TensorRT and others."""

from segnets.deploy.formats.onnx._format import MASK, PREPROCESS, Onnx
from segnets.deploy.formats.onnx.container import OnnxContainer
from segnets.deploy.formats.onnx.quantize import QuantizationReport

__all__ = ["MASK", "PREPROCESS", "Onnx", "OnnxContainer", "QuantizationReport"]
