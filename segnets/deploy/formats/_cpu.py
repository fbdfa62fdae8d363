"""Compare the CPU that a model was compiled for with the CPU of this machine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from segnets.card import JSON
from segnets.errors import ExportError

# Prefixes of the instructions that a compiler may use; other flags describe kernels and hypervisors.
_INSTRUCTIONS = (
    "sse",
    "ssse3",
    "avx",
    "fma",
    "f16c",
    "bmi",
    "amx",
    "vaes",
    "vpclmulqdq",
    "gfni",
    "popcnt",
    "movbe",
    "adx",
)
_INSTRUCTIONS_ARM = ("asimd", "sve", "bf16", "i8mm", "fphp", "atomics")
_ADVICE = "Export the model on a machine like this one, or with format='torchscript'"


def this_cpu() -> dict[str, JSON]:
    """Describe this CPU: platform, machine, and its extra instructions if the system lists them."""
    return {"platform": sys.platform, "machine": platform.machine(), "instructions": list(_instructions())}


def check_cpu(wanted: Mapping[str, JSON], where: str) -> None:
    """Check that this CPU runs a compiled model.

    Args:
        wanted: Description of the CPU that it was compiled for, by `this_cpu`.
        where: Name of the file, for messages.

    Raises:
        ExportError: If the platform or machine differs, or this CPU lacks instructions.
    """
    here = this_cpu()
    for key in ("platform", "machine"):
        if wanted.get(key) != here[key]:
            raise ExportError(f"{where}: was compiled for {key} {wanted.get(key)}, but this is {here[key]}. {_ADVICE}")
    instructions = wanted.get("instructions")
    known = here["instructions"]
    if not isinstance(instructions, list) or not isinstance(known, list) or not known:
        return  # the system does not list instructions
    if missing := [str(each) for each in instructions if each not in known]:
        raise ExportError(f"{where}: uses instructions that this CPU lacks: {', '.join(missing)}. {_ADVICE}")


def check_onednn(dtype: str, where: str) -> None:
    """Check that this LibTorch has oneDNN, and that it computes in `dtype` on this CPU.

    Raises:
        ExportError: If LibTorch lacks oneDNN, or oneDNN does not support `dtype` here.
    """
    if not torch.backends.mkldnn.is_available():
        raise ExportError(
            f"{where}: target='cpu' needs oneDNN, which this LibTorch lacks. Export with target='portable'"
        )
    if dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ExportError(f"{where}: oneDNN does not support bfloat16 on this CPU. Export with dtype='float32'")


def _instructions() -> Sequence[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except (OSError, ValueError):
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return sorted({flag for flag in flags if flag.startswith((*_INSTRUCTIONS, *_INSTRUCTIONS_ARM))})
