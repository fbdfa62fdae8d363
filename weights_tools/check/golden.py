"""Check a network against one saved input and output of its source.

Useful for sources whose own code can't be run here. A golden file is small and safe: `.safetensors` with the tensors
"input" and "output". A wrong value of any option that the weights do not show changes the output.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.errors import SegnetsError, WeightsError
from weights_tools._text import join_names, printable
from weights_tools.check._hidden_options import find_explanation, hidden_options
from weights_tools.check.outputs import (
    NO_LOGITS,
    TOLERANCES,
    OutputComparison,
    compare_outputs,
    outputs_by_name,
    worst,
)
from weights_tools.reader import Container, Source, TensorReader, prefix_errors, read_container
from weights_tools.reader.values import TensorRef

_INPUT, _AUX = "input", "aux"
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class GoldenCheck:
    """Record of a network that reproduced the output in a golden file.

    Attributes:
        file: Path of the golden file.
        sha256: SHA-256 of the golden file.
        input_shape: Shape of its input, (N, C, H, W).
        tolerance: Allowed difference, relative to the largest output or to 1.
        measured: One comparison per output.
    """

    file: str
    sha256: str
    input_shape: tuple[int, ...]
    tolerance: float
    measured: tuple[OutputComparison, ...]

    def to_json(self) -> dict[str, JSON]:
        """Return the record for a converted file."""
        return {
            "file": printable(os.path.basename(self.file), quote=False),  # noqa: PTH119
            "sha256": self.sha256,
            "input_shape": list(self.input_shape),
            "tolerance": self.tolerance,
            "measured": [each.to_json() for each in self.measured],
        }

    def __str__(self) -> str:
        return "; ".join(f"{each.output} {each}" for each in self.measured)


def check_golden(
    path: str | os.PathLike[str], model: nn.Module, *, tolerance: float = TOLERANCES["float32"]
) -> GoldenCheck:
    """Run a network on the input in a golden file and compare its outputs with those in the file.

    Args:
        path: A `.safetensors` file with float32 tensors. "input" has shape (N, C, H, W) and is normalised as for the
            source's network. "output" (or "out", or one tensor of any other name) holds the logits that the source
            returned in eval mode: at the size of the image for segmentation, (N, classes) for a classifier. "aux" is
            optional.
        model: Network with its weights. It runs in eval mode and float32, and is left unchanged.
        tolerance: Allowed difference, relative to the largest output or to 1.

    Raises:
        WeightsError: If the file is not a golden file, if shapes differ, or if the outputs differ. If the
            outputs differ, the message gives one or two options that explain it, or options to consider.
    """
    if not 0 < tolerance < 1:
        raise WeightsError(f"tolerance={tolerance}: expected a number above 0 and below 1, for example 1e-4")
    with prefix_errors(path), Source(path) as source:
        if source.size > _MAX_BYTES:  # check before anything is read
            raise WeightsError(
                f"the golden file has {source.size / 1e6:,.0f} MB; at most {_MAX_BYTES >> 20} MiB are read. "
                "One image of a few hundred pixels is enough."
            )
        tensors = _read(source, read_container(source))
        images = tensors.pop(_INPUT)
        _check_images(images, model)
        got = _run(model, images)
        expected = _pair_outputs(tensors, got)
        size = (images.shape[2], images.shape[3])
        _check_has_logits(expected, got, model)
        _check_shapes(expected, got, size)
        own = {name: tensor for name, tensor in got.items() if name in expected}
        measured = compare_outputs(own, expected, size=size, source="the golden file", tolerance=tolerance)
        far = worst(measured)
        if not far.holds:
            raise WeightsError(
                f"{_difference_text(far)}. "
                + (_flaw_of_output(far, expected[far.output]) or _advise(model, images, expected, tolerance))
            )
        return GoldenCheck(str(path), source.sha256(), tuple(images.shape), tolerance, tuple(measured))


def _read(source: Source, container: Container) -> dict[str, Tensor]:
    """Return the input, one output, and the auxiliary output if there is one."""
    if container.kind != "safetensors":
        raise WeightsError(
            f"the file is a {container.kind}. A golden file must be .safetensors, which holds only tensors."
        )
    top = container.top
    refs = {name: ref for name, ref in top.items() if isinstance(ref, TensorRef)} if isinstance(top, dict) else {}
    names = [name for name in refs if isinstance(name, str)]
    if _INPUT not in names:
        found = join_names((printable(name) for name in names), 4) or "nothing"
        raise WeightsError(f"no tensor 'input' (found: {found}). A golden file holds 'input' and 'output'.")
    # The classes of a whole image, which some networks return in addition to the mask (SMP's `aux_params`).
    masks = any(len(refs[name].shape) == 4 for name in names if name not in (_INPUT, _AUX))
    labels = {name for name in names if masks and len(refs[name].shape) == 2}
    wanted = [_INPUT, _output_name([name for name in names if name not in labels]), *([_AUX] if _AUX in names else [])]
    reader = TensorReader(source, container)
    tensors: dict[str, Tensor] = {}
    for name in wanted:
        tensors[name] = reader.read(name, refs[name])
        _check_values(name, tensors[name])
    return tensors


def _output_name(names: list[str]) -> str:
    others = [name for name in names if name not in (_INPUT, _AUX)]
    if len(others) == 1:
        return others[0]
    if not others:
        raise WeightsError("no tensor 'output'. Save the source network's logits for 'input' under this name.")
    raise WeightsError(
        f"several tensors could be the output: {join_names((printable(name) for name in others), 4)}. "
        "Keep one of them, as 'output'."
    )


def _check_values(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.float32:
        dtype = str(tensor.dtype).removeprefix("torch.")
        advice = "Save float32 values." if tensor.is_floating_point() else "Save the logits, not the class ids."
        raise WeightsError(f"{printable(name)} is {dtype}; expected float32. {advice}")
    if tensor.numel() == 0:
        raise WeightsError(f"{printable(name)} is empty (shape {tuple(tensor.shape)})")
    if not tensor.isfinite().all():
        raise WeightsError(f"{printable(name)} holds NaN or infinite values")


def _check_images(images: Tensor, model: nn.Module) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise WeightsError(f"'input' has shape {shape}; expected (N, C, H, W), a batch of images")
    config = getattr(model, "config", None)
    channels = config.options.get("in_channels", 3) if isinstance(config, ModelConfig) else shape[1]
    if shape[1] != channels:
        swapped = ". It looks like (N, H, W, C): save input.permute(0, 3, 1, 2)." if shape[3] == channels else ""
        raise WeightsError(
            f"'input' has {shape[1]} channels (shape {shape}), but the network expects {channels}{swapped}"
        )


def _run(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run the network in eval mode and float32, and leave it unchanged."""
    halved = any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in model.state_dict().values())
    module = copy.deepcopy(model).float() if halved else model
    was_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.inference_mode():
            return outputs_by_name(module(images))
    except (SegnetsError, MemoryError):
        raise
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"the network does not run on 'input' of shape {tuple(images.shape)}: {reason}") from None
    finally:
        for part in was_training:
            part.training = True


