"""Analyses of a network's data flow, from the inputs and outputs of its modules in one run.

They don't depend on the names of modules or on their place in the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from segnets.deploy._reason import reason_of
from segnets.deploy.check.reference import logits_in, returned_by
from segnets.errors import ExportError

_First = TypeVar("_First", bound=nn.Module)
_Second = TypeVar("_Second", bound=nn.Module)


def consecutive_pairs(
    network: nn.Module, first: type[_First], second: type[_Second] | tuple[type[_Second], ...], channels: int = 3
) -> list[tuple[_First, _Second]]:
    """Find modules that read the unchanged output of another module.

    Modules that run more than once are left out. Other readers of the first module's output can't be seen here; the
    comparison after the export would find them.

    Args:
        network: Network in eval mode, float32, on the CPU.
        first: Type of the modules that write.
        second: Type or types of the modules that read.
        channels: Number of channels of the images.

    Returns:
        Pairs of a writing and a reading module, in the order of the calls.

    Raises:
        ExportError: If the network doesn't run on a (1, channels, 64, 64) input, or doesn't return {"out": logits}.
    """
    produced: dict[int, tuple[_First, int]] = {}
    kept: list[Tensor] = []  # kept alive, so that ids stay unique
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[_First, _Second]] = []

    def after_first(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, first)
        calls[module] = calls.get(module, 0) + 1
        kept.append(output)
        produced[id(output)] = (module, output._version)

    def before_second(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, second)
        calls[module] = calls.get(module, 0) + 1
        source, version = produced.get(id(inputs[0]), (None, -1))
        # Another version means that an operation, such as an activation, wrote into the output in place.
        if source is not None and inputs[0]._version == version:
            pairs.append((source, module))

    modules = list(network.modules())
    handles = [m.register_forward_hook(after_first) for m in modules if isinstance(m, first)]
    handles += [m.register_forward_pre_hook(before_second) for m in modules if isinstance(m, second)]
    try:
        with torch.no_grad(), torch.inference_mode(False):  # tensors of inference mode have no version
            output = returned_by(network, torch.zeros(1, channels, 64, 64, dtype=torch.float32))
    finally:
        for handle in handles:
            handle.remove()
    logits_in(output, network)  # raises for a classifier
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def names_of(network: nn.Module, wanted: nn.Module) -> list[str]:
    """Return all names of a module in a network."""
    return [name for name, module in network.named_modules(remove_duplicate=False) if module is wanted]


def convolution_input_shapes(
    network: nn.Module, image_size: tuple[int, int], channels: int = 3
) -> dict[nn.Module, list[int]]:
    """Find the shape of every convolution's input for one image, without computing convolutions.

    Args:
        network: Network in eval mode, float32, on the CPU.
        image_size: Height and width of the image, in pixels.
        channels: Number of channels of the image.

    Returns:
        Shapes (1, C, H, W) by convolution. If a convolution runs several times, its largest input is recorded.
        Convolutions that don't run are left out.

    Raises:
        ExportError: If the network doesn't run on such an image.
    """
    shapes: dict[nn.Module, list[int]] = {}

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[module] = max(shapes.get(module, [0]), list(inputs[0].shape), key=math.prod)

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    handles = [module.register_forward_pre_hook(before) for module in convolutions]
    # Fake tensors would do this too, but importing them takes as long as the rest of the export.
    plain = [m for m in convolutions if type(m).forward is nn.Conv2d.forward and "forward" not in vars(m)]
    for module in plain:
        module.forward = partial(_zeros_of_convolution, module)  # type: ignore[method-assign]
    try:
        with torch.no_grad():
            network(torch.zeros(1, channels, *image_size, dtype=torch.float32))
    except Exception as error:  # of any type, because the network may be the caller's own
        raise ExportError(
            f"the model doesn't run on a float32 {(1, channels, *image_size)} input: {reason_of(error)}"
        ) from error
    finally:
        for module in plain:
            del module.forward
        for handle in handles:
            handle.remove()
    return shapes


def _zeros_of_convolution(module: nn.Conv2d, image: Tensor) -> Tensor:
    """Return zeros of the shape that a convolution returns."""
    sides = []
    for i, length in enumerate(image.shape[2:]):
        if module.padding == "same":
            sides.append(length)
            continue
        padding = 0 if isinstance(module.padding, str) else module.padding[i]
        reach = module.dilation[i] * (module.kernel_size[i] - 1) + 1
        sides.append((length + 2 * padding - reach) // module.stride[i] + 1)
    return image.new_zeros(image.shape[0], module.out_channels, *sides)


def may_overwrite_input(network: nn.Module, candidates: set[nn.Module], channels: int = 3) -> set[nn.Module]:
    """Find modules whose input no other module reads afterwards, including the modules that contain them.

    Reads by plain operations between modules can't be seen here; the comparison after the export would find them.

    Args:
        network: Network that runs on a float32 (1, channels, 64, 64) input.
        candidates: Modules to choose from.
        channels: Number of channels of the images.
    """
    clock = 0
    kept: list[Tensor] = []  # kept alive, so that no memory is reused
    last_read: dict[int, int] = {}
    running: list[tuple[nn.Module, list[int]]] = []
    ends: dict[nn.Module, tuple[int, list[int]]] = {}
    unsafe: set[nn.Module] = set()

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal clock
        clock += 1
        tensors = list(_tensors(inputs))
        kept.extend(tensors)
        read = [tensor.untyped_storage().data_ptr() for tensor in tensors]
        last_read.update(dict.fromkeys(read, clock))
        # A Sequential only passes its input on. Any other container may read its input again.
        outside = [memory for outer, others in running if not isinstance(outer, nn.Sequential) for memory in others]
        if module in ends or set(read) & set(outside):
            unsafe.add(module)
        running.append((module, read))

    def after(module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        kept.extend(_tensors(output))
        ends[module] = (clock, running.pop()[1])

    handles = [m.register_forward_pre_hook(before) for m in network.modules()]
    handles += [m.register_forward_hook(after) for m in network.modules()]
    try:
        with torch.no_grad():
            network(torch.zeros(1, channels, 64, 64, dtype=torch.float32))
    finally:
        for handle in handles:
            handle.remove()
    return {
        module
        for module, (end, read) in ends.items()
        if module in candidates and module not in unsafe and all(last_read[memory] <= end for memory in read)
    }


def _tensors(value: Any) -> Iterator[Tensor]:
    match value:
        case Tensor():
            yield value
        case dict():
            for each in value.values():
                yield from _tensors(each)
        case list() | tuple():
            for each in value:
                yield from _tensors(each)
