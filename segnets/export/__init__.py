"""Deploy: one file with network, preprocessing, contract and golden pair; and the proof that it agrees."""

from segnets.export.api import ExportReport, export
from segnets.export.contract import Contract
from segnets.export.onnx_join import join_onnx
from segnets.export.runtime import Exported, load_exported, read_contract
from segnets.export.verify import VerifyReport, verify

__all__ = [
    "Contract",
    "ExportReport",
    "Exported",
    "VerifyReport",
    "export",
    "join_onnx",
    "load_exported",
    "read_contract",
    "verify",
]
