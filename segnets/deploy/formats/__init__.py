"""The formats of exported files, by name, behind one protocol: check options, draft a model, load a file."""

from __future__ import annotations

from collections.abc import Mapping

from segnets.deploy.formats._base import Container, Draft, ExportOptions, Format, Program
from segnets.deploy.formats._container import open_container
from segnets.deploy.formats.aoti import Aoti
from segnets.deploy.formats.onnx import Onnx
from segnets.deploy.formats.torchscript import TorchScript, network_for_cpu

FORMATS: Mapping[str, Format] = {"torchscript": TorchScript(), "aoti": Aoti(), "onnx": Onnx()}

__all__ = ["FORMATS", "Container", "Draft", "ExportOptions", "Format", "Program", "network_for_cpu", "open_container"]
