"""Compare the tensors of a file with a network on the meta device, which takes no memory for values."""

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

_MAX_LISTED = 10


@dataclass(frozen=True)
class Fit:
    """A network, and the tensors of a file that fill it.

    Attributes:
        config: Description of the network with every option resolved, as the network itself records it.
        names: Name in the file for each tensor of the network; absent counters are left out.
        zeroed: Batch norm counters that the file lacks. They become 0.
        reshaped: Batch norm counters that are not int64 scalars. They are converted.
    """

    config: ModelConfig
    names: Mapping[str, str]
    zeroed: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()


def fit_tensors(config: ModelConfig, names: Mapping[str, str], tensors: Mapping[str, TensorRef]) -> Fit:
    """Compare the names, shapes and dtypes of a file's tensors with those of a network.

    Old files may lack the batch norm counters; every other difference is an error.

    Args:
        config: Network that the tensors should fill.
        names: Name in the file for each tensor name of the network.
        tensors: Tensors of the file by the file's names.

    Raises:
        WeightsError: If segnets cannot build the network, or if tensors differ. The message lists every difference.
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
        first = f"the tensors look like {describe(config)} but do not fit it: {mismatch.summary()}"
        lines = mismatch.lines(_MAX_LISTED, lambda line: printable(line, quote=False))
        raise WeightsError("\n".join([first, *lines]))
    reshaped = [name for name in counters if (given[name].dtype, given[name].shape) != ("int64", ())]
    kept = {name: names[name] for name in expected if name in names}
    return Fit(recorded if isinstance(recorded, ModelConfig) else config, kept, tuple(zeroed), tuple(reshaped))


def _other_dtype(name: str, ref: TensorRef) -> str:
    """Describe the dtype of a tensor, or the shape of a counter, that does not fit; "" if it fits."""
    if name.endswith(COUNTER):
        # Scripts that cast every tensor to float16 also cast the counters.
        fits = ref.dtype in INTEGER_DTYPES | FLOAT_DTYPES and ref.shape in ((), (1,))
        return "" if fits else f"file {ref.dtype} {ref.shape}, model int64 ()"
    return "" if ref.dtype in FLOAT_DTYPES else f"file {ref.dtype}, model float32"
