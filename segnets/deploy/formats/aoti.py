"""AOTInductor: the network compiled to machine code ahead of time, in one `.pt2`. Everything about it stands here.

The code is bound to the kind of processor that it was compiled on. What comes before the network and after it, resizing
and the best class, stays the small TorchScript program of every export, so that it gives the same bits in each format.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnets.deploy._reason import reason_of
from segnets.deploy.contract import FOLDERS, IMAGE_PROGRAM, Bounds
from segnets.deploy.formats import _script as torchscript
from segnets.deploy.passes.wrap import images_at_once
from segnets.errors import ExportError, ImageError
from segnets.preprocessing import Preprocessing, check_input
from segnets.segmenter import Segmenter, logits_to_mask

# What a compiled network takes: (smallest, largest). Below, feature maps would be of one pixel, which it would be
# specialised on; above, indices could overflow.
BOUNDS: Bounds = {"batch": (1, 64), "height": (33, 4096), "width": (33, 4096)}
CAN_COMPILE = torch.__version__ >= "2.13.0a0"
_AXES = {0: "batch", 2: "height", 3: "width"}
_MODEL = "model"
_SOURCES = (".cpp", ".h", ".o")


class _Nothing(nn.Module):
    """In the place of the network in the program for images."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": x}


class ImageProgram(nn.Module):
    """What happens to an image before the network and to its scores after it. Scriptable."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.segmenter = Segmenter(_Nothing(), preprocessing)

    def forward(self, image: Tensor) -> Tensor:
        """As `Segmenter.preprocess`."""
        return self.segmenter.preprocess(image)

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """As `Segmenter.preprocess`."""
        return self.segmenter.preprocess(image)

    @torch.jit.export
    def mask(self, logits: Tensor, height: int, width: int) -> Tensor:
        """As `segnets.segmenter.logits_to_mask`."""
        return logits_to_mask(logits, height, width)


def check_torch() -> None:
    """Raise ExportError for a torch that can't make these files: 2.11 was seen to fail, compiling or loading."""
    if not CAN_COMPILE:
        raise ExportError(f"format='aoti' needs torch 2.13 or newer, and this is {torch.__version__}")


def to_bytes(
    network: nn.Module,
    preprocessing: Preprocessing,
    extra_files: Mapping[str, bytes],
    image_size: tuple[int, int],
    fallback: Callable[[], nn.Module] | None = None,
) -> bytes:
    """Compile a rewritten network; the .pt2 as bytes, with `extra_files` beside the machine code.

    image_size: (height, width) of the images that it should be fastest on. fallback: makes the network without
    Winograd's sums, which have indices whose bounds the compiler can't always compute; None if there are none.
    Needs a C++ compiler, and a minute or two. Raises ExportError if the model can't be compiled.
    """
    with tempfile.TemporaryDirectory(prefix="segnets-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own making
        path = Path(folder) / "network.pt2"
        try:
            try:
                _compile(network, image_size, path)
            except Exception:
                if fallback is None:
                    raise
                _compile(fallback(), image_size, path)
        except Exception as error:  # whatever a compiler's many layers raise
            raise ExportError(f"the model can't be compiled by AOTInductor: {reason_of(error)}") from error
        image = torchscript.script(ImageProgram(preprocessing).eval())
        return _packed(path, {**extra_files, IMAGE_PROGRAM: torchscript.to_bytes(image, {})})


@dataclass(frozen=True)
class AotiProgram:
    """A loaded `.pt2`: called, it gives the logits; with the other two methods of every exported module.

    bounds: as `BOUNDS`, of this file.
    """

    network: Any
    image: Any
    bounds: Bounds

    def __call__(self, image: Tensor) -> Tensor:
        check_input(image)
        for axis, name in _AXES.items():
            low, high = self.bounds[name]
            if not low <= image.shape[axis] <= high:
                raise ImageError(
                    f"input: a {name} of {image.shape[axis]}, and this file was compiled for {low} to {high}; "
                    "a TorchScript export takes every size"
                )
        images = image.to(torch.float32).contiguous()
        group = images_at_once(images.shape[2], images.shape[3])
        return self._logits(images) if len(images) <= group else self._logits_in_groups(images, group)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def _logits_in_groups(self, images: Tensor, group: int) -> Tensor:
        """As DeployedInGroups; what a group says is copied to its place while the caches still have it."""
        first = self._logits(images[:group])
        logits = first.new_empty(len(images), *first.shape[1:])
        logits[:group] = first
        for start in range(group, len(images), group):
            logits[start : start + group] = self._logits(images[start : start + group])
        return logits

    def preprocess(self, image: Tensor) -> Tensor:
        """As `Segmenter.preprocess`."""
        prepared: Tensor = self.image.preprocess(image)
        return prepared

    def segment(self, image: Tensor) -> Tensor:
        """As `Segmenter.segment`."""
        mask: Tensor = self.image.mask(self(self.preprocess(image)), image.shape[1], image.shape[2])
        return mask


def from_bytes(data: bytes, image: bytes, bounds: Bounds, where: str) -> AotiProgram:
    """Load what `to_bytes` made. This executes the machine code and the program that it holds.

    image: the file IMAGE_PROGRAM in it. Raises ExportError if it can't be loaded.
    """
    from torch._inductor import aoti_load_package

    try:
        # The loader takes paths only, and is done when it returns.
        with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
            file.write(data)
            file.flush()
            network = aoti_load_package(file.name)
        return AotiProgram(network, torchscript.from_file(io.BytesIO(image)), bounds)
    except RuntimeError as error:
        raise ExportError(f"{where}: LibTorch can't load it: {reason_of(error)}") from None
    except OSError as error:
        raise ExportError(
            f"{where}: can't be unpacked in {tempfile.gettempdir()}: {error.strerror or error}; name another folder in "
            "TMPDIR, where programs may run, or make room"
        ) from None


def _compile(network: nn.Module, image_size: tuple[int, int], path: Path) -> None:
    from torch._inductor import aoti_compile_and_package  # the compiler takes a second to import

    sizes = {axis: torch.export.Dim(name, min=BOUNDS[name][0], max=BOUNDS[name][1]) for axis, name in _AXES.items()}
    with torch.no_grad(), _weights_laid_out_for_hints():
        program = torch.export.export(
            network.eval(),
            (torch.zeros(2, 3, *_within_bounds(image_size)),),
            dynamic_shapes=(sizes,),
        )
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=_settings())


