"""Run networks independently of torch's global state: autocast, default device, float32 precision, gradients.

Deterministic mode and the number of threads are left as the caller set them, because they do not change masks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
_CPU = torch.device("cpu")


@contextmanager
def neutral_state(device: torch.device = _CPU) -> Iterator[None]:
    """Run a network in plain float32 without gradients, whatever the caller's torch settings. Takes microseconds.

    The default dtype is shared by all threads, so it is not changed: code that runs here must set its dtypes
    explicitly.

    Args:
        device: Device for new tensors without an explicit device.
    """
    with ExitStack() as stack:
        _leave_caller(stack, device)
        stack.enter_context(torch.inference_mode())
        yield


@contextmanager
def neutral_process() -> Iterator[None]:
    """Set the state for an export: as `neutral_state`, with float32 as the default dtype, outside inference mode.

    Other threads see the default dtype too. Inference mode would produce tensors that torch can't trace.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        _leave_caller(stack, _CPU)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def _leave_caller(stack: ExitStack, device: torch.device) -> None:
    for kind in _AUTOCAST_DEVICES:
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    if torch._C._len_torch_function_stack():  # a default device is such a mode, which slows down every call
        stack.enter_context(device)
    _FULL_PRECISION.enter(stack)


class _FullPrecision:
    """Full precision of oneDNN's float32, while any call needs it.

    `torch.set_float32_matmul_precision("medium")` and related settings let CPUs compute float32 in bfloat16. The
    setting is shared by all threads, so the first call raises the precision and the last one restores it.
    """

    _OPERATIONS = ("conv", "matmul")
    _LOWER = ("bf16", "tf32")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._before: dict[str, str] = {}

    def enter(self, stack: ExitStack) -> None:
        """Raise the precision until the stack is closed."""
        with self._lock:
            if not self._running:
                read = torch._C._get_fp32_precision_getter
                precisions = {operation: read("mkldnn", operation) for operation in self._OPERATIONS}
                self._before = {name: value for name, value in precisions.items() if value in self._LOWER}
                if not self._before:
                    return
                for operation in self._before:
                    torch._C._set_fp32_precision_setter("mkldnn", operation, "ieee")
            self._running += 1
        stack.callback(self._leave)

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running:
                return
            for operation, value in self._before.items():
                # "none" follows the setting for all operations, which may be the source of the value.
                torch._C._set_fp32_precision_setter("mkldnn", operation, "none")
                if torch._C._get_fp32_precision_getter("mkldnn", operation) != value:
                    torch._C._set_fp32_precision_setter("mkldnn", operation, value)


_FULL_PRECISION = _FullPrecision()
