"""Checkpoints in: fetch them, look at them, convert them to files of segnets. Nothing of a file is ever executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weights_tools.comparison import CompareReport, compare
    from weights_tools.conversion import convert
    from weights_tools.fetching.fetch import FetchReport, fetch
    from weights_tools.inspection import inspect
    from weights_tools.report import ConversionReport, InspectReport
    from weights_tools.way_back import ExportReport, export

__all__ = [
    "CompareReport",
    "ConversionReport",
    "ExportReport",
    "FetchReport",
    "InspectReport",
    "compare",
    "convert",
    "export",
    "fetch",
    "inspect",
]

_HOMES = {
    "CompareReport": "weights_tools.comparison",
    "ConversionReport": "weights_tools.report",
    "ExportReport": "weights_tools.way_back",
    "FetchReport": "weights_tools.fetching.fetch",
    "InspectReport": "weights_tools.report",
    "compare": "weights_tools.comparison",
    "convert": "weights_tools.conversion",
    "export": "weights_tools.way_back",
    "fetch": "weights_tools.fetching.fetch",
    "inspect": "weights_tools.inspection",
}


def __getattr__(name: str) -> Any:
    # Imported when first used: the command answers `--help` without waiting for torch.
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
