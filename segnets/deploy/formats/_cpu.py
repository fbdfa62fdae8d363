"""Which processor machine code was compiled for, and whether this one can run it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from segnets.card import JSON
from segnets.errors import ExportError

# Instructions that a compiler may use where it finds them; the other flags are about kernels and hypervisors.
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


def this_processor() -> dict[str, JSON]:
    """platform, machine and the instructions beyond the common ones, as far as the system names them."""
    return {"platform": sys.platform, "machine": platform.machine(), "instructions": list(_instructions())}


def check_processor(wanted: Mapping[str, JSON], where: str) -> None:
    """Raise ExportError if this processor lacks what `wanted`, an earlier `this_processor`, had."""
    here = this_processor()
    for key in ("platform", "machine"):
        if wanted.get(key) != here[key]:
            raise ExportError(f"{where}: was compiled for {key} {wanted.get(key)}, and this is {here[key]}; {_ADVICE}")
    instructions = wanted.get("instructions")
    known = here["instructions"]
    if not isinstance(instructions, list) or not isinstance(known, list) or not known:
        return  # the system does not tell
    if missing := [str(each) for each in instructions if each not in known]:
        raise ExportError(f"{where}: uses instructions that this processor lacks: {', '.join(missing)}; {_ADVICE}")


def check_onednn(dtype: str, where: str) -> None:
    """Raise ExportError if this LibTorch has no oneDNN, or none that computes in `dtype` on this processor."""
    if not torch.backends.mkldnn.is_available():
        raise ExportError(
            f"{where}: target='cpu' needs oneDNN, which this LibTorch lacks; export with target='portable'"
        )
    if dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ExportError(f"{where}: this processor has no bfloat16 that oneDNN could use; export with dtype='float32'")


_ADVICE = "export the model on a machine like this one, or with format='torchscript'"


def _instructions() -> Sequence[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except (OSError, ValueError):
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return sorted({flag for flag in flags if flag.startswith((*_INSTRUCTIONS, *_INSTRUCTIONS_ARM))})
