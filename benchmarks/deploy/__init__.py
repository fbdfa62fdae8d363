"""Measures of exported files."""
