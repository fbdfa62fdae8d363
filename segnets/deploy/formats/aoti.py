"""AOTInductor: the network compiled ahead of time for one kind of CPU, in a `.pt2`.

Preprocessing and decoding remain the small TorchScript program of every export, so they are bit-identical in each
format.
"""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import Decoding
from segnets.deploy._reason import reason_of
from segnets.deploy.contract import PIXELS_AT_ONCE, Bounds, Contract
from segnets.deploy.formats import _script
from segnets.deploy.formats._base import (
    Container,
    Draft,
    ExportOptions,
    golden_maker,
    refuse_onnx_options,
    refuse_torchscript_options,
    usual_size,
)
from segnets.deploy.formats._container import FOLDERS
from segnets.deploy.formats._cpu import check_cpu, this_cpu
from segnets.deploy.formats._inductor import check_torch, static_weight_layouts
from segnets.deploy.passes.context import Context
from segnets.deploy.passes.pipeline import rewrite
from segnets.deploy.passes.wrap import images_at_once
from segnets.errors import ExportError, ImageError
from segnets.preprocessing import Preprocessing, check_input
from segnets.segmenter import Segmenter

# Smallest and largest input of a compiled network. With smaller images, feature maps would have one pixel, on which the
# compiler would specialise; with larger ones, indices could overflow.
BOUNDS: Bounds = {"batch": (1, 64), "height": (33, 4096), "width": (33, 4096)}
IMAGE_PROGRAM = "image.ts"  # the file with preprocessing and decoding
_AXES = {0: "batch", 2: "height", 3: "width"}
_SOURCES = (".cpp", ".h", ".o")
_COMPILER_FILES = 64 << 20  # bytes that the compiler writes besides the weights


class Aoti:
    """The format "aoti"."""

    def check(self, options: ExportOptions) -> None:
        """Check that AOTInductor supports these options, and that this torch has a working version of it.

        Raises:
            ExportError: If an option is not supported, or torch is too old.
        """
        refuse_torchscript_options("aoti", options, "a compiled model is always bound to a CPU")
        refuse_onnx_options("aoti", options)
        if options.dtype == "float16":
            raise ExportError("dtype='float16' needs format='torchscript', device='cuda'")
        check_torch()

    def draft(
        self, model: nn.Module, preprocessing: Preprocessing, decoding: Decoding, options: ExportOptions
    ) -> Draft:
        """Rewrite a copy of a model for the compiler. Packing the draft compiles it.

        Raises:
            ExportError: If the model does not run, or returns no logits.
        """
        largest_side = max(BOUNDS["height"][1], BOUNDS["width"][1])
        context = Context(
            "aoti",
            "cpu",
            getattr(torch, options.dtype),
            usual_size(preprocessing),
            largest_side,
            channels=preprocessing.channels,
        )
        rewritten = rewrite(model, context)

        def without_winograd() -> nn.Module:
            return rewrite(model, replace(context, winograd=False)).network

        fallback = without_winograd if rewritten.count("choose_forms", "winograd") else None
        return Draft(
            rewritten,
            {
                "target": "cpu",
                "bounds": BOUNDS,
                # The number of threads is only recorded. With a different number, the results are the same, perhaps
                # slower.
                "processor": {**this_cpu(), "threads": torch.get_num_threads()},
                "pixels_at_once": PIXELS_AT_ONCE,
            },
            golden_maker(preprocessing, decoding, options.dtype),
            lambda _, files: to_bytes(
                rewritten.network, ImageProgram(preprocessing, decoding), files, context, fallback
            ),
        )

    def load(self, container: Container, contract: Contract) -> AotiProgram:
        """Load a `.pt2`. This executes the compiled model and the TorchScript program in it.

        Raises:
            ExportError: If this CPU lacks instructions that it uses, or LibTorch can't load it.
        """
        check_cpu(contract.processor, container.where)
        check_folder(Path(tempfile.gettempdir()), f"{container.where}: is unpacked in", 2 * len(container.data))
        image = container.read(IMAGE_PROGRAM)
        try:
            network = _load_package(container.data)
            image_program: ImageProgram = _script.from_file(io.BytesIO(image))
        except RuntimeError as error:
            raise ExportError(f"{container.where}: LibTorch can't load it: {reason_of(error)}") from None
        except OSError as error:
            raise ExportError(
                f"{container.where}: can't be unpacked in {tempfile.gettempdir()}: {error.strerror or error}. Make "
                "room, or set TMPDIR to a folder where programs may run"
            ) from None
        return AotiProgram(network, image_program, contract)


