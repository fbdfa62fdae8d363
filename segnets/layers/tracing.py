"""Detection of torch.fx tracing."""

import torch.fx


def is_symbolic(x: object) -> bool:
    """Return whether torch.fx is tracing: `x` then stands for a tensor, and has no values. Not for TorchScript."""
    return isinstance(x, torch.fx.Proxy)