def _within_bounds(image_size: tuple[int, int]) -> list[int]:
    ranges = (BOUNDS["height"], BOUNDS["width"])
    return [min(max(length, low), high) for length, (low, high) in zip(image_size, ranges, strict=True)]


@contextmanager
def _weights_laid_out_for_hints() -> Iterator[None]:
    """Lay out convolutions' weights when compiling, for the size that is traced, although other sizes may come.

    For dynamic sizes torch leaves it to every call, which costs ResNets a tenth of their time. oneDNN takes a weight in
    any layout and changes it where another size wants another one, so that results are right all the same. This reaches
    into torch's own passes; where they have changed, the file is a little slower and nothing else.
    """
    from unittest import mock  # brings asyncio, which importing segnets need not wait for

    from torch._inductor.fx_passes import mkldnn_fusion
    from torch.fx.experimental import symbolic_shapes

    operations = getattr(mkldnn_fusion, "CpuMkldnnDeviceOp", None)
    hint = getattr(symbolic_shapes, "optimization_hint", None)
    if operations is None or hint is None or not hasattr(mkldnn_fusion, "has_free_symbols"):
        yield
        return
    pack: Callable[..., Any] = operations.pack_conv_weight

    def pack_for_hints(self: Any, graph: Any, transposed: bool, weight: Any, settings: Any, size: Any) -> Any:
        # One image, where two are traced: of one it would have made a constant.
        return pack(self, graph, transposed, weight, settings, [1, *(hint(length) for length in size[1:])])

    with (
        mock.patch.object(mkldnn_fusion, "has_free_symbols", return_value=False),
        mock.patch.object(operations, "pack_conv_weight", pack_for_hints),
    ):
        yield


def _settings() -> dict[str, Any]:
    return {
        "freezing": True,  # weights are laid out for the processor once
        # As many threads as there are when it runs. Loops are divided as for sixteen: for the few of this machine the
        # compiler would divide the batch alone, and of one image every loop would run in one thread.
        "cpp.dynamic_threads": True,
        "cpp.threads": 16,
    }


def _packed(package: Path, extra_files: Mapping[str, bytes]) -> bytes:
    """Copy the package without the sources of its code, which name this machine's folders, and with `extra_files`."""
    reader, result = torch._C.PyTorchFileReader(str(package)), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(result)
    for name in reader.get_all_records():
        if not name.endswith(_SOURCES) and name != ".data/serialization_id":
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    for name, contents in extra_files.items():
        # Not below extra/: torch's own loader takes what is there for text.
        writer.write_record(f"{FOLDERS['aoti']}/{name}", contents, len(contents))
    writer.write_end_of_file()
    return result.getvalue()
