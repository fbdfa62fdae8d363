"""Check that a network computes what its config describes.

Equal names and shapes prove little: a different activation, eps, stride or dilation, a forward hook or a replaced
`forward` changes the results and no tensor. So the described network is built with the same tensors, and both run on
one small image. Modules and settings are compared to name what was changed. A different setting alone counts only if it
makes a layer read other pixels, which a small image may not have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import ModelConfig
from segnets.forks import check_not_forked
from segnets.layers import is_batch_norm
from segnets.neutral_state import neutral_state
from segnets.weights.wrappers import is_sharded, without_inner_wrappers

# Same layers, same tensors, same device: only a GPU that picks another algorithm explains a difference.
_TOLERANCE = {"cpu": 1e-6}
_OTHER_TOLERANCE = 1e-2
_HEIGHT = 17  # odd before every stride, so that its rounding shows
_LEAST_WIDTH, _MOST_WIDTH = 65, 2049
# Attributes that change training or memory but no result in eval mode.
_NO_RESULT = frozenset(
    {"training", "momentum", "p", "inplace", "process_group", "num_classes"}
    | {"norm_eval", "backbone_frozen", "gradient_checkpointing"}
)
_REACH = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")  # settings of convolutions and poolings
_LONGEST = 5  # number of changes in a message


def find_difference(model: nn.Module, config: ModelConfig, described: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Compare a network with the one that its config describes.

    Args:
        model: Network. Its hooks run once; it is left unchanged.
        config: Description of the network.
        described: Network that `config` describes, on the meta device. It is changed: it gets `tensors`.
        tensors: State dict of `model`, with the names and shapes of `described`.

    Returns:
        What was changed, in one sentence, or an empty string if both compute the same. If the described network does
        not run on this device and dtype, or `model` is sharded, settings are compared instead of results.

    Raises:
        ForkError: If this process was forked after a network had run in several threads.
    """
    check_not_forked()
    # Tensors made in inference mode can't become parameters outside it.
    usable = {name: tensor.clone() if tensor.is_inference() else tensor for name, tensor in tensors.items()}
    described.eval().load_state_dict(usable, strict=True, assign=True)
    model = without_inner_wrappers(model)
    if is_sharded(model):
        return _differing(model, described, hooks=False)
    image = _image(config, tensors)
    with _as_is(model, image.device):
        try:
            expected = _outputs(described(image))
        except Exception:  # for example no kernels for 8-bit floats, or layers on several devices
            return _differing(model, described, hooks=False)
        try:
            got = _outputs(model(image))
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            difference = f"it does not run on an image of {tuple(image.shape)}: {reason}"
        else:
            difference = _largest_difference(got, expected)
    if not difference:
        if not _other_reach(model, described):
            return ""
        difference = "a small image does not show it"
    found = _differing(model, described)
    return f"{found or 'no layer, setting or hook explains it; perhaps a class was patched'} ({difference})"


