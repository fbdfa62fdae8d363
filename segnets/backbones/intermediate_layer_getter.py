"""Extraction of named feature maps from a classifier.

Behaves like torchvision.models._utils.IntermediateLayerGetter, but also accepts dotted paths.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segnets.layers import is_symbolic


class _Tap:
    """Forward hook that stores a module's output under a name.

    A class rather than a closure, so that the hooks of a deep-copied or unpickled getter write to the copy.
    """

    def __init__(self, outputs: dict[str, Tensor], name: str) -> None:
        self.outputs = outputs
        self.name = name

    def __call__(self, _module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        self.outputs[self.name] = output


class IntermediateLayerGetter(nn.ModuleDict):
    """Module that runs the children of a model in order and returns the outputs of selected layers.

    Behaves like torchvision.models._utils.IntermediateLayerGetter, and also supports dotted paths. Children after
    the last selected one are dropped. The children must be registered in the order in which they run, and each runs
    once.

    Dotted paths work in eager mode and torch.compile, but not in TorchScript, and in torch.fx only if they refer to a
    block rather than to a torch.nn layer. A getter with dotted paths must not run in two threads at once.

    Args:
        model: Module such as a ResNet or the `features` of a MobileNetV3.
        return_layers: Mapping from the path of a layer in `model` to the name of its output. A path is the name of a
            child ("layer4") or a dotted path into one ("layer3.5.conv2").

    Raises:
        ValueError: If a path is not in `model`.
    """

    _version = 2
    __annotations__ = {"return_layers": dict[str, str]}

    def __init__(self, model: nn.Module, return_layers: Mapping[str, str]) -> None:
        wanted = {str(path): str(name) for path, name in return_layers.items()}
        children = dict(model.named_children())
        missing = [path for path in wanted if not _has(children, path)]
        if missing:
            raise ValueError(
                f"return_layers are not present in model: {', '.join(map(repr, missing))}; the children of this "
                f"{type(model).__name__} are {', '.join(children)} (a module that is registered twice is listed under "
                "its first name)"
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

    def __prepare_scriptable__(self) -> Self:
        """Refuse dotted paths in `torch.jit.script`, which does not compile the forward hooks that read them.

        Returns:
            The getter itself.

        Raises:
            NotImplementedError: If there are dotted paths.
        """
        if self.dotted:
            raise NotImplementedError(
                f"TorchScript can't look inside a layer: return_layers {', '.join(self.dotted)} are dotted paths; "
                "use direct children to script this network"
            )
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Run the children and collect the selected outputs.

        Args:
            x: Input of `model`.

        Returns:
            The outputs by name, in the order in which the layers run. An OrderedDict in eager mode.

        Raises:
            NotImplementedError: If torch.fx traces a getter with the dotted path of a torch.nn layer.
        """
        out = OrderedDict()
        if not torch.jit.is_scripting():
            self._tapped.clear()  # other code may have run the same layers
        for name, module in self.items():
            x = module(x)
            if not torch.jit.is_scripting():
                out.update(self._tapped)
                self._tapped.clear()
            if name in self.return_layers:
                out_name = self.return_layers[name]
                out[out_name] = x
        if not torch.jit.is_scripting():
            self._check_traced(x, out)
        return out

    def _check_traced(self, x: Tensor, outputs: Mapping[str, Tensor]) -> None:
        """Refuse a traced graph that lacks an output: torch.fx does not run the hooks of torch.nn layers."""
        missing = [path for path in self.dotted if self.return_layers[path] not in outputs]
        if missing and is_symbolic(x):
            raise NotImplementedError(
                f"torch.fx can't read the outputs of {', '.join(missing)} through this getter; pass these paths to "
                "torchvision's create_feature_extractor instead, or trace a getter of whole blocks"
            )


def forward_checkpointed(backbone: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Compute `backbone(x)` with gradient checkpointing, keeping only the inputs of the residual blocks for backward.

    The backward pass recomputes everything else (https://arxiv.org/abs/1604.06174), at the cost of a second forward
    pass. Outputs, gradients and batch norm statistics equal those of `backbone(x)`. Not for TorchScript.

    Args:
        backbone: An IntermediateLayerGetter without dotted paths.
        x: Input of the backbone.

    Returns:
        The outputs of `backbone(x)`.

    Raises:
        TypeError: If `backbone` is not an IntermediateLayerGetter.
        ValueError: If `backbone` has dotted paths, because they would need outputs from inside a block.
    """
    if not isinstance(backbone, IntermediateLayerGetter):
        raise TypeError(f"gradient_checkpointing needs an IntermediateLayerGetter, got {type(backbone).__name__}")
    if backbone.dotted:
        raise ValueError(f"gradient_checkpointing does not support dotted paths: {', '.join(backbone.dotted)}")
    out: OrderedDict[str, Tensor] = OrderedDict()
    for name, module in backbone.items():
        # A plain Sequential is a stage of ResNet blocks. MobileNet's blocks are direct children.
        for block in module if type(module) is nn.Sequential else (module,):
            is_leaf = next(block.children(), None) is None  # the stem of a ResNet, not worth recomputing
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
    """Restore the batch norm statistics of a block after recomputing it, so that a batch counts once.

    Disabling the tracking instead would change which tensors a norm saves for backward, which checkpointing refuses.
    """
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            # Through .data: otherwise autograd's version check would reject the tensors saved for backward.
            buffer.data.copy_(value)