class _Identity(nn.Module):
    """Placeholder for the network in `ImageProgram`."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": x}


class ImageProgram(nn.Module):
    """Preprocessing of images and decoding of logits. Scriptable."""

    def __init__(self, preprocessing: Preprocessing, decoding: Decoding) -> None:
        super().__init__()
        self.segmenter = Segmenter(_Identity(), preprocessing, decoding)

    def forward(self, image: Tensor) -> Tensor:
        """Preprocess an image as `Segmenter.preprocess` does."""
        return self.segmenter.preprocess(image)

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """Preprocess an image as `Segmenter.preprocess` does."""
        return self.segmenter.preprocess(image)

    @torch.jit.export
    def mask(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Compute ids as `segnets.segmenter.Decode` does."""
        ids: Tensor = self.segmenter.decode(logits, height, width)
        return ids


@dataclass(frozen=True)
class AotiProgram:
    """A loaded `.pt2`.

    Attributes:
        network: The compiled network.
        image: The compiled `ImageProgram`.
        contract: Contract of the file.
    """

    network: Callable[[Tensor], Tensor]
    image: ImageProgram
    contract: Contract

    def __call__(self, image: Tensor) -> Tensor:
        """Compute logits.

        Args:
            image: Normalised image, (N, K, h, w).

        Returns:
            Logits, (N, C, h, w) float32.

        Raises:
            ImageError: If `image` has the wrong shape or dtype, or is outside the bounds.
        """
        check_input(image, self.contract.in_channels)
        for axis, name in _AXES.items():
            low, high = self.contract.bounds[name]
            if not low <= image.shape[axis] <= high:
                raise ImageError(
                    f"input: a {name} of {image.shape[axis]}, but this file was compiled for {low} to {high}; a "
                    "TorchScript export accepts every size"
                )
        images = image.to(torch.float32).contiguous()
        group = images_at_once(images.shape[2], images.shape[3], self.contract.pixels_at_once)
        return self.network(images) if len(images) <= group else self._logits_in_groups(images, group)

    def _logits_in_groups(self, images: Tensor, group: int) -> Tensor:
        """Compute `group` images at a time; the logits of each are copied while they are still in cache."""
        first = self.network(images[:group])
        logits = first.new_empty(len(images), *first.shape[1:])
        logits[:group] = first
        for start in range(group, len(images), group):
            logits[start : start + group] = self.network(images[start : start + group])
        return logits

    def preprocess(self, image: Tensor) -> Tensor:
        """Preprocess an image as `Segmenter.preprocess` does."""
        return self.image.preprocess(image)

    def segment(self, image: Tensor) -> Tensor:
        """Segment an image as `Segmenter.segment` does."""
        return self.image.mask(self(self.preprocess(image)), image.shape[1], image.shape[2])


