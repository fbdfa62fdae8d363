"""A network against one result of its source that somebody kept: what to do where the source's own code can't be run.

The file is small and safe: `.safetensors` with the tensors "input" and "output". It stands for every fact that no
tensor of the weights shows, as one number does that comes out wrong.
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
from weights_tools.check.hidden_options import explaining, suspects
from weights_tools.check.outputs import NO_SCORES, TOLERANCES, Measured, measure, named, worst
from weights_tools.reader import Container, Source, prefix_errors, read_container
from weights_tools.reader.tensors import TensorReader
from weights_tools.reader.values import TensorRef

INPUT, AUX = "input", "aux"
OUTPUTS = ("output", "out")
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class GoldenProof:
    """That a network gives what its source gave. file: whose name and sha256 it has; measured: by how much it differs.

    tolerance: times the largest result, or 1: what it may differ by.
    """

    file: str
    sha256: str
    input_shape: tuple[int, ...]
    tolerance: float
    measured: tuple[Measured, ...]

    def to_json(self) -> dict[str, JSON]:
        """As it stands in a converted file."""
        return {
            "file": printable(os.path.basename(self.file), quote=False),  # noqa: PTH119  (it may be no path of this system)
            "sha256": self.sha256,
            "input_shape": list(self.input_shape),
            "tolerance": self.tolerance,
            "measured": [each.to_json() for each in self.measured],
        }

    def __str__(self) -> str:
        return "; ".join(f"{each.output} {each}" for each in self.measured)


def check_golden(
    path: str | os.PathLike[str], model: nn.Module, *, tolerance: float = TOLERANCES["float32"]
) -> GoldenProof:
    """Run a network on the input that a file holds, and compare with the output that stands beside it.

    path: a `.safetensors` file with "input", (N, C, H, W) float32, normalised as for the source's network, and
    "output" (or "out", or one tensor of any other name), the scores that it gave in eval mode, float32: at the size of
    the image for a segmentation network, (N, classes) for a classifier; "aux" may stand beside it.
    model: a network of segnets with its weights; it is run in eval mode and float32, and left as it was.
    tolerance: what the results may differ by, times the largest of them, or 1.

    Raises WeightsError if the file is no such file, if the results have other shapes, or if they are not the same;
    the message then says with which options they would be, if one or two explain it, and else which to think of.
    """
    if not 0 < tolerance < 1:
        raise WeightsError(f"a tolerance of {tolerance} makes no sense: expected a number above 0 and below 1, as 1e-4")
    with prefix_errors(path), Source(path) as source:
        if source.size > MOST_BYTES:  # before anything of it is read
            raise WeightsError(
                f"it is {source.size / 1e6:,.0f} MB large and {MOST_BYTES >> 20} MiB are the most; one image of a few "
                "hundred pixels is enough"
            )
        kept = _read(source, read_container(source))
        images = kept.pop(INPUT)
        _check_images(images, model)
        got = _run(model, images)
        expected = _paired(kept, got)
        size = (images.shape[2], images.shape[3])
        _check_scores(expected, got, model)
        _check_shapes(expected, got, size)
        own = {name: tensor for name, tensor in got.items() if name in expected}
        measured = measure(own, expected, size=size, whose="the golden file", tolerance=tolerance)
        far = worst(measured)
        if not far.holds:
            raise WeightsError(_explain(far, expected[far.output]) or _hint(far, model, images, expected, tolerance))
        return GoldenProof(str(path), source.sha256(), tuple(images.shape), tolerance, tuple(measured))


def _read(source: Source, container: Container) -> dict[str, Tensor]:
    """The tensors of the file by name: the input and one output, perhaps an auxiliary one."""
    if container.kind != "safetensors":
        raise WeightsError(f"it is a {container.kind}; a golden file is .safetensors, which holds tensors alone")
    top = container.top
    refs = {name: ref for name, ref in top.items() if isinstance(ref, TensorRef)} if isinstance(top, dict) else {}
    texts = [name for name in refs if isinstance(name, str)]
    if INPUT not in texts:
        there = join_names((printable(name) for name in texts), 4) or "nothing"
        raise WeightsError(f"it has no tensor 'input' but {there}; a golden file holds 'input' and 'output'")
    wanted = [INPUT, _output_name(texts), *([AUX] if AUX in texts else [])]
    reader = TensorReader(source, container)
    tensors: dict[str, Tensor] = {}
    for name in wanted:
        tensors[name] = reader.read(name, refs[name])
        _check_numbers(name, tensors[name])
    return tensors


def _output_name(names: list[str]) -> str:
    others = [name for name in names if name not in (INPUT, AUX)]
    if len(others) == 1:
        return others[0]
    if not others:
        raise WeightsError("it has no tensor 'output', the scores of the source's network for 'input'")
    raise WeightsError(
        f"it has several tensors that could be the output: {join_names((printable(name) for name in others), 4)}; keep "
        "one of them, as 'output'"
    )


def _check_numbers(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.float32:
        kind = str(tensor.dtype).removeprefix("torch.")
        advice = "save the scores, not the classes" if not tensor.is_floating_point() else "save float32 numbers"
        raise WeightsError(f"its {printable(name)} is {kind}, and float32 is needed: {advice}")
    if tensor.numel() == 0:
        raise WeightsError(f"its {printable(name)} is empty, {tuple(tensor.shape)}")
    if not tensor.isfinite().all():
        raise WeightsError(f"its {printable(name)} holds NaN or infinite numbers")


def _check_images(images: Tensor, model: nn.Module) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise WeightsError(f"its 'input' has the shape {shape}; expected (N, C, H, W), a batch of images")
    config = getattr(model, "config", None)
    channels = config.options.get("in_channels", 3) if isinstance(config, ModelConfig) else shape[1]
    if shape[1] != channels:
        swapped = "; it looks like (N, H, W, C): input.permute(0, 3, 1, 2)" if shape[3] == channels else ""
        raise WeightsError(f"its 'input' has {shape[1]} channels, {shape}, and the network takes {channels}{swapped}")


def _run(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The network's results, in eval mode and float32; it is left as it was."""
    halved = any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in model.state_dict().values())
    module = copy.deepcopy(model).float() if halved else model
    was_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.inference_mode():
            return named(module(images))
    except (SegnetsError, MemoryError):
        raise
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"the network does not take its 'input', {tuple(images.shape)}: {reason}") from None
    finally:
        for part in was_training:
            part.training = True


