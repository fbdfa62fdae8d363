"""Graphs of torch.fx."""

import torch.fx


def is_symbolic(x: object) -> bool:
    """Return whether torch.fx is tracing: `x` then stands for a tensor, and has no values. Not for TorchScript."""
    return isinstance(x, torch.fx.Proxy)
