"""Outputs of a prediction, one file each."""
