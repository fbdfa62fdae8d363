"""Export a model to one file with preprocessing, contract and golden pair; load, verify and join such files."""

from segnets.deploy._export import ExportReport, export
from segnets.deploy._join_onnx import join_onnx
from segnets.deploy._load import Exported, load_exported, read_contract
from segnets.deploy._memory import keep_freed_memory
from segnets.deploy._verify import VerifyReport, verify
from segnets.deploy.contract import Contract

__all__ = [
    "Contract",
    "ExportReport",
    "Exported",
    "VerifyReport",
    "export",
    "join_onnx",
    "keep_freed_memory",
    "load_exported",
    "read_contract",
    "verify",
]
