"""A small exported model, made once per session, for the tests of Python and of C++."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from segnets.card import ModelCard
from segnets.export import export
from segnets.preprocess import Preprocessing
from segnets.registry import find_builder
from tests.oracle import randomise_

SMALL = Preprocessing(resize="fixed", size=(64, 80))


def random_model(name: str = "lraspp_mobilenet_v3_large", seed: int = 0, **options: object) -> nn.Module:
    """A model in eval mode in which every parameter and buffer has values of its own."""
    model = find_builder(name)(**options)  # type: ignore[arg-type]
    randomise_(model, seed)
    return model.eval()


def calm_model(name: str = "lraspp_mobilenet_v3_large", **options: object) -> nn.Module:
    """As `random_model`, with kernels as training begins with: bfloat16 leaves its scores recognisable."""
    torch.manual_seed(0)
    model = find_builder(name)(**options)  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.1, 0.1),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(tensor, low, high)
    return model.eval()


def random_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(1, height, width, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)


def small_export(folder: Path) -> Path:
    """An LR-ASPP of five classes, with names and colours."""
    model = random_model(num_classes=5)
    model.card = ModelCard(  # type: ignore[assignment]
        classes=("background", "cat", "dög", "tree", "sky"),
        palette=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)),
        preprocessing=SMALL,
        provenance={"licence": "BSD-3-Clause"},
    )
    path = folder / "small.ts"
    export(model, path)
    return path


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Copy an archive entry by entry; `change` gives the new contents, or None to leave the entry out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            contents = change(info.filename, old.read(info))
            if contents is not None:
                new.writestr(zipfile.ZipInfo(info.filename), contents, compress_type=info.compress_type)
    return target


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small work, often on a machine that others use too: threads would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the programs that a test starts
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_export(tmp_path_factory.mktemp("export"))
