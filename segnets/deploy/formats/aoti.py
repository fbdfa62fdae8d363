"""AOTInductor: the network compiled to machine code ahead of time, in one `.pt2`. Everything about it stands here.

The code is bound to the kind of processor that it was compiled on. What comes before the network and after it, resizing
and the best class, stays the small TorchScript program of every export, so that it gives the same bits in each format.
"""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from segnets.deploy._reason import reason_of
from segnets.deploy.contract import FOLDERS, IMAGE_PROGRAM, Bounds
from segnets.deploy.formats import _script as torchscript
from segnets.deploy.passes._graph import convolution_inputs
from segnets.deploy.passes.convolutions import Pieces, pieces_of
from segnets.deploy.passes.pooling import GridAverage, MeanByLines, use_means
from segnets.deploy.passes.resize import UpsampleProducts
from segnets.deploy.passes.winograd import WinogradProducts, suits
from segnets.deploy.passes.wrap import Deployed, images_at_once
from segnets.errors import ExportError, ImageError
from segnets.model import SegmentationModel
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


class _OnePixel(nn.Module):
    """A 1x1 convolution of pooled maps, (N, in, 1, 1) -> (N, out, 1, 1), as plain sums of float32.

    The compiler makes a loop of them. oneDNN would lay the weight out anew in every call where the process has another
    number of threads than the one that compiled: a third of LR-ASPP's time.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        sums: Tensor = (x.flatten(1).unsqueeze(1).float() * self.weight.float()).sum(2)
        if self.bias is not None:
            sums = sums + self.bias.float()
        return sums.to(x.dtype)[:, :, None, None]


class _InPrecision(nn.Module):
    """Any network that gives {"out": scores}, as `Deployed` does it with one whose parts are known."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        scores = self.model(image.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return {"out": scores["out"].to(torch.float32)}


class _Logits(nn.Module):
    """Normalised float32 images to float32 logits, computed in `dtype` with channels last in memory."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network: nn.Module = (
            Deployed(model, dtype, UpsampleProducts)
            if isinstance(model, SegmentationModel)
            else _InPrecision(model, dtype)
        )
        convert_conv2d_weight_memory_format(self.to(dtype), torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)["out"]
        return logits


def check_torch() -> None:
    """Raise ExportError for a torch that can't make these files: 2.11 was seen to fail, compiling or loading."""
    if not CAN_COMPILE:
        raise ExportError(f"format='aoti' needs torch 2.13 or newer, and this is {torch.__version__}")


def to_bytes(
    model: nn.Module,
    preprocessing: Preprocessing,
    dtype: torch.dtype,
    extra_files: Mapping[str, bytes],
    image_size: tuple[int, int],
) -> bytes:
    """Compile an optimized model; the .pt2 as bytes, with `extra_files` beside the machine code.

    image_size: (height, width) of the images that it should be fastest on.
    Needs a C++ compiler, and a minute or two. Raises ExportError if the model can't be compiled.
    """
    rewritten = _rewritten(model, dtype, image_size)
    with tempfile.TemporaryDirectory(prefix="segnets-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own making
        path = Path(folder) / "network.pt2"
        try:
            try:
                _compile(rewritten, dtype, image_size, path)
            except Exception:  # Winograd's sums have indices whose bounds it can't always compute
                if not any(isinstance(module, WinogradProducts) for module in rewritten.modules()):
                    raise
                _compile(_rewritten(model, dtype, image_size, winograd=False), dtype, image_size, path)
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


def _compile(model: nn.Module, dtype: torch.dtype, image_size: tuple[int, int], path: Path) -> None:
    from torch._inductor import aoti_compile_and_package  # the compiler takes a second to import

    sizes = {axis: torch.export.Dim(name, min=BOUNDS[name][0], max=BOUNDS[name][1]) for axis, name in _AXES.items()}
    with torch.no_grad(), _weights_laid_out_for_hints():
        program = torch.export.export(
            _Logits(model, dtype).eval(),
            (torch.zeros(2, 3, *_within_bounds(image_size)),),
            dynamic_shapes=(sizes,),
        )
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=_settings())


def _rewritten(
    model: nn.Module, dtype: torch.dtype, image_size: tuple[int, int], *, winograd: bool = True
) -> nn.Module:
    """A copy with other forms of those convolutions and means that are computed faster so."""
    model = copy.deepcopy(model)
    shapes = convolution_inputs(model, image_size)
    longest = max(BOUNDS["height"][1], BOUNDS["width"][1])  # of an image, and of maps that are not larger than theirs
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Conv2d) or module not in shapes:
            continue
        if shapes[module][2:] == [1, 1] and _is_product(module):
            model.set_submodule(name, _OnePixel(module))  # of gates, and of the branch that pools the whole image
        elif (
            winograd
            and dtype == torch.float32
            and _no_larger(shapes[module], image_size)
            and suits(module, shapes[module])
        ):
            model.set_submodule(name, WinogradProducts(module, longest))
        elif len(parts := pieces_of(module)) > 1:
            model.set_submodule(name, Pieces(parts))
    use_means(model, MeanByLines, GridAverage)
    return model


def _is_product(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == (1, 1) and convolution.padding == (0, 0) and convolution.groups == 1


def _no_larger(map_size: Sequence[int], image_size: tuple[int, int]) -> bool:
    """map_size: (N, C, H, W)."""
    return map_size[2] <= image_size[0] and map_size[3] <= image_size[1]


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
