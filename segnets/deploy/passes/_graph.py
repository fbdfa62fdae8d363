"""What flows where in a network, found by running it once and watching, whatever its modules are called."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segnets.deploy._reason import reason_of
from segnets.deploy.check.reference import logits_in, returned_by
from segnets.errors import ExportError

_First = TypeVar("_First", bound=nn.Module)
_Second = TypeVar("_Second", bound=nn.Module)


def followers(
    model: nn.Module, first: type[_First], second: type[_Second] | tuple[type[_Second], ...]
) -> list[tuple[_First, _Second]]:
    """Run the model once and see which module of kind `second` reads the untouched output of which of kind `first`.

    Watching the data finds the pairs whatever the modules are called and wherever they stand. A module that runs more
    than once is left alone. That nobody else reads the first one's output can't be seen here; the comparison after the
    export would find it.
    Raises ExportError if the model doesn't run on a (1, 3, 64, 64) input, or gives no {"out": logits}.
    """
    produced: dict[int, tuple[_First, int]] = {}
    kept: list[Tensor] = []  # alive, so that no id is used twice
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
        # Another version means that something wrote into the output in place, such as an activation.
        if source is not None and inputs[0]._version == version:
            pairs.append((source, module))

    modules = list(model.modules())
    handles = [m.register_forward_hook(after_first) for m in modules if isinstance(m, first)]
    handles += [m.register_forward_pre_hook(before_second) for m in modules if isinstance(m, second)]
    try:
        with torch.no_grad(), torch.inference_mode(False):  # tensors of inference mode have no version
            scores = returned_by(model, torch.zeros(1, 3, 64, 64, dtype=torch.float32))
    finally:
        for handle in handles:
            handle.remove()
    logits_in(scores, model)  # raises for a classifier
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def names_of(model: nn.Module, wanted: nn.Module) -> list[str]:
    """Every name under which `model` has the module."""
    return [name for name, module in model.named_modules(remove_duplicate=False) if module is wanted]


def convolution_inputs(model: nn.Module, image_size: tuple[int, int]) -> dict[nn.Module, list[int]]:
    """The shape that every convolution reads of one image of this size, found without computing anything.

    image_size: (height, width). Of several maps that one reads it is the largest. Convolutions that don't run are left
    out.
    Raises ExportError if the model doesn't run on such an image, or only where values are known.
    """
    sizes: dict[nn.Module, list[int]] = {}

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[module] = max(sizes.get(module, [0]), list(inputs[0].shape), key=math.prod)

    handles = [m.register_forward_pre_hook(before) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            model(torch.zeros(1, 3, *image_size))
    except Exception as error:  # what tensors without values raise are kinds of their own
        raise ExportError(
            f"the model doesn't run on a float32 {(1, 3, *image_size)} input whose values aren't known: "
            f"{reason_of(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def last_readers(model: nn.Module, blocks: set[nn.Module]) -> set[nn.Module]:
    """Those of `blocks` whose input no other module reads afterwards, nor a module around them: they may overwrite it.

    model: runs on a float32 (1, 3, 64, 64) input. What reads between modules can't be seen here; the comparison after
    the export would find it.
    """
    clock = 0
    kept: list[Tensor] = []  # alive, so that no memory is used twice
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
        # A sequence only hands on; another module around may use its input once more.
        around = [memory for outer, others in running if not isinstance(outer, nn.Sequential) for memory in others]
        if module in ends or set(read) & set(around):
            unsafe.add(module)
        running.append((module, read))

    def after(module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        kept.extend(_tensors(output))
        ends[module] = (clock, running.pop()[1])

    handles = [m.register_forward_pre_hook(before) for m in model.modules()]
    handles += [m.register_forward_hook(after) for m in model.modules()]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, 64, 64))
    finally:
        for handle in handles:
            handle.remove()
    return {
        module
        for module, (end, read) in ends.items()
        if module in blocks and module not in unsafe and all(last_read[memory] <= end for memory in read)
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
