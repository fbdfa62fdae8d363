"""Detect a process that was forked from one in which torch used several threads.

The forked process does not have these threads, and the next parallel operation waits for them forever.
"""

from __future__ import annotations

import os

import torch

from segnets.errors import ForkError

_process_with_threads: int | None = None


def check_not_forked() -> None:
    """Check that a network can run in this process, and remember that it did.

    One thread needs no others: such a process may be forked at any time, and may run a network after any fork.

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
