"""Benchmarks of exported files."""
