"""TorchScript: the one portable, compiler-free format that LibTorch 2.13 loads."""

from __future__ import annotations

import io

import torch
from torch import Tensor, nn

from segnets.card import Decoding
from segnets.deploy._reason import reason_of
from segnets.deploy.contract import Contract
from segnets.deploy.formats import _script
from segnets.deploy.formats import torchscript_cuda as cuda
from segnets.deploy.formats._base import (
    Container,
    Draft,
    ExportOptions,
    Program,
    golden_maker,
    refuse_onnx_options,
    usual_size,
)
from segnets.deploy.formats._cpu import check_onednn
from segnets.deploy.passes.context import Context
from segnets.deploy.passes.pipeline import rewrite
from segnets.deploy.passes.wrap import Deployed, InDictionary, LogitsOnly
from segnets.errors import ExportError
from segnets.neutral_state import neutral_process
from segnets.preprocessing import Preprocessing, check_input, reject_image
from segnets.segmenter import Segmenter


class TorchScript:
    """The format "torchscript"."""

    def check(self, options: ExportOptions) -> None:
        """Check that TorchScript supports these options on this machine.

        Raises:
            ExportError: If an option is not supported.
        """
        refuse_onnx_options("torchscript", options)
        if options.device == "cuda":
            cuda.check(options.target, options.dtype, options.output)
        elif options.target == "cpu":
            check_onednn(options.dtype, "export")
            if options.dtype == "float16":
                raise ExportError("dtype='float16' needs device='cuda': CPUs compute it slower than float32")
        elif options.dtype != "float32":
            raise ExportError(
                f"dtype={options.dtype!r} needs target='cpu' (bfloat16) or device='cuda': portable operators compute "
                "it slower than float32"
            )

    def draft(
        self, model: nn.Module, preprocessing: Preprocessing, decoding: Decoding, options: ExportOptions
    ) -> Draft:
        """Compile a copy of a model with its preprocessing.

        Raises:
            ExportError: If TorchScript can't compile it, or the target does not support it.
        """
        on_gpu = options.device == "cuda"
        target = "cuda" if on_gpu else options.target
        dtype: torch.dtype = getattr(torch, options.dtype)
        rewritten = rewrite(
            model, Context("torchscript", target, dtype, usual_size(preprocessing), channels=preprocessing.channels)
        )
        network = _traced(rewritten.network, preprocessing.channels) if target == "portable" else rewritten.network
        segmenter = Segmenter(network, preprocessing, decoding)
        if on_gpu:
            program = cuda.compile_segmenter(segmenter)
        else:
            program = compile_segmenter(segmenter, options.output, options.target)
        return Draft(
            rewritten,
            {"target": options.target},
            golden_maker(preprocessing, decoding, options.dtype),
            lambda _contract, files: _script.to_bytes(program, files),
        )

    def load(self, container: Container, contract: Contract) -> Program:
        """Load an archive onto its device. This executes the program in it.

        Raises:
            ExportError: If LibTorch can't load it, or the machine lacks the device or oneDNN.
        """
        if contract.device == "cuda":
            cuda.check_available(f"{container.where}:")
        if contract.target == "cpu":
            check_onednn(contract.dtype, container.where)
        try:
            program: Program = _script.from_file(io.BytesIO(container.data), contract.device)
        except RuntimeError as error:
            raise ExportError(f"{container.where}: LibTorch can't load it: {reason_of(error)}") from None
        return program


