"""Comparing tensors with the network that they are said to be, which is built on the meta device, without memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from segnets.card import ModelConfig
from segnets.errors import WeightsError
from segnets.registry import build_described
from segnets.weights.geometry import describe
from segnets.weights.mismatch import COUNTER, absent_counters, find_mismatch
from weights_tools._text import printable
from weights_tools.reader.values import FLOAT_DTYPES, INTEGER_DTYPES, TensorRef

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
    given = {name: tensors[theirs] for name, theirs in names.items()}
    zeroed = absent_counters(expected, given)
    counters = [name for name in expected if name in given and name.endswith(COUNTER)]
    mismatch = find_mismatch(
        {name: tensor for name, tensor in expected.items() if name not in zeroed},
        given,
        any_shape=counters,
        compare_dtypes=lambda name: _other_dtype(name, given[name]),
    )
    if mismatch:
        first = f"it looks like {describe(config)}, but its tensors do not fit: {mismatch.summary()}"
        lines = mismatch.lines(_LISTED, lambda line: printable(line, quote=False))
        raise WeightsError("\n".join([first, *lines]))
    reshaped = [name for name in counters if (given[name].dtype, given[name].shape) != ("int64", ())]
    kept = {name: names[name] for name in expected if name in names}
    return Fit(recorded if isinstance(recorded, ModelConfig) else config, kept, tuple(zeroed), tuple(reshaped))


def _other_dtype(name: str, ref: TensorRef) -> str:
    """Describe the dtype of a tensor, or the form of a counter, that does not fit; "" if it fits."""
    if name.endswith(COUNTER):
        # A script that halves every tensor halves the counters too.
        fits = ref.dtype in INTEGER_DTYPES | FLOAT_DTYPES and ref.shape in ((), (1,))
        return "" if fits else f"file {ref.dtype} {ref.shape}, model int64 ()"
    return "" if ref.dtype in FLOAT_DTYPES else f"file {ref.dtype}, model float32"
