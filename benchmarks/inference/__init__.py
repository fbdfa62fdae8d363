"""Benchmarks of inference: from images to masks."""
