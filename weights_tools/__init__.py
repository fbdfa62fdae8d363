"""Fetch, inspect and convert checkpoints of other projects. Nothing in a file is ever executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weights_tools._compare import CompareReport, compare
    from weights_tools._convert import convert
    from weights_tools._export import StateDictExportReport, export
    from weights_tools._inspect import inspect
    from weights_tools._reports import ConversionReport, InspectReport
    from weights_tools.fetching.fetch import FetchReport, fetch

__all__ = [
    "CompareReport",
    "ConversionReport",
    "FetchReport",
    "InspectReport",
    "StateDictExportReport",
    "compare",
    "convert",
    "export",
    "fetch",
    "inspect",
]

_MODULES = {
    "CompareReport": "weights_tools._compare",
    "ConversionReport": "weights_tools._reports",
    "FetchReport": "weights_tools.fetching.fetch",
    "InspectReport": "weights_tools._reports",
    "StateDictExportReport": "weights_tools._export",
    "compare": "weights_tools._compare",
    "convert": "weights_tools._convert",
    "export": "weights_tools._export",
    "fetch": "weights_tools.fetching.fetch",
    "inspect": "weights_tools._inspect",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `weights-tools --help` does not wait for torch.
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
