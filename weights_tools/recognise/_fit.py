"""Comparing tensors with the network that they are said to be, which is built on the meta device, without memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from segnets.card import ModelConfig
from segnets.errors import WeightsError
from segnets.registry import build_described
from segnets.weights.geometry import describe
from weights_tools._text import printable
from weights_tools.reader.values import FLOAT_DTYPES, INTEGER_DTYPES, TensorRef

COUNTER = ".num_batches_tracked"
_LISTED = 10


@dataclass(frozen=True)
class Fit:
    """How tensors fit a network.

    config: what the network records of itself, with every option that it needs.
    names: for each tensor of the network its name in the file; absent counters are left out.
    zeroed: batch norm counters that the file lacks; they become 0.
    reshaped: counters of another shape or number format; they become int64 without dimensions.
    """

    config: ModelConfig
    names: Mapping[str, str]
    zeroed: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()


def fit(config: ModelConfig, names: Mapping[str, str], tensors: Mapping[str, TensorRef]) -> Fit:
    """Compare names, shapes and kinds of number; tensors of old files may lack the batch norm counters.

    Raises WeightsError if segnets can't build the network, or one that lists every difference at once.
    """
    network = build_described(config.name, dict(config.options))
    recorded = getattr(network, "config", None)
    expected: dict[str, Tensor] = network.state_dict()
    zeroed: list[str] = []
    reshaped: list[str] = []
    missing: list[str] = []
    wrong: list[str] = []
    for name, wanted in expected.items():
        ref = tensors[names[name]] if name in names else None
        if ref is None:
            # Only beside running statistics: a network with group normalisation lacks the counters too.
            statistics = name.removesuffix(COUNTER) + ".running_mean"
            (zeroed if name.endswith(COUNTER) and statistics in names else missing).append(name)
        elif name.endswith(COUNTER):
            # A script that halves every tensor halves the counters too.
            if ref.dtype not in INTEGER_DTYPES | FLOAT_DTYPES or ref.shape not in ((), (1,)):
                wrong.append(f"{name}: file {ref.dtype} {ref.shape}, network int64 ()")
            elif (ref.dtype, ref.shape) != ("int64", ()):
                reshaped.append(name)
        elif ref.shape != tuple(wanted.shape):
            wrong.append(f"{name}: file {ref.shape}, network {tuple(wanted.shape)}")
        elif ref.dtype not in FLOAT_DTYPES:
            wrong.append(f"{name}: file {ref.dtype}, network {str(wanted.dtype).removeprefix('torch.')}")
    unexpected = [name for name in names if name not in expected]
    if missing or unexpected or wrong:
        raise WeightsError(_difference(config, missing, unexpected, wrong))
    kept = {name: names[name] for name in expected if name in names}
    return Fit(recorded if isinstance(recorded, ModelConfig) else config, kept, tuple(zeroed), tuple(reshaped))


def _difference(config: ModelConfig, missing: list[str], unexpected: list[str], wrong: list[str]) -> str:
    counts = [(missing, "missing"), (unexpected, "unexpected"), (wrong, "of another shape or type")]
    summary = ", ".join(f"{len(names)} {what}" for names, what in counts if names)
    lines = [f"it looks like {describe(config)}, but its tensors do not fit: {summary}"]
    for sign, names in (("-", missing), ("+", unexpected), ("~", wrong)):
        lines += [f"  {sign} {printable(name, quote=False)}" for name in names[:_LISTED]]
        if len(names) > _LISTED:
            lines.append(f"  {sign} and {len(names) - _LISTED} more")
    return "\n".join(lines)
