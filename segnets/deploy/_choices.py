"""Choose the format and the target of an export where the caller leaves them open."""

from __future__ import annotations

from pathlib import Path

import torch

from segnets.errors import ExportError
from segnets.files import format_of_suffix

SUFFIXES = {".ts": "torchscript", ".pt": "torchscript", ".pt2": "aoti", ".onnx": "onnx"}
AUTO = "auto"


def choose_format(path: Path, wanted: str | None) -> str:
    """Return the format of a file to write.

    Args:
        path: The file.
        wanted: A known format, or None for the format of the suffix.

    Raises:
        ExportError: If the suffix belongs to no format and `wanted` is None, or belongs to a different format.
    """
    usual = SUFFIXES.get(path.suffix.lower())
    if wanted is None and usual is None:
        suffix = f"the suffix {path.suffix!r}" if path.suffix else "a name without a suffix"
        every = ", ".join(f"{name} ({each})" for name, each in SUFFIXES.items())
        raise ExportError(f"{path}: {suffix} does not determine the format. Use the suffix {every}, or pass the format")
    other = usual or format_of_suffix(path)
    if wanted is not None and other not in ("", wanted):
        own = " or ".join(name for name, each in SUFFIXES.items() if each == wanted)
        raise ExportError(f"{path}: the suffix {path.suffix!r} is for {other}, not for {wanted}. Use the suffix {own}")
    return wanted or usual or ""


def choose_target(format: str, device: str) -> tuple[str, str]:  # noqa: A002
    """Return the target for `target="auto"`, and a sentence on the alternative.

    Only TorchScript for CPUs has several targets; for other files the target is "portable", and the sentence is "".
    """
    if format != "torchscript" or device != "cpu":
        return "portable", ""
    if torch.backends.mkldnn.is_available():
        return "cpu", (
            "target cpu: the fastest, for every LibTorch with oneDNN. target='portable' (--target portable) is slower; "
            "it runs in every LibTorch, can be frozen and saved again, and other tools can read it"
        )
    return portable_because("this LibTorch lacks oneDNN")


def portable_because(reason: str) -> tuple[str, str]:
    """Return the target "portable", and a sentence that explains why it is not "cpu"."""
    return "portable", f"target portable: runs in every LibTorch, slower than target='cpu' (--target cpu): {reason}"