def _paired(kept: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The kept results under the names of ours: the output, whatever it is called, is our first result."""
    first = next(name for name in got if name != AUX)
    expected = {AUX if name == AUX else first: tensor for name, tensor in kept.items()}
    if AUX in expected and AUX not in got:
        raise WeightsError("it has an 'aux', and the converted network has no auxiliary classifier")
    return expected


def _check_scores(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise WeightsError for a backbone alone, unless its features are what was kept."""
    config = getattr(model, "config", None)
    alone = isinstance(config, ModelConfig) and config.options.get("num_classes") == 0
    if alone and any(tensor.shape != got[name].shape for name, tensor in expected.items()):
        raise WeightsError(NO_SCORES)


def _check_shapes(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], size: tuple[int, int]) -> None:
    for name, tensor in expected.items():
        theirs, ours = tuple(tensor.shape), tuple(got[name].shape)
        if theirs == ours:
            continue
        what = f"its {'aux' if name == AUX else 'output'} has the shape {theirs}, that of the converted network {ours}"
        if len(theirs) == len(ours) == 4 and theirs[:2] == ours[:2] and theirs[2] < size[0]:
            raise WeightsError(
                f"{what}: scores of 1/{round(size[0] / theirs[2])} of the image's size, from before they are resized; "
                "resize them as the source's own code does before it takes the classes, and save those"
            )
        if len(theirs) == len(ours) and theirs[0] == ours[0] and theirs[1] != ours[1]:
            raise WeightsError(f"{what}: it is of another number of classes, so of other weights")
        raise WeightsError(f"{what}; save the scores as the source's network gives them")


def _explain(far: Measured, expected: Tensor) -> str:
    """What is wrong with the kept output itself, or ""."""
    if far.largest == 0:
        return f"{_differs(far)}; it holds only zeros, which no trained network gives: save it again"
    if _is_share(expected):
        return f"{_differs(far)}; its output looks like probabilities: save the scores from before softmax or sigmoid"
    return ""


def _hint(far: Measured, model: nn.Module, images: Tensor, expected: Mapping[str, Tensor], tolerance: float) -> str:
    """Which options would explain it, or which are worth a thought."""
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig):
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in model.state_dict().items()}
        found = explaining(config, tensors, images, expected, tolerance)
        if found:
            options = " and ".join(f"{name}={value}" for name, value in found.items())
            return (
                f"{_differs(far)}; with {options} it does: convert with --option where the layout leaves that open; "
                "where it does not, the weights are of another project than was recognised"
            )
    hints = [f"{name} (now {value})" for name, value in suspects(config).items()]
    options = f"options that no tensor shows: {', '.join(hints)}; or " if hints else ""
    return (
        f"{_differs(far)}; it may be {options}another order of the colours, another normalisation, a network that was "
        "not in eval mode, or a part that segnets has not"
    )


def _differs(far: Measured) -> str:
    return (
        f"the converted network does not give its output: {far.output!r} differs by {far.difference:.2g} where "
        f"{far.limit:.2g} is allowed, and the classes agree in {100 * far.agreement:.1f} %"
    )


def _is_share(expected: Tensor) -> bool:
    return bool(expected.shape[1] > 1 and expected.min() >= 0 and (expected.sum(1) - 1).abs().max() < 1e-3)
