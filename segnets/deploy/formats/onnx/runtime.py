"""Run ONNX graphs in ONNX Runtime, which is an optional package."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping, Sequence
from importlib import import_module, util
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from segnets.deploy._reason import reason_of
from segnets.errors import ExportError

_opened: weakref.WeakSet[Session] = weakref.WeakSet()


def _keep_after_fork() -> None:
    """Keep the sessions of the parent process in a forked one, whatever happens there.

    Destroying a session waits for its threads to end, and the forked process does not have them. A reference that
    Python doesn't own survives the end of the interpreter too.
    """
    for each in _opened:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_after_fork)


class Session(Protocol):
    """A session of ONNX Runtime."""

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, np.ndarray[Any, Any]], /) -> list[Any]:
        """Return the named outputs, or all of them, as arrays."""


def check_installed(needed: str, *names: str) -> None:
    """Check that packages are installed.

    Args:
        needed: Feature that needs the packages, for the message.
        *names: Names of the packages.

    Raises:
        ExportError: If a package is not installed.
    """
    if missing := [name for name in names if util.find_spec(name) is None]:
        verb = "is" if len(missing) == 1 else "are"
        raise ExportError(
            f"{needed} needs {' and '.join(missing)}, which {verb} not installed: pip install 'segnets[onnx]'"
        )


def session(data: bytes, where: str, *, spin: bool = True) -> Session:
    """Open a session on the CPU, with as many threads as torch has.

    Args:
        data: Serialized model.
        where: Name of the file, for messages.
        spin: Whether idle threads spin for a while instead of sleeping.

    Raises:
        ExportError: If ONNX Runtime can't load the model.
    """
    try:
        onnxruntime: Any = import_module("onnxruntime")
    except ImportError as error:  # installed, but broken or for another system
        raise ExportError(f"{where}: needs onnxruntime, which can't be loaded here: {reason_of(error)}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # the error has the same text
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    try:
        opened: Session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base class
        raise ExportError(f"{where}: ONNX Runtime can't load it: {reason_of(error)}") from None
    _opened.add(opened)
    return opened


def run(program: Session, inputs: Mapping[str, Tensor], where: str) -> Tensor:
    """Run a session that has one output.

    Args:
        program: Session to run.
        inputs: Inputs by name.
        where: Name of the file, for messages.

    Raises:
        ExportError: If ONNX Runtime fails.
    """
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in inputs.items()}
    try:
        (result,) = program.run(None, arrays)
    except Exception as error:  # its errors have no common base class
        raise ExportError(f"{where}: ONNX Runtime can't run it: {reason_of(error)}") from None
    return torch.from_numpy(result)