def _image(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return an image that is wide enough for the largest dilation to reach another pixel.

    Its amplitude grows from left to right, so that activations that only differ for large values differ here.
    """
    rates = [value for name in ("atrous_rates", "multi_grid") for value in _integers(config.options.get(name))]
    stride = next(iter(_integers([config.options.get("output_stride")])), 1)
    width = min(max(_LEAST_WIDTH, (max(rates, default=0) + 2) * stride + 1), _MOST_WIDTH)
    width += (3 - width) % 4  # an even width at a ResNet's pooling: its ceil_mode has no effect on odd ones
    channels = next(iter(_integers([config.options.get("in_channels")])), 3)
    generator = torch.Generator().manual_seed(0)  # leaves the caller's random state unchanged
    image = torch.randn((1, channels, _HEIGHT, width), generator=generator, dtype=torch.float32, device="cpu")
    image *= torch.linspace(0.5, 8, width, dtype=torch.float32, device="cpu")
    like = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), image)
    return image.to(device=like.device, dtype=like.dtype)


def _integers(values: object) -> list[int]:
    return [each for each in values if isinstance(each, int)] if isinstance(values, list | tuple) else []


@contextlib.contextmanager
def _as_is(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run in eval mode, uncompiled and in a neutral state; restore the modes of the modules."""
    training = [module for module in model.modules() if module.training]
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    model.eval()
    with contextlib.ExitStack() as stack:
        stack.enter_context(neutral_state(device))
        # Tensors that hooks and layers keep from this call must stay usable in training.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if compiled:  # imports the compiler, which the caller's model has already imported
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _other_reach(model: nn.Module, described: nn.Module) -> bool:
    """Return whether a convolution or pooling reads other pixels, which may be outside a small image."""
    ours = dict(model.named_modules())
    for path, theirs in described.named_modules():
        if path not in ours or _pair(getattr(theirs, "kernel_size", 1)) == (1, 1):
            continue
        values = [(_pair(getattr(ours[path], name, None)), _pair(getattr(theirs, name, None))) for name in _REACH]
        # padding="same" is decided by the results alone.
        if any(mine != value and not isinstance(mine, str) for mine, value in values):
            return True
    return False


def _pair(value: object) -> object:
    """Return a number for both axes as two, so that 3 equals (3, 3)."""
    return (value, value) if isinstance(value, int) else value


def _outputs(output: object) -> dict[str, Tensor]:
    if isinstance(output, Tensor):
        return {"out": output}
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items() if isinstance(value, Tensor)}
    return {}


def _largest_difference(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    if got.keys() != expected.keys():
        return f"it returns {', '.join(map(repr, got)) or 'no tensors'} instead of {', '.join(map(repr, expected))}"
    for name, theirs in expected.items():
        ours = got[name]
        if ours.shape != theirs.shape:
            return f"{name!r} has shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
        if torch.equal(ours, theirs):
            continue
        a, b = ours.double(), theirs.double()
        largest = float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 0.0
        tolerance = _TOLERANCE.get(ours.device.type, _OTHER_TOLERANCE) * largest
        if not torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
            far = float((a - b).abs().nan_to_num(torch.inf).max())
            return f"on a small image {name!r} differs by {far:.2g} (the largest value is {largest:.2g})"
    return ""


def _differing(model: nn.Module, described: nn.Module, *, hooks: bool = True) -> str:
    """Return what was changed in a network, as one sentence, from its modules, their settings and hooks.

    Most hooks only observe, so `hooks` is for a network that is known to compute something else.
    """
    ours = dict(model.named_modules())
    theirs = dict(described.named_modules())
    found: dict[str, list[str]] = {}
    for path, module in theirs.items():
        for change in _changes(ours[path], module, hooks) if path in ours else ["nothing"]:
            found.setdefault(change, []).append(path or "the network itself")
    for path, module in ours.items():
        if path not in theirs:
            found.setdefault(f"an added {type(module).__name__}", []).append(path)
    lines = [f"{change} in {_join(paths)}" for change, paths in found.items()]
    more = f"; and {len(lines) - _LONGEST} more changes" if len(lines) > _LONGEST else ""
    return "; ".join(lines[:_LONGEST]) + more


def _join(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more layers"


def _changes(ours: nn.Module, theirs: nn.Module, with_hooks: bool) -> Iterator[str]:
    both_norms = is_batch_norm(ours) and is_batch_norm(theirs)  # converted ones compute the same in eval mode
    if type(ours).forward is not type(theirs).forward and not both_norms:
        yield f"{type(ours).__name__} instead of {type(theirs).__name__}"
        return
    if "forward" in vars(ours):
        yield "a different forward"
    for name, value in vars(theirs).items():
        if name.startswith("_") or name in _NO_RESULT or not isinstance(value, bool | int | float | str | tuple | dict):
            continue
        mine: Any = vars(ours).get(name)
        if mine != value:
            yield f"{name}={mine} instead of {value}"
    for kind in ("_forward_pre_hooks", "_forward_hooks") if with_hooks else ():
        hooks: Mapping[int, Callable[..., object]] = getattr(ours, kind)
        if len(hooks) > len(getattr(theirs, kind)):
            hook = list(hooks.values())[-1]
            title = getattr(hook, "__qualname__", type(hook).__qualname__)
            yield f"the forward hook {title}"
