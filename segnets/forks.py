"""Detect a process that was forked from one in which torch used several threads.

The forked process does not have these threads, and the next parallel operation waits for them forever. OpenMP keeps
them for each calling thread, so work in a new thread starts others.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from segnets.errors import ForkError

Result = TypeVar("Result")

_process_with_threads: int | None = None
_importer = os.getpid()


def check_not_forked() -> None:
    """Check that a network can run in this process, and record that it did.

    A process in which torch uses one thread may be forked at any time, and may run a network after any fork.

    Raises:
        ForkError: If this process was forked after a network had run in several threads.
    """
    global _process_with_threads
    if torch.get_num_threads() == 1:
        return
    here = os.getpid()
    if _process_with_threads is None:
        _process_with_threads = here
    elif _process_with_threads != here:
        raise ForkError(
            f"this process was forked from process {_process_with_threads}, which had already run a network in several "
            "threads: a call would wait for these threads forever. Fork before the first call, start processes with "
            "multiprocessing's 'spawn', or call torch.set_num_threads(1) in it"
        )


def run_threaded(work: Callable[[], Result]) -> Result:
    """Call a function that copies or converts tensors in torch's threads, also in a forked process.

    In a process that may have been forked, the call runs in a new thread. This works too if torch alone ran before the
    fork, which `check_not_forked` can't detect. The thread has torch's default grad mode, autocast and device.

    Args:
        work: Function to call once. Its exceptions propagate.
    """
    # The second condition is for a worker process that imports segnets only after the fork.
    if os.getpid() == _importer and multiprocessing.parent_process() is None:
        return work()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
