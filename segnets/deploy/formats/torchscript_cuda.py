"""TorchScript for CUDA: the network on the GPU in half precision, in channels-last memory format.

Images in CPU memory are preprocessed on the CPU, with the same bits as in other formats. Images on the GPU stay there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnets.deploy.formats import _script
from segnets.errors import ExportError
from segnets.preprocessing import check_input
from segnets.segmenter import Segmenter

# Not float32: a setting of the process decides whether PyTorch rounds it to TF32 on a GPU.
DTYPES = ("float16", "bfloat16")


def check(target: str, dtype: str, output: str) -> None:
    """Check that a model can be exported for CUDA with these options, and verified here.

    Raises:
        ExportError: If an option is not supported, or there is no GPU.
    """
    if target != "portable":
        raise ExportError(f"target={target!r} is for CPUs; device='cuda' needs target='portable'")
    if dtype not in DTYPES:
        raise ExportError(f"dtype={dtype!r}: device='cuda' takes {' or '.join(map(repr, DTYPES))}")
    if output == "dict":
        raise ExportError("output='dict' is for CPUs; device='cuda' returns tensors. Omit output")
    check_available("export: device='cuda'")


def check_available(what: str) -> None:
    """Check that there is a GPU.

    Args:
        what: Feature that needs the GPU, for the message.

    Raises:
        ExportError: If CUDA finds none.
    """
    if not torch.cuda.is_available():
        raise ExportError(
            f"{what} needs a GPU, but CUDA finds none (torch {torch.__version__}). "
            "An export with device='cpu' runs everywhere"
        )


class DeviceSegmenter(nn.Module):
    """A `Segmenter` whose network is on one device, for images on any device. Scriptable.

    Outputs are on the image's device.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.register_buffer("anchor", torch.zeros(1))  # loading moves it to the network's device
        self.anchor: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits as `Segmenter.forward` does."""
        check_input(image, self.segmenter.image_to_input.channels)
        return self._logits(image).to(image.device)

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """Preprocess an image as `Segmenter.preprocess` does."""
        return self.segmenter.preprocess(image)

    @torch.jit.export
    def segment(self, image: Tensor) -> Tensor:
        """Segment an image as `Segmenter.segment` does."""
        logits = self._logits(self.segmenter.preprocess(image))
        mask: Tensor = self.segmenter.decode(logits, image.shape[1], image.shape[2])
        return mask.to(image.device)

    def _logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self.segmenter.model(image.to(self.anchor.device))["out"]
        return logits


def compile_segmenter(segmenter: Segmenter) -> torch.jit.ScriptModule:
    """Compile a segmenter whose network was rewritten for CUDA.

    Raises:
        ExportError: If TorchScript can't compile it.
    """
    compiled = _script.script(DeviceSegmenter(segmenter))
    _script.check_operators(compiled)
    return compiled
