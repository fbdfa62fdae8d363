"""Comparing tensors with the network that they are said to be, which is built on the meta device, without memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from segnets.card import ModelConfig
from segnets.errors import WeightsError
from segnets.registry import build_empty
from weights_tools.names import shown
from weights_tools.reader.values import FLOAT_DTYPES, INTEGER_DTYPES, TensorRef

COUNTER = ".num_batches_tracked"
_LISTED = 10


@dataclass(frozen=True)
class Fit:
    """How tensors fit a network.

    names: for each tensor of the network its name in the file; absent counters are left out.
    zeroed: batch norm counters that the file lacks; they become 0.
    reshaped: counters of another shape or number format; they become int64 without dimensions.
    """

    names: Mapping[str, str]
    zeroed: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()


def expected_tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Return the names, shapes and dtypes of a network as tensors without values.

    Raises WeightsError if segnets can't build it.
    """
    try:
        return dict(build_empty(config.name, dict(config.options)).state_dict())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"its network {config.name} can't be built: {error}") from None


def fit(config: ModelConfig, names: Mapping[str, str], tensors: Mapping[str, TensorRef]) -> Fit:
    """Compare names, shapes and kinds of number; tensors of old files may lack the batch norm counters.

    Raises WeightsError that lists every difference at once.
    """
    expected = expected_tensors(config)
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
    return Fit(kept, tuple(zeroed), tuple(reshaped))


def _difference(config: ModelConfig, missing: list[str], unexpected: list[str], wrong: list[str]) -> str:
    options = ", ".join(f"{key}={value}" for key, value in config.options.items())
    counts = [(missing, "missing"), (unexpected, "unexpected"), (wrong, "of another shape or type")]
    summary = ", ".join(f"{len(names)} {what}" for names, what in counts if names)
    lines = [f"it looks like {config.name}({options}), but its tensors do not fit: {summary}"]
    for sign, names in (("-", missing), ("+", unexpected), ("~", wrong)):
        lines += [f"  {sign} {shown(name, quote=False)}" for name in names[:_LISTED]]
        if len(names) > _LISTED:
            lines.append(f"  {sign} and {len(names) - _LISTED} more")
    return "\n".join(lines)