def _pair_outputs(saved: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the saved outputs to the network's names; the main output becomes the first of `got`."""
    first = next(name for name in got if name != _AUX)
    expected = {_AUX if name == _AUX else first: tensor for name, tensor in saved.items()}
    if _AUX in expected and _AUX not in got:
        raise WeightsError("the golden file has 'aux', but the converted network has no auxiliary classifier")
    return expected


def _check_has_logits(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse a backbone without a head, unless the golden file holds its features."""
    config = getattr(model, "config", None)
    alone = isinstance(config, ModelConfig) and config.options.get("num_classes") == 0
    if alone and any(tensor.shape != got[name].shape for name, tensor in expected.items()):
        raise WeightsError(NO_LOGITS)


def _check_shapes(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], size: tuple[int, int]) -> None:
    for name, tensor in expected.items():
        theirs, ours = tuple(tensor.shape), tuple(got[name].shape)
        if theirs == ours:
            continue
        what = f"the {'aux' if name == _AUX else 'output'} has shape {theirs}, but the converted network returns {ours}"
        if len(theirs) == len(ours) == 4 and theirs[:2] == ours[:2] and theirs[2] < size[0]:
            raise WeightsError(
                f"{what}. These are logits at 1/{round(size[0] / theirs[2])} of the image's size. Resize them as the "
                "source does before argmax, and save those."
            )
        if len(theirs) == len(ours) and theirs[0] == ours[0] and theirs[1] != ours[1]:
            raise WeightsError(
                f"{what}. The output has a different number of classes, so it comes from different weights."
            )
        raise WeightsError(f"{what}. Save the logits as the source's network returns them.")


def _flaw_of_output(far: OutputComparison, expected: Tensor) -> str:
    """Describe what is wrong with the saved output itself, or return an empty string."""
    if far.largest == 0:
        return "The saved output holds only zeros, which no trained network returns. Save it again."
    if _is_probability(expected):
        return "The saved output looks like probabilities. Save the logits from before softmax or sigmoid."
    return ""


def _advise(model: nn.Module, images: Tensor, expected: Mapping[str, Tensor], tolerance: float) -> str:
    """List the options that explain the difference, or else options to consider."""
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig):
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in model.state_dict().items()}
        found = find_explanation(config, tensors, images, expected, tolerance)
        if found:
            options = " and ".join(f"{name}={value}" for name, value in found.items())
            return (
                f"With {options} it does. Convert with --option if the layout leaves that open; otherwise the weights "
                "come from a different project than recognised."
            )
    hints = [f"{name} (now {value})" for name, value in hidden_options(config).items()]
    options = f"options that the weights do not show: {', '.join(hints)}; or " if hints else ""
    return (
        f"Possible causes: {options}a different channel order, a different normalisation, a source network that was "
        "not in eval mode, or a layer that segnets does not support."
    )


def _difference_text(far: OutputComparison) -> str:
    return (
        f"the converted network does not reproduce the golden output: {far.output!r} differs by {far.difference:.2g} "
        f"(allowed: {far.limit:.2g}), with the same class in {100 * far.agreement:.1f} %"
    )


def _is_probability(expected: Tensor) -> bool:
    return bool(expected.shape[1] > 1 and expected.min() >= 0 and (expected.sum(1) - 1).abs().max() < 1e-3)
