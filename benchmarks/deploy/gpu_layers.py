"""Compare separate and fused layers of a ResNet on a GPU: `python -m benchmarks.deploy.gpu_layers`.

The table shows the gain of `segnets.deploy.passes.fuse_cudnn` per layer: for convolution, bias and ReLU, and for the
same with an addition.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor, nn

from benchmarks.deploy.files import channels_last
from benchmarks.deploy.gpu import milliseconds
from segnets.deploy.passes.fuse_cudnn import ConvAddReLU, ConvReLU

# Input and output channels, kernel, stride, dilation, side of the input.
_LAYERS = (
    (3, 64, 7, 2, 1, 520),
    (64, 64, 3, 1, 1, 130),
    (64, 256, 1, 1, 1, 130),
    (256, 1024, 1, 1, 1, 65),
    (1024, 256, 1, 1, 1, 65),
    (256, 256, 3, 1, 2, 65),
    (512, 512, 3, 1, 4, 65),
    (2048, 256, 3, 1, 12, 65),
    (2048, 512, 3, 1, 1, 65),
)


class _Plain(nn.Module):
    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        result: Tensor = self.convolution(x)
        return result.relu_() if other is None else result.add_(other).relu_()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, milliseconds\n")
    print("| layer | precision | batch | one by one | fused | with addition | fused |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for dtype in options.dtypes:
        for batch in options.batches:
            for inputs, outputs, kernel, stride, dilation, side in _LAYERS:
                padding = dilation * (kernel // 2)
                layer = channels_last(nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation))
                modules = [_Plain(copy.deepcopy(layer)), ConvReLU(layer), ConvAddReLU(layer)]
                plain, fused, adding = (each.to("cuda", getattr(torch, dtype)) for each in modules)
                x = torch.randn(batch, inputs, side, side, device="cuda", dtype=getattr(torch, dtype))
                x = x.contiguous(memory_format=torch.channels_last)
                with torch.inference_mode():
                    other = torch.randn_like(plain(x))
                    times = [
                        milliseconds(call, x)
                        for call in (
                            plain,
                            fused,
                            lambda x, plain=plain, other=other: plain(x, other),
                            lambda x, adding=adding, other=other: adding(x, other),
                        )
                    ]
                name = f"{kernel}x{kernel}, {inputs} to {outputs}, dilation {dilation}, {side}x{side}"
                print(f"| {name} | {dtype} | {batch} | {' | '.join(f'{each:.3f}' for each in times)} |", flush=True)


if __name__ == "__main__":
    main()
