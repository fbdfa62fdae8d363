"""Copied initial values for the tests of all networks."""

from tests.initial_values import copied_initial_values, drawn_initial_values

__all__ = ["copied_initial_values", "drawn_initial_values"]
