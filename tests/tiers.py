"""Choose which cases of a parametrized test run every time; `--full` runs the rest too."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def full_but(chosen: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Return `cases` as parameters of a test, all but the chosen ones marked `full`.

    Args:
        chosen: Cases that run every time; each must be one of `cases`.
        cases: All values of the parameter, or tuples of values for several parameters.

    Returns:
        The cases in their order, for `pytest.mark.parametrize`.
    """
    cases = list(cases)
    unknown = [each for each in chosen if each not in cases]
    assert not unknown, f"not among the cases: {unknown}"
    return [case if case in chosen else _full(case) for case in cases]


def _full(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.full)
