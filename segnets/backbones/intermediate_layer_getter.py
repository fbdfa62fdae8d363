"""IntermediateLayerGetter: turn a classifier into a network that returns feature maps by name.

Behaves as torchvision.models._utils.IntermediateLayerGetter, and also takes dotted paths.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class _Tap:
    """A forward hook that puts a module's output aside under a name.

    A class and not a closure: a deep copy or a pickle of the getter then gets taps that feed the copy.
    """

    def __init__(self, outputs: dict[str, Tensor], name: str) -> None:
        self.outputs = outputs
        self.name = name

    def __call__(self, _module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        self.outputs[self.name] = output


class IntermediateLayerGetter(nn.ModuleDict):
    """The children of `model` up to the last one that is asked for, run one after the other.

    It assumes that the children are registered in the order in which they are used, each used once.

    model: any module of that kind, such as a ResNet or the `features` of a MobileNetV3.
    return_layers: the path of a layer in `model` -> the name of its output. A path is a child's name ("layer4"), or
    dotted to reach inside one ("layer3.5.conv2"). Dotted paths work in eager mode and torch.compile, not in
    TorchScript, and one getter with dotted paths must not run in two threads at once.

    forward: what `model` takes -> OrderedDict {name: Tensor}, in the order in which the layers run.
    Raises ValueError if a path is not in `model`.
    """

    _version = 2
    __annotations__ = {"return_layers": dict[str, str]}

    def __init__(self, model: nn.Module, return_layers: Mapping[str, str]) -> None:
        wanted = {str(path): str(name) for path, name in return_layers.items()}
        children = dict(model.named_children())
        missing = [path for path in wanted if not _has(children, path)]
        if missing:
            raise ValueError(
                f"return_layers are not present in model: {', '.join(map(repr, missing))}; "
                f"the children of this {type(model).__name__} are {', '.join(children)} (a module that is registered "
                "twice counts under its first name)"
            )
        pending = {path.partition(".")[0] for path in wanted}
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for name, module in children.items():
            layers[name] = module
            pending.discard(name)
            if not pending:
                break
        super().__init__(layers)
        self.return_layers = dict(return_layers)
        self.dotted = [path for path in wanted if "." in path]
        self._tapped: dict[str, Tensor] = {}
        for path in self.dotted:
            self.get_submodule(path).register_forward_hook(_Tap(self._tapped, wanted[path]))

    def __prepare_scriptable__(self) -> IntermediateLayerGetter:
        """torch.jit.script asks for this; it would say less clearly that hooks can't be compiled.

        Nothing is left to be written here: TorchScript compiles no forward hooks, by which dotted paths are read. The
        type is Python's for an operation that an object does not support; every argument is valid, so no ValueError.
        """
        if self.dotted:
            raise NotImplementedError(
                f"TorchScript can't look inside a layer: return_layers {', '.join(self.dotted)} are dotted paths; "
                "name direct children to script this network"
            )
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = OrderedDict()
        if not torch.jit.is_scripting():
            self._tapped.clear()  # somebody else may have run the same layers
        for name, module in self.items():
            x = module(x)
            if not torch.jit.is_scripting():
                out.update(self._tapped)
                self._tapped.clear()
            if name in self.return_layers:
                out_name = self.return_layers[name]
                out[out_name] = x
        return out


def forward_checkpointed(backbone: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """As `backbone(x)` for an IntermediateLayerGetter, keeping only the inputs of the residual blocks for backward.

    The rest is computed again when it is needed (https://arxiv.org/abs/1604.06174). Outputs, gradients and batch norm
    statistics are those of `backbone(x)`; the price is a second forward pass. Not for TorchScript.

    Raises TypeError for any other kind of backbone, ValueError for one with dotted paths: what is looked at inside a
    block must be kept.
    """
    if not isinstance(backbone, IntermediateLayerGetter):
        raise TypeError(f"gradient_checkpointing needs an IntermediateLayerGetter, got {type(backbone).__name__}")
    if backbone.dotted:
        raise ValueError(f"gradient_checkpointing does not go with dotted paths: {', '.join(backbone.dotted)}")
    out: OrderedDict[str, Tensor] = OrderedDict()
    for name, module in backbone.items():
        # A plain Sequential is a stage of ResNet blocks; MobileNet's blocks are children of their own.
        for block in module if type(module) is nn.Sequential else (module,):
            is_leaf = next(block.children(), None) is None  # the stem of a ResNet: nothing worth forgetting
            x = block(x) if is_leaf else _checkpoint(block, x)
        if name in backbone.return_layers:
            out[backbone.return_layers[name]] = x
    return out


def _has(children: Mapping[str, nn.Module], path: str) -> bool:
    child, dot, rest = path.partition(".")
    if child not in children:
        return False
    try:
        return not dot or ("" not in rest.split(".") and children[child].get_submodule(rest) is not None)
    except AttributeError:
        return False


def _checkpoint(block: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _untracked_statistics(block))
    )
    return result


@contextmanager
def _untracked_statistics(block: nn.Module) -> Iterator[None]:
    """While a block is computed again, its batch norms must not count the same batch a second time.

    They are left to run as they are and their statistics put back: a norm told not to track saves other tensors than
    in the first pass, which checkpointing refuses.
    """
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            # Through .data: autograd would take the values that it kept for backward to be changed, and they are not.
            buffer.data.copy_(value)
