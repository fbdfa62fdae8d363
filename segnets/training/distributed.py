"""Distributed training: several processes started by torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from segnets.errors import DataError, OutputError, SegnetsError, TrainingError

_LOST = ("Connection closed", "Connection reset", "Broken pipe", "gloo", "NCCL", "Timed out")


@dataclass(frozen=True)
class Ranks:
    """Rank and device of this process in a distributed run.

    Attributes:
        rank: Rank of this process, 0..world - 1.
        world: Number of processes.
        device: Device of this process.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """True if this is the process that writes files and messages."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place. All processes must call this."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, with a gradient. All processes must call this.

        The gradient is that of this process times the number of processes: `DistributedDataParallel` divides by it.
        """
        if self.world == 1:
            return values
        own = values * self.world
        return self.sum(values.detach().clone()) + (own - own.detach())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process. All processes must call this."""
        if self.world == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag))) > 0)  # on the CPU, to avoid waiting for a GPU

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """Raise an error in all processes if any of them raises one in this block.

        Otherwise the other processes would wait forever. All processes must enter the block, and must not
        communicate inside it.

        Raises:
            DataError: If any process raised one.
            OutputError: If any process raised one.
            TrainingError: If any process raised one, or any other SegnetsError.
        """
        error: SegnetsError | None = None
        try:
            yield
        except SegnetsError as caught:
            if self.world == 1:
                raise
            error = caught
        if self.world == 1 or not self.any(error is not None):
            return
        kinds = (DataError, OutputError, TrainingError)
        own = None if error is None else ([isinstance(error, kind) for kind in kinds], str(error))
        which, text = next(each for each in self.gather(own) if each is not None)
        raise next((kind for kind, fits in zip(kinds, which, strict=True) if fits), TrainingError)(text)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in rank order. All processes must call this."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def share_buffers(self, module: nn.Module) -> None:
        """Copy the buffers of the first process to the others. All processes must call this."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.world > 1:
            dist.barrier()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the process group that torchrun started, and leave it at the end. Without torchrun, there is one process.

    Args:
        device: "auto", "cpu", "cuda", "cuda:N" or "mps". "auto" selects a CUDA GPU if there is one, else the CPU.
            Each process uses a GPU of its own.

    Raises:
        TrainingError: If the device is missing, torchrun's variables are incomplete, or another process has ended.
    """
    world = _variable("WORLD_SIZE", 1)
    local = _variable("LOCAL_RANK", 0)
    chosen = _device(device, local, world)
    if world == 1:
        # A validation runs on "cuda", which is the current GPU.
        with torch.cuda.device(chosen) if chosen.type == "cuda" else contextlib.nullcontext():
            yield Ranks(device=chosen)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise TrainingError(
            f"the environment has WORLD_SIZE={world}, but not {', '.join(missing)}; start several "
            "processes with torchrun, or unset WORLD_SIZE for one"
        )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=_store(), rank=_variable("RANK", 0), world_size=world)
    try:
        yield Ranks(dist.get_rank(), world, chosen)
    except RuntimeError as error:
        if isinstance(error, SegnetsError) or not any(word in str(error) for word in _LOST):
            raise
        raise TrainingError(
            f"process {dist.get_rank()} of {world}: lost the connection to another process, which ended; see its "
            "message"
        ) from None
    finally:
        dist.destroy_process_group()


def _store() -> dist.Store:
    """Return the store in which the processes find each other.

    By default, torchrun keeps its store when it restarts the processes (torch 2.13), so a new process could read the
    address of an ended one and wait for it. Hence the prefix. Machines count restarts separately, so with several, the
    store must be new each time, as with `--rdzv-backend c10d`.
    """
    store: dist.Store = next(rendezvous("env://"))[0]
    if _variable("LOCAL_WORLD_SIZE", 0) != _variable("WORLD_SIZE", 1):
        return store
    return dist.PrefixStore(f"start {_restarts()}", store)


def was_restarted() -> bool:
    """Return whether torchrun started this process again after a failure (`--max-restarts`)."""
    return _restarts() > 0


def _restarts() -> int:
    return _variable("TORCHELASTIC_RESTART_COUNT", 0)


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise TrainingError(f"the environment variable {name}={text!r} is not a number; torchrun sets it") from None


def _device(name: str, local: int, world: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TrainingError(f"device {name!r}: expected auto, cpu, cuda, cuda:0 or mps") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError(f"device {name!r}: torch finds no CUDA GPU here; use --device cpu")
        index = device.index if device.index is not None else local
        if world > 1 and device.index is not None:
            raise TrainingError(f"device {name!r}: {world} processes need a GPU each; use --device cuda")
        if index >= torch.cuda.device_count():
            raise TrainingError(
                f"device {name!r}: this is process {local} and there are {torch.cuda.device_count()} GPUs here; start "
                "one process per GPU (torchrun --nproc-per-node), or use --device cpu"
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise TrainingError(f"device {name!r}: torch finds no Apple GPU here; use --device cpu")
    if device.type not in ("cpu", "mps"):
        raise TrainingError(f"device {name!r}: expected auto, cpu, cuda, cuda:0 or mps")
    return device
