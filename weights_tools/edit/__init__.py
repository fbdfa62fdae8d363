"""Edit recognised weights at the caller's request: heads, classes, dtype."""

from __future__ import annotations

from weights_tools.edit._classes import ClassMap
from weights_tools.edit._edits import DTYPES, Edits
from weights_tools.edit._weights import Weights

__all__ = ["DTYPES", "ClassMap", "Edits", "Weights"]
