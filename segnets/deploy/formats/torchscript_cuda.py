"""TorchScript for CUDA: the network in half precision with channels last, on the GPU, for images wherever they lie.

An image in the processor's memory is prepared there, with the same bits as everywhere; one on the GPU stays there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segnets.deploy.formats import _script as torchscript
from segnets.errors import ExportError
from segnets.preprocessing import Preprocessing, check_input
from segnets.segmenter import Segmenter, logits_to_mask

# float32 is no question of precision alone there: PyTorch rounds it to TF32 or not, by a setting of the process.
DTYPES = ("float16", "bfloat16")


def check(target: str, dtype: str) -> None:
    """Raise ExportError for what can't be exported for CUDA, or can't be proved here."""
    if target != "portable":
        raise ExportError(f"target={target!r} is for processors; device='cuda' takes target='portable'")
    if dtype not in DTYPES:
        raise ExportError(f"dtype={dtype!r}: device='cuda' takes {' or '.join(map(repr, DTYPES))}")
    check_available("export: device='cuda'")


def check_available(what: str) -> None:
    """Raise ExportError unless there is a GPU. what: needs it."""
    if not torch.cuda.is_available():
        raise ExportError(
            f"{what} needs a GPU that CUDA finds, and there is none (torch {torch.__version__}); "
            "an export with device='cpu' runs everywhere"
        )


class DeviceSegmenter(nn.Module):
    """A Segmenter whose network lies on one device, for images of any. Scriptable; answers lie where the image does."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.register_buffer("anchor", torch.zeros(1))  # knows the device after loading
        self.anchor: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """As `Segmenter.forward`."""
        check_input(image)
        return self._logits(image).to(image.device)

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """As `Segmenter.preprocess`."""
        return self.segmenter.preprocess(image)

    @torch.jit.export
    def segment(self, image: Tensor) -> Tensor:
        """As `Segmenter.segment`."""
        logits = self._logits(self.segmenter.preprocess(image))
        return logits_to_mask(logits, image.shape[1], image.shape[2]).to(image.device)

    def _logits(self, image: Tensor) -> Tensor:
        scores: Tensor = self.segmenter.model(image.to(self.anchor.device))["out"]
        return scores


def compile_segmenter(network: nn.Module, preprocessing: Preprocessing, output: str) -> Any:
    """Compile a network that was rewritten for target "cuda". Returns a torch.jit.ScriptModule.

    Raises ExportError if it can't be compiled.
    """
    if output == "dict":
        raise ExportError("output='dict' is for processors; device='cuda' gives tensors: leave output out")
    compiled = torchscript.script(DeviceSegmenter(Segmenter(network, preprocessing)))
    torchscript.check_operators(compiled)
    return compiled