def to_bytes(
    network: nn.Module,
    image_program: ImageProgram,
    extra_files: Mapping[str, bytes],
    context: Context,
    fallback: Callable[[], nn.Module] | None = None,
) -> bytes:
    """Compile a rewritten network. This needs a C++ compiler and takes a minute or two.

    Args:
        network: Network that returns logits.
        image_program: Program with preprocessing and decoding to include.
        extra_files: Further files to include, by name.
        context: Deployment that the network was rewritten for.
        fallback: Function that makes the network without Winograd's algorithm, whose indices have bounds that the
            compiler can't always compute. None if the network does not use it.

    Returns:
        The bytes of a `.pt2`.

    Raises:
        ExportError: If the network can't be compiled.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    for used in (tempfile.gettempdir(), cache_dir()):
        check_folder(Path(used), "format='aoti': compiles in", _COMPILER_FILES + 4 * weights)
    with tempfile.TemporaryDirectory(prefix="segnets-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the compiler itself
        path = Path(folder) / "network.pt2"
        try:
            try:
                _compile(network, context, path)
            except Exception:
                if fallback is None:
                    raise
                _compile(fallback(), context, path)
        except Exception as error:  # the compiler's layers raise errors of many types
            raise ExportError(f"the model can't be compiled by AOTInductor: {reason_of(error)}") from error
        image = _script.script(image_program)
        return _packed(path, {**extra_files, IMAGE_PROGRAM: _script.to_bytes(image, {})})


def check_folder(folder: Path, what: str, needed: int) -> None:
    """Check that programs may run from a folder, and that it has room. The compiler's own errors are misleading.

    Args:
        folder: Folder, which may not exist yet.
        what: Its use, for the message.
        needed: Bytes that are written there.

    Raises:
        ExportError: If either is not the case.
    """
    existing = next((each for each in (folder, *folder.parents) if each.exists()), None)
    if existing is None or not hasattr(os, "statvfs"):
        return
    system = os.statvfs(existing)
    advice = "Set TMPDIR (and TORCHINDUCTOR_CACHE_DIR, if it is set) to another folder"
    if system.f_flag & getattr(os, "ST_NOEXEC", 0):
        raise ExportError(f"{what} {folder}, where no program may run (noexec). {advice}")
    free = system.f_bavail * system.f_frsize
    if free < needed:
        raise ExportError(
            f"{what} {folder}, which has {free / 1e6:.0f} MB free, but {needed / 1e6:.0f} MB are needed. {advice}"
        )


def _compile(network: nn.Module, context: Context, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package  # takes a second to import

    sizes = {axis: torch.export.Dim(name, min=BOUNDS[name][0], max=BOUNDS[name][1]) for axis, name in _AXES.items()}
    with torch.no_grad(), static_weight_layouts():
        program = torch.export.export(
            network.eval(),
            (torch.zeros(2, context.channels, *_within_bounds(context.image_size)),),
            dynamic_shapes=(sizes,),
        )
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=_settings())


def _within_bounds(image_size: tuple[int, int]) -> list[int]:
    ranges = (BOUNDS["height"], BOUNDS["width"])
    return [min(max(length, low), high) for length, (low, high) in zip(image_size, ranges, strict=True)]


def _settings() -> dict[str, Any]:
    return {
        "freezing": True,  # lay out weights for the CPU once
        # Use as many threads as the process has when the model runs. Loops are divided as for sixteen: for the few
        # threads of this machine, the compiler would divide the batch only, and one image would run in one thread.
        "cpp.dynamic_threads": True,
        "cpp.threads": 16,
    }


def _packed(package: Path, extra_files: Mapping[str, bytes]) -> bytes:
    """Copy a package without its source code, which contains paths of this machine, and add files to it."""
    reader, result = torch._C.PyTorchFileReader(str(package)), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(result)
    for name in reader.get_all_records():
        if not name.endswith(_SOURCES) and name != ".data/serialization_id":
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    for name, contents in extra_files.items():
        writer.write_record(f"{FOLDERS['aoti']}/{name}", contents, len(contents))
    writer.write_end_of_file()
    return result.getvalue()


def _load_package(data: bytes) -> Callable[[Tensor], Tensor]:
    # As in C++. `torch._inductor.aoti_load_package` would first compile programs that detect this CPU's instructions,
    # 15 seconds of work on a new machine, to compare them as `check_cpu` does.
    from torch._C import _aoti

    # The loader takes a path only, and does not need the file afterwards.
    with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
        file.write(data)
        file.flush()
        loader = _aoti.AOTIModelPackageLoader(file.name, "model", False, 1, -1)
    return lambda images: loader.boxed_run([images])[0]
