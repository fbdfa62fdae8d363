"""Golden files: matches, mismatches and their explanations, and bad files with one-line errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import segnets
import weights_tools.check._hidden_options
import weights_tools.check.golden
from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.registry import MODELS
from tests.oracle import randomised
from weights_tools.check.golden import check_golden
from weights_tools.check.network import build_network

OPTIONS: dict[str, Any] = {"num_classes": 5, "output_stride": 16, "aux_loss": True}


@cache
def state() -> Mapping[str, Tensor]:
    """Random weights of a network with outputs of order 1, so that every option matters."""
    model = randomised(segnets.create_model, "fcn_resnet18", **OPTIONS)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 4 and name.startswith("backbone."):
                tensor.mul_(0.6)
    return dict(model.state_dict())


def fcn(**options: JSON) -> nn.Module:
    """Build a network with these weights; no option here changes a name or a shape."""
    return build_network(ModelConfig("fcn_resnet18", {**OPTIONS, **options}), state())


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return fcn()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(1, 3, 48, 65, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def outputs(model: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
    with torch.no_grad():
        result: Mapping[str, Tensor] = model(images)
    return result


def golden_file(path: Path, **tensors: Tensor) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path / "golden.safetensors")
    return path / "golden.safetensors"


@pytest.mark.parametrize("name", ["output", "out", "logits"])
def test_the_same_network_agrees(
    tmp_path: Path, model: nn.Module, images: Tensor, outputs: Mapping[str, Tensor], name: str
) -> None:
    check = check_golden(golden_file(tmp_path, input=images, **{name: outputs["out"]}), model)
    assert [each.output for each in check.measured] == ["out"]
    assert check.measured[0].difference == 0
    assert check.measured[0].agreement == 1
    record = check.to_json()
    assert record["file"] == "golden.safetensors"
    assert record["input_shape"] == [1, 3, 48, 65]
    assert len(str(record["sha256"])) == 64


def test_both_results_are_compared(
    tmp_path: Path, model: nn.Module, images: Tensor, outputs: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_tools.check._hidden_options, "_candidates", lambda _: iter(()))
    path = golden_file(tmp_path, input=images, output=outputs["out"], aux=outputs["aux"])
    assert [each.output for each in check_golden(path, model).measured] == ["out", "aux"]
    path = golden_file(tmp_path, input=images, output=outputs["out"], aux=outputs["aux"] + 0.1)
    with pytest.raises(WeightsError, match=r"'aux' differs by 0\.1 "):
        check_golden(path, model)
    without_aux = {name: tensor for name, tensor in state().items() if not name.startswith("aux_classifier.")}
    with pytest.raises(WeightsError, match="has no auxiliary classifier"):
        check_golden(path, build_network(ModelConfig("fcn_resnet18", {**OPTIONS, "aux_loss": False}), without_aux))


def test_a_classifier(tmp_path: Path, images: Tensor) -> None:
    model = randomised(segnets.registry.build, "mobilenet_v3_small", {"num_classes": 9})
    with torch.no_grad():
        logits = model.eval()(images)
    assert check_golden(golden_file(tmp_path, input=images, output=logits), model).measured[0].output == "logits"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("output_stride", 8),
        ("first_block_dilation", "same"),
        ("basic_block_dilation", "first"),
        ("align_corners", True),
        ("norm_eps", 1e-3),
        ("head_norm_eps", 1e-2),
        ("multi_grid", [2, 4]),
    ],
)
def test_an_option_that_the_weights_do_not_show_is_found(
    tmp_path: Path, images: Tensor, outputs: Mapping[str, Tensor], option: str, value: JSON
) -> None:
    """Every tensor fits, so only the outputs show that the network is another one."""
    path = golden_file(tmp_path, input=images, output=outputs["out"])
    with pytest.raises(
        WeightsError, match="the converted network does not reproduce the golden output: 'out' differs by"
    ) as caught:
        check_golden(path, fcn(**{option: value}))
    if option == "multi_grid":  # it has too many values to try
        assert "multi_grid (now [2, 4])" in str(caught.value)
    else:
        was = MODELS["fcn_resnet18"].resolve(OPTIONS)[option]
        assert f". With {option}={was} it does. " in str(caught.value)


def test_two_options_that_explain_it(tmp_path: Path, images: Tensor) -> None:
    """segmentation_models_pytorch computes so, under names and shapes that torchvision has too."""
    smp = fcn(first_block_dilation="same", align_corners=True)
    with torch.no_grad():
        path = golden_file(tmp_path, input=images, output=smp(images)["out"])
    with pytest.raises(WeightsError, match=r"\. With align_corners=True and first_block_dilation=same it does\. "):
        check_golden(path, fcn())


def test_an_output_stride_with_the_atrous_rates_of_another(tmp_path: Path) -> None:
    """SMP has rates of 12, 24 and 36 at any output stride; here they are the default at 8 only."""
    options: dict[str, Any] = {"num_classes": 3, "align_corners": True, "first_block_dilation": "same"}
    model = randomised(segnets.create_model, "deeplabv3_resnet18", **options, output_stride=8)
    tensors = dict(model.state_dict())
    theirs = ModelConfig("deeplabv3_resnet18", {**options, "output_stride": 16, "atrous_rates": [12, 24, 36]})
    images = torch.randn(1, 3, 64, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        path = golden_file(tmp_path, input=images, output=build_network(theirs, tensors)(images)["out"])
    with pytest.raises(WeightsError, match=r"\. With output_stride=16 it does\. "):
        check_golden(path, model)


def test_mismatches_that_no_option_explains(
    tmp_path: Path, model: nn.Module, images: Tensor, outputs: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = golden_file(tmp_path, input=images.flip(1), output=outputs["out"])
    monkeypatch.setattr(weights_tools.check._hidden_options, "_candidates", lambda _: iter([{"norm_eps": 1e-3}]))
    hints = r"output_stride \(now 16\), align_corners \(now False\), .*a different channel order"
    with pytest.raises(WeightsError, match=hints):
        check_golden(path, model)


def test_tolerance(
    tmp_path: Path, model: nn.Module, images: Tensor, outputs: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_tools.check._hidden_options, "_candidates", lambda _: iter(()))
    noisy = outputs["out"] * (1 + 3e-4)
    path = golden_file(tmp_path, input=images, output=noisy)
    with pytest.raises(WeightsError, match="differs by"):
        check_golden(path, model)
    assert check_golden(path, model, tolerance=1e-3).measured[0].relative < 1e-3
    for nonsense in (0.0, -1.0, 1.0, float("nan")):
        with pytest.raises(WeightsError, match="expected a number above 0 and below 1"):
            check_golden(path, model, tolerance=nonsense)


def test_the_network_is_left_unchanged(
    tmp_path: Path, images: Tensor, outputs: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_tools.check._hidden_options, "_candidates", lambda _: iter(()))
    path = golden_file(tmp_path, input=images, output=outputs["out"])
    model = fcn().train()
    model.get_submodule("backbone").eval()
    before = {name: part.training for name, part in model.named_modules()}
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_golden(path, model)
    assert {name: part.training for name, part in model.named_modules()} == before
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    halved = model.half()
    with pytest.raises(WeightsError, match="differs by"):  # the weights were rounded
        check_golden(path, halved)
    assert halved.state_dict()["classifier.4.weight"].dtype == torch.float16


Change = Callable[[Tensor, Tensor], dict[str, Tensor]]
BAD: dict[str, tuple[Change, str]] = {
    "no input": (lambda x, y: {"image": x, "output": y}, r"no tensor 'input' \(found: 'image', 'output'\)"),
    "no output": (lambda x, _: {"input": x}, "no tensor 'output'"),
    "only aux": (lambda x, y: {"input": x, "aux": y}, "no tensor 'output'"),
    "two outputs": (lambda x, y: {"input": x, "output": y, "out": y}, "several tensors could be the output"),
    "integer images": (lambda x, y: {"input": x.byte(), "output": y}, "'input' is uint8; expected float32"),
    "half images": (lambda x, y: {"input": x.half(), "output": y}, "'input' is float16"),
    "classes": (lambda x, y: {"input": x, "output": y.argmax(1)}, "'output' is int64.*Save the logits, not the class"),
    "NaN": (lambda x, y: {"input": x, "output": y / 0 * 0}, "'output' holds NaN"),
    "infinite": (lambda x, y: {"input": x / 0, "output": y}, "'input' holds NaN or infinite"),
    "empty": (lambda x, y: {"input": x[:0], "output": y[:0]}, "'input' is empty"),
    "one image": (lambda x, y: {"input": x[0], "output": y[0]}, r"expected \(N, C, H, W\)"),
    "channels": (lambda x, y: {"input": x[:, :1], "output": y}, "has 1 channels"),
    "channels last": (lambda x, y: {"input": x.permute(0, 2, 3, 1), "output": y}, "permute"),
    "low resolution": (lambda x, y: {"input": x, "output": y[:, :, ::16, ::16]}, "logits at 1/16 of the image's size"),
    "other classes": (lambda x, y: {"input": x, "output": y[:, :4]}, "a different number of classes"),
    "no batch": (lambda x, y: {"input": x, "output": y[0]}, "has shape"),
    "probabilities": (lambda x, y: {"input": x, "output": y.softmax(1)}, "from before softmax"),
    "zeros": (lambda x, y: {"input": x, "output": y * 0}, "only zeros"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_gives_a_one_line_error(
    tmp_path: Path, model: nn.Module, images: Tensor, outputs: Mapping[str, Tensor], bad: str
) -> None:
    change, reason = BAD[bad]
    path = golden_file(tmp_path, **change(images, outputs["out"]))
    with pytest.raises(WeightsError, match=reason) as caught:
        check_golden(path, model)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_other_kinds_of_file(
    tmp_path: Path, model: nn.Module, images: Tensor, outputs: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"input": images, "output": outputs["out"]}, tmp_path / "golden.pt")
    with pytest.raises(WeightsError, match=r"the file is a torch zip\. A golden file must be \.safetensors"):
        check_golden(tmp_path / "golden.pt", model)
    with pytest.raises(WeightsError, match="the file does not exist"):
        check_golden(tmp_path / "absent.safetensors", model)
    path = golden_file(tmp_path, input=images, output=outputs["out"])
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(WeightsError, match="is truncated"):
        check_golden(cut, model)
    monkeypatch.setattr(weights_tools.check.golden, "_MAX_BYTES", 1 << 10)
    with pytest.raises(WeightsError, match="at most 0 MiB are read"):
        check_golden(path, model)
