"""Small models and exports for the tests of deploy and of C++."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from segnets.card import ModelCard
from segnets.deploy import export
from segnets.deploy.formats._inductor import CAN_COMPILE
from segnets.deploy.formats.onnx.network import network_of
from segnets.deploy.passes import pipeline
from segnets.deploy.passes.context import Context
from segnets.model import SegmentationModel
from segnets.preprocessing import Preprocessing
from segnets.registry import find_builder
from tests.oracle import randomised

SMALL = Preprocessing(resize="fixed", size=(64, 80))


def random_model(name: str = "lraspp_mobilenet_v3_large", seed: int = 0, **options: Any) -> SegmentationModel:
    """Return a model in eval mode with random values in every parameter and buffer."""
    return randomised(find_builder(name), seed=seed, **options).eval()


def calm_model(name: str = "lraspp_mobilenet_v3_large", **options: Any) -> SegmentationModel:
    """Return a model with freshly initialised kernels, whose logits survive bfloat16."""
    torch.manual_seed(0)
    model = find_builder(name)(**options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.1, 0.1),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
    return model.eval()


def simplified(model: nn.Module) -> nn.Module:
    """Return a copy of the model after the passes that every format shares."""
    network: nn.Module = model
    for each in pipeline.COMMON:
        network = each.apply(network, Context("torchscript", "portable")).network
    return network


def fused_for_cpu(
    model: nn.Module, dtype: torch.dtype = torch.float32, image_size: tuple[int, int] = (64, 80)
) -> nn.Module:
    """Return a copy of the model after the passes of target "cpu"."""
    return pipeline.rewrite(model, Context("torchscript", "cpu", dtype, image_size)).network


def random_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Return a random image, (1, height, width, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)


def small_export(path: Path) -> None:
    """Export an LR-ASPP of five classes with names and colours."""
    model = random_model(num_classes=5)
    model.card = ModelCard(
        classes=("background", "cat", "dög", "tree", "sky"),
        palette=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)),
        preprocessing=SMALL,
        provenance={"licence": "BSD-3-Clause"},
    )
    export(model, path, target="portable")


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Copy an archive entry by entry; `change` gives the new contents, or None to leave the entry out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            contents = change(info.filename, old.read(info))
            if contents is not None:
                new.writestr(zipfile.ZipInfo(info.filename), contents, compress_type=info.compress_type)
    return target


def compressed(source: Path, target: Path, ending: str = ".py") -> Path:
    """Copy an archive, and compress its entries whose names end in `ending`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            method = zipfile.ZIP_DEFLATED if info.filename.endswith(ending) else zipfile.ZIP_STORED
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info), compress_type=method)
    return target


def break_compressed(path: Path, what: str) -> str:
    """Break the first compressed entry of an archive, its "checksum" or its "data", and return the entry's name."""
    with zipfile.ZipFile(path) as archive:
        info = next(entry for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    if what == "checksum":
        checksum = struct.pack("<L", info.CRC)
        assert whole.count(checksum) == 2  # in the entry's header and in the directory
        whole = whole.replace(checksum, struct.pack("<L", info.CRC ^ 1))
    else:
        start = info.header_offset + 30 + len(info.filename)
        whole = whole[:start] + b"\xff" + whole[start + 1 :]  # an invalid block type
    path.write_bytes(whole)
    return info.filename


def changed(**fields: object) -> Callable[[str, bytes], bytes | None]:
    def change(name: str, contents: bytes) -> bytes | None:
        if not name.endswith("segnets.json"):
            return contents
        return json.dumps({**json.loads(contents), **fields}).encode()

    return change


def without(ending: str) -> Callable[[str, bytes], bytes | None]:
    return lambda name, contents: None if name.endswith(ending) else contents


needs_compiler = pytest.mark.skipif(
    not CAN_COMPILE or not any(shutil.which(compiler) for compiler in ("g++", "clang++")),
    reason="needs torch 2.13 and a C++ compiler: install g++",
)


class _Backbone(nn.Module):
    """A single convolution, which compiles in seconds. A ResNet takes minutes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": torch.relu(self.norm(self.convolution(x)))}


def tiny(classes: int = 5) -> SegmentationModel:
    torch.manual_seed(0)
    model = SegmentationModel(_Backbone(), nn.Conv2d(8, classes, 1)).eval()
    nn.init.uniform_(model.backbone.get_parameter("norm.bias"), -1, 1)
    return model


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return the path of a file that all test processes read, and make it if none of them has."""
    folder = factory.getbasetemp()
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / name
    with FileLock(f"{path}.lock"):
        if not path.exists():
            make(path)
    return path


@contextmanager
def quick_compiler() -> Iterator[None]:
    """Let torch try no compiler and precompile no headers, which takes half a minute where it has compiled nothing."""
    from torch._inductor import config  # takes a second to import

    settings = {
        "cpp.vec_isa_ok": True,
        "aot_inductor.precompile_headers": False,
        "aot_inductor.compile_wrapper_opt_level": "O0",
    }
    with config.patch(settings):
        yield


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def compile_tiny(path: Path) -> None:
        with quick_compiler():
            assert export(tiny(), path, format="aoti", preprocessing=SMALL).verification.passed

    return _made_once(tmp_path_factory, "tiny.pt2", compile_tiny)


_translated: dict[bytes, bytes] = {}


@pytest.fixture(scope="module")
def tiny_translated_once() -> Iterator[None]:
    """Translate `tiny` of the same weights to ONNX once, which takes seconds, for tests of what happens next."""

    def cached(network: nn.Module, *arguments: object, **options: object) -> bytes:
        key = hashlib.sha256(repr((arguments, options)).encode())
        for name, tensor in network.state_dict().items():
            key.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        if key.digest() not in _translated:
            _translated[key.digest()] = network_of(network, *arguments, **options)  # type: ignore[arg-type]
        return _translated[key.digest()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segnets.deploy.formats.onnx._format.network_of", cached)
        yield


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use one thread: on a busy machine, the threads of small work mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the programs that a test starts
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _made_once(tmp_path_factory, "small.ts", small_export)
