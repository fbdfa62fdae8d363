"""Patches for the compiler of one torch version. They apply only while a model is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from segnets.errors import ExportError, warn_caller

CAN_COMPILE = torch.__version__ >= "2.13.0a0"
CAN_ADAPT = CAN_COMPILE and torch.__version__ < "2.14.0a0"


def check_torch() -> None:
    """Check that this torch compiles working models, and warn if segnets does not adapt its compiler.

    Raises:
        ExportError: If torch is too old. 2.11 fails while compiling or loading.
    """
    if not CAN_COMPILE:
        raise ExportError(f"format='aoti' needs torch 2.13 or newer, but this is {torch.__version__}")
    if not CAN_ADAPT:
        warn_caller(
            f"format='aoti': segnets adapts the compiler of torch 2.13 only, but this is {torch.__version__}; compiled "
            "ResNets may take a tenth longer"
        )


@contextmanager
def static_weight_layouts() -> Iterator[None]:
    """Lay out convolution weights while compiling, for the traced image size, although other sizes are allowed.

    For dynamic sizes, torch lays out the weights in every call, which costs ResNets a tenth of their time. Results are
    correct for every size: oneDNN accepts weights in any layout, and changes the layout if a size needs another one.
    With other versions of torch, this does nothing.
    """
    if not CAN_ADAPT:
        yield
        return

    from unittest import mock  # imports asyncio, which `import segnets` should not

    from torch._inductor.fx_passes import mkldnn_fusion
    from torch.fx.experimental.symbolic_shapes import optimization_hint

    operations = mkldnn_fusion.CpuMkldnnDeviceOp
    pack: Callable[..., Any] = operations.pack_conv_weight

    def pack_for_hints(self: Any, graph: Any, transposed: bool, weight: Any, settings: Any, size: Any) -> Any:
        # Packed for one image, although two are traced: a traced batch of one would become a constant.
        return pack(self, graph, transposed, weight, settings, [1, *(optimization_hint(length) for length in size[1:])])

    with (
        mock.patch.object(mkldnn_fusion, "has_free_symbols", return_value=False),
        mock.patch.object(operations, "pack_conv_weight", pack_for_hints),
    ):
        yield
