"""Translate a network to an ONNX graph, with dynamic batch, height and width or of a fixed size."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from segnets.deploy._reason import reason_of
from segnets.deploy.formats.onnx.container import check_size
from segnets.deploy.formats.onnx.graph import expand_hard_sigmoids, serialized, strip_metadata
from segnets.errors import ExportError

# Opsets that torch.onnx writes and ONNX Runtime 1.31 runs. Below 18, no Resize computes what torch does.
OPSETS = (18, 23)
DEFAULT_OPSET = 20
_DYNAMIC_AXES = {0: "batch", 2: "height", 3: "width"}
_TRACED = (128, 160)
_MARGIN = 1 << 20  # bytes of everything but weights


def check_opset(opset: object) -> int:
    """Return `opset` if exports support it.

    Raises:
        ExportError: If exports don't support this opset.
    """
    if not isinstance(opset, int) or isinstance(opset, bool) or not OPSETS[0] <= opset <= OPSETS[1]:
        raise ExportError(f"opset={opset!r}: expected {OPSETS[0]}..{OPSETS[1]}; default {DEFAULT_OPSET}")
    return opset


def network_of(
    network: nn.Module,
    opset: int,
    channels: int = 3,
    shape: tuple[int, int, int] | None = None,
    *,
    for_quantization: bool = False,
) -> bytes:
    """Translate a rewritten network.

    Args:
        network: Network that returns logits.
        opset: ONNX operator set.
        channels: Number of channels of the images.
        shape: Batch, height and width to fix; None for any. The graph of a fixed size computes no shapes.
        for_quantization: Whether to keep operators that OpenCV misreads, because a quantizer would round their parts.

    Returns:
        A serialized model from "input", (N, channels, H, W) float32, to "logits", (N, C, H, W) float32.

    Raises:
        ExportError: If torch can't translate the network, or it exceeds 2 GB.
    """
    weights = {tensor.data_ptr(): tensor.nbytes for tensor in network.state_dict().values()}
    check_size(sum(weights.values()) + _MARGIN)
    sizes = None if shape else ({axis: torch.export.Dim(name) for axis, name in _DYNAMIC_AXES.items()},)
    count, height, width = shape or (2, *_TRACED)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # from the exporter itself
        try:
            program = torch.onnx.export(
                network.eval(),
                (torch.zeros(count, channels, height, width, dtype=torch.float32),),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=sizes,
            )
            assert program is not None
            model = program.model_proto
            strip_metadata(model)
            if not for_quantization:
                expand_hard_sigmoids(model)
            written = {each.domain: each.version for each in model.opset_import}
            if written.get("", 0) != opset:
                raise ExportError(f"torch.onnx wrote opset {written.get('')} instead of {opset}")
            return serialized(model)
        except ExportError:
            raise
        except Exception as error:  # the exporter's layers raise errors of many types
            raise ExportError(f"the model can't be written as ONNX: {reason_of(error.__cause__ or error)}") from error