@neutral_process()
def network_for_cpu(model: nn.Module, preprocessing: Preprocessing, dtype: torch.dtype) -> torch.jit.ScriptModule:
    """Compile a rewritten copy of a model for this CPU, without writing a file.

    Args:
        model: Model in eval mode that returns {"out": logits}.
        preprocessing: Preprocessing of its images.
        dtype: torch.float32 or torch.bfloat16.

    Returns:
        The network of an export with target "cpu": (N, K, h, w) float32 -> {"out": logits (N, C, h, w) float32}. Its
        method `coarse_logits` returns the logits before they are resized to the input.

    Raises:
        ExportError: If LibTorch lacks oneDNN, oneDNN does not support `dtype` here, or the target doesn't support the
            model.
    """
    check_onednn(str(dtype).removeprefix("torch."), type(model).__name__)
    context = Context("torchscript", "cpu", dtype, usual_size(preprocessing), channels=preprocessing.channels)
    # Fused and Winograd layers lay out their weights when an archive is loaded.
    archive = _script.to_bytes(_script.script(rewrite(model, context).network), {})
    loaded: torch.jit.ScriptModule = _script.from_file(io.BytesIO(archive), "cpu")
    return loaded


def _traced(network: nn.Module, channels: int) -> nn.Module:
    """Trace a rewritten network, so that other runtimes can read its `forward`. Return other networks unchanged."""
    if not isinstance(network, Deployed):
        return network
    # No two sizes of this image are equal, and none is a multiple of the network's stride.
    traced = _script.trace(LogitsOnly(network).eval(), torch.zeros(2, channels, 65, 97, dtype=torch.float32))
    return network if traced is None else InDictionary(traced)


class _OtherForward(nn.Module):
    """Wrapper of a `Segmenter`. Subclasses define a different `forward`. Scriptable."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """Preprocess an image as `Segmenter.preprocess` does."""
        return self.segmenter.preprocess(image)

    @torch.jit.export
    def segment(self, image: Tensor) -> Tensor:
        """Segment an image as `Segmenter.segment` does."""
        return self.segmenter.segment(image)


class PlainSegmenter(_OtherForward):
    """A `Segmenter` of a traced network, whose `forward` other runtimes can read: it has no dictionary. Scriptable."""

    __constants__ = ("channels",)

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter)
        self.channels = segmenter.image_to_input.channels

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of a normalised image.

        Args:
            image: Normalised image, (N, 3, h, w) floating point.

        Returns:
            Logits, (N, C, h, w).

        Raises:
            ImageError: If `image` has the wrong shape or dtype.
        """
        # `check_input` needs `not` and formatted messages, which other runtimes can't read.
        dimensions = 0
        if image.is_floating_point():
            dimensions = image.dim()
        if dimensions != 4:
            reject_image("input: expected normalised floating point (N, C, H, W)")
        if image.size(1) != self.channels:
            reject_image("input: expected normalised floating point (N, C, H, W), got a different number of channels")
        if image.numel() == 0:
            reject_image("input: expected normalised floating point (N, C, H, W), got no pixels")
        logits: Tensor = self.segmenter.model.get_logits(image)  # type: ignore[operator]
        return logits


class DictSegmenter(_OtherForward):
    """A `Segmenter` whose `forward` returns torchvision's dictionary `{"out": logits}`. Scriptable."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the logits of a normalised image.

        Args:
            image: Normalised image, (N, 3, h, w) floating point.

        Returns:
            `{"out": logits}`, with logits (N, C, h, w).

        Raises:
            ImageError: If `image` has the wrong shape or dtype.
        """
        check_input(image, self.segmenter.image_to_input.channels)
        output: dict[str, Tensor] = self.segmenter.model(image)
        return output


def compile_segmenter(segmenter: Segmenter, output: str, target: str = "portable") -> torch.jit.ScriptModule:
    """Compile a segmenter for the CPU.

    Args:
        segmenter: Rewritten network with its preprocessing.
        output: Output of `forward`: "tensor" for logits, or "dict" for `{"out": logits}`.
        target: Target that the network was rewritten for, "portable" or "cpu".

    Raises:
        ExportError: If TorchScript can't compile it, or it needs operators that LibTorch lacks.
    """
    module: nn.Module = segmenter
    if output == "dict":
        module = DictSegmenter(segmenter)
    elif isinstance(segmenter.model, InDictionary):
        module = PlainSegmenter(segmenter)
    compiled = _script.script(module)
    _script.check_operators(compiled, target)
    return compiled
