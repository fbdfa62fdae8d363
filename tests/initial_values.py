"""Initial values copied from a pool of random ones, ten times as fast as drawn: most tests need any random network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor, nn

_NORMAL, _UNIFORM = Tensor.normal_, Tensor.uniform_  # what torch draws with
_POOL = 1_000_003  # a prime: no two filters begin at the same value
_FEW = 1 << 10  # values that are drawn as fast as they are copied
_MANY = 1 << 18  # values of kernels that MobileNets don't have


@cache
def _pool(draw: Callable[..., Tensor]) -> Tensor:
    """Return values of mean 0 and deviation 1, or between 0 and 1."""
    values = torch.empty(_POOL, dtype=torch.float32, device="cpu")
    return draw(values, 0, 1, generator=torch.Generator().manual_seed(0))


def _can_copy(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.is_contiguous()
        and tensor.numel() > _FEW
    )


def _fill(tensor: Tensor, pool: Tensor, scale: float, shift: float, generator: torch.Generator | None = None) -> Tensor:
    """Copy the pool, around and around, from a place that the generator draws, by default torch's own."""
    rest, position = tensor.detach().view(-1), int(torch.randint(_POOL, (), generator=generator, device="cpu"))
    while rest.numel():
        part = pool[position : position + rest.numel()]
        torch.mul(part, scale, out=rest[: part.numel()])
        rest, position = rest[part.numel() :], 0
    if shift:
        tensor.detach().add_(shift)
    return tensor


def _normal(tensor: Tensor, mean: float = 0, std: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
    if tensor.is_meta:  # no values to draw, which `build_described` skips by the name of the original method
        return tensor
    if generator is None and _can_copy(tensor):
        return _fill(tensor, _pool(_NORMAL), std, mean)
    return _NORMAL(tensor, mean, std, generator=generator)


def _uniform(tensor: Tensor, low: float = 0, high: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
    if tensor.is_meta:
        return tensor
    if generator is None and _can_copy(tensor):
        return _fill(tensor, _pool(_UNIFORM), high - low, low)
    return _UNIFORM(tensor, low, high, generator=generator)


def fill_normal(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill a tensor with normal values of mean 0, copied from the pool if they are many."""
    if _can_copy(tensor) and tensor.numel() > _MANY:
        _fill(tensor, _pool(_NORMAL), std, 0, generator)
    else:
        _NORMAL(tensor, 0, std, generator=generator)


@contextmanager
def _drawing_with(normal: Callable[..., Tensor], uniform: Callable[..., Tensor]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "normal_", normal)
        patch.setattr(Tensor, "uniform_", uniform)
        yield


@pytest.fixture(scope="package", autouse=True)
def copied_initial_values() -> Iterator[None]:
    """Copy the initial values in the tests of a folder whose conftest.py imports this."""
    with _drawing_with(_normal, _uniform):
        yield


@pytest.fixture
def drawn_initial_values(copied_initial_values: None) -> Iterator[None]:
    """Draw them in a test whose subject they are."""
    with _drawing_with(_NORMAL, _UNIFORM):
        yield
