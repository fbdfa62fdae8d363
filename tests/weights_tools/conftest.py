"""Fixtures of the tests of weights_tools."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import Tensor

from segnets import catalog
from tests.initial_values import copied_initial_values
from tests.weights_tools.files import network
from tests.weights_tools.server import ROW, Server, running
from weights_tools.fetching import _download

__all__ = ["copied_initial_values"]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore SIGTERM: a command handles it for its process, which here is pytest."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def state() -> dict[str, Tensor]:
    """Return the state dict of a torchvision LR-ASPP with 21 classes. Do not modify it."""
    return dict(network().state_dict())


@pytest.fixture
def nothing_new(tmp_path: Path) -> Callable[[], None]:
    """Return a function that asserts that the test's folder has the files it had at the first call."""
    before: list[set[str]] = []

    def check() -> None:
        names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        before.append(names)
        assert names == before[0]

    return check


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run a server for `fetch`, with one made-up row in the catalog and one retry without a pause."""
    monkeypatch.setattr(catalog, "CATALOG", (ROW,))
    monkeypatch.setattr(_download, "PAUSES", (0.0,))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with running() as server:
        yield server
