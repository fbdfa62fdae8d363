"""Conversions from segmentation_models_pytorch: all compared networks, also in common wrappers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import weights_tools
from segnets.card import ModelConfig
from segnets.cli import main
from segnets.errors import WeightsError
from tests.peers import saving, test_smp
from tests.peers.compare import NUM_CLASSES, Case, State, Theirs, needs, randomised
from tests.peers.conversions import Conversion, Save, check, of_case, state_dict
from tests.peers.test_timm import RESNET_LAYERS
from weights_tools.check.peers import PEERS
from weights_tools.recognise.layouts.network_table import NetworkTable
from weights_tools.recognise.layouts.tables import SMP

pytestmark = needs("segmentation_models_pytorch")
PEER = "segmentation_models_pytorch"
DEEPLABV3, OLDER, DEEPLABV3PLUS, PSPNET = SMP
ORIGINS = {"DeepLabV3": DEEPLABV3, "DeepLabV3Plus": DEEPLABV3PLUS, "PSPNet": PSPNET}


def older(state: Mapping[str, Tensor]) -> State:
    """Return the tensors under SMP's names before 0.5, which DeepLabV3.load_state_dict renames."""
    result = {}
    for name, tensor in state.items():
        for new, old in (("decoder.aspp.", "0"), ("decoder.conv.", "1"), ("decoder.bn.", "2")):
            if name.startswith(new):
                name = f"decoder.{old}.{name.removeprefix(new)}"
        result[name] = tensor
    return result


def save_older(module: nn.Module, folder: Path) -> Path:
    torch.save(older(module.state_dict()), folder / "w.pth")
    return folder / "w.pth"


def conversion(
    case: Case, origin: NetworkTable | None = None, save: Save = state_dict, saved: str = "state dict"
) -> Any:
    return of_case(case, "smp", SMP, origin or ORIGINS[case.network.partition("(")[0]], save, saved)


def built(architecture: str, encoder: str, arguments: Mapping[str, Any]) -> nn.Module:
    import segmentation_models_pytorch as smp

    module: nn.Module = getattr(smp, architecture)(encoder, encoder_weights=None, classes=NUM_CLASSES, **arguments)
    return randomised(module, gain=0.6, within="encoder.")


def whole(architecture: str, encoder: str, arguments: Mapping[str, Any]) -> Theirs:
    """Return a network; with `aux_params` it also has a head for whole images, whose output is ignored."""
    module = built(architecture, encoder, arguments)

    def run(x: Tensor) -> State:
        logits = module(x)
        return {"out": logits[0] if isinstance(logits, tuple) else logits}

    return Theirs(module, run, {})


def features(architecture: str, encoder: str, arguments: Mapping[str, Any]) -> Theirs:
    module = built(architecture, encoder, arguments)
    run = module.get_submodule("encoder")
    return Theirs(module, lambda x: dict(zip(RESNET_LAYERS, run(x)[1:], strict=True)), {})


def other(
    architecture: str, encoder: str, arguments: dict[str, Any], model: str, options: dict[str, Any], **fields: Any
) -> Conversion:
    text = ", ".join([encoder, *(f"{name}={value}" for name, value in arguments.items())])
    build = features if fields.get("layers") else whole
    return Conversion(
        PEER,
        "smp",
        ORIGINS.get(architecture, DEEPLABV3),
        f"{architecture}({text})",
        model,
        partial(build, architecture, encoder, arguments),
        options=options,
        divisible=True,
        **fields,
    )


# Weights for RGB in a network for other channels are not saved in files.
COMPARED = [case for case in test_smp.CASES if not case.adapts]
FIRST = COMPARED[0]
STRIDE_16 = {"encoder_output_stride": 16}
ALONE = {"layers": RESNET_LAYERS}
CONVERSIONS: list[Conversion] = [
    *(conversion(case) for case in COMPARED),
    *(
        conversion(next(case for case in COMPARED if text in case.network), OLDER, save_older, "names from before 0.5")
        for text in ("DeepLabV3(resnet18, encoder_output_stride=8)", "DeepLabV3(resnet50, encoder_output_stride=16")
    ),
    conversion(FIRST, None, saving.data_parallel, "DataParallel"),
    conversion(FIRST, None, saving.compiled, "torch.compile"),
    replace(conversion(FIRST, None, saving.lightning, "lightning's Trainer"), theirs=FIRST.theirs),
    other("DeepLabV3", "tu-resnet18", STRIDE_16, "deeplabv3_resnet18", {"output_stride": 16}),
    other("DeepLabV3", "tu-resnet50d", {}, "deeplabv3_resnet50", {}),
    other("DeepLabV3Plus", "tu-resnet34", {}, "deeplabv3plus_resnet34", {}),
    other("PSPNet", "tu-resnet18", {"encoder_depth": 5, "upsampling": 32}, "pspnet_resnet18", {}),
    # Fewer stages: timm's encoders drop the unused ones, SMP's own keep them.
    *(
        other(name, encoder, {"encoder_depth": 4}, f"{name.lower()}_resnet18", {})
        for name, encoder in (("DeepLabV3", "tu-resnet18"), ("DeepLabV3Plus", "tu-resnet18"), ("DeepLabV3", "resnet18"))
    ),
    other("PSPNet", "tu-resnet50", {"encoder_depth": 3}, "pspnet_resnet50", {}),
    other("DeepLabV3", "resnet18", {"aux_params": {"classes": 4}}, "deeplabv3_resnet18", {}),
    other("DeepLabV3Plus", "resnet18", {"aux_params": {"classes": 4}}, "deeplabv3plus_resnet18", {}),
    *(other(name, "resnet18", {}, "resnet18", {}, **ALONE) for name in ("FPN", "Unet")),
    other("Unet", "tu-resnet18", {}, "resnet18", {}, **ALONE),
    other("Linknet", "resnet50", {}, "resnet50", {}, **ALONE),
]


@pytest.mark.parametrize("conversion", CONVERSIONS, ids=str)
def test_the_converted_network_computes_the_same(conversion: Conversion, tmp_path: Path) -> None:
    check(conversion, tmp_path)


def test_a_check_states_its_assumptions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights do not show that this network has another output stride than SMP's default."""
    torch.save(built("DeepLabV3", "resnet18", STRIDE_16).state_dict(), tmp_path / "w.pth")
    report = weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", compare_with="smp")
    assumed = " (assuming output_stride=8, atrous_rates=[12, 24, 36], which the weights do not show)"
    assert re.fullmatch(rf"compared with smp \S+{re.escape(assumed)}: the same results.*", report.proven[0])
    assert report.proven[0] in str(report)
    assert main(["info", str(tmp_path / "w.safetensors")]) == 0
    said = "".join(line for line in capsys.readouterr().out.splitlines() if "smp's own network" in line)
    assert said.split(", assuming ")[1].split(", ")[-1] == "which the weights do not determine"


def test_a_head_for_whole_images_is_no_obstacle_to_a_proof(tmp_path: Path) -> None:
    theirs = built("DeepLabV3Plus", "resnet18", {"aux_params": {"classes": 4}}).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        mask, label = theirs(image)
    assert tuple(label.shape) == (1, 4)

    def convert(golden: Tensor) -> weights_tools.ConversionReport:
        save_file({"input": image, "output": golden, "label": label}, tmp_path / "golden.safetensors")
        return weights_tools.convert(
            tmp_path / "w.pth",
            tmp_path / "w.safetensors",
            compare_with="smp",
            golden=tmp_path / "golden.safetensors",
            overwrite=True,
        )

    report = convert(mask)
    assert report.model == "deeplabv3plus_resnet18"
    assert [proof.partition(" ")[0] for proof in report.proven] == ["golden", "compared"]
    with pytest.raises(WeightsError, match="'out' differs by"):
        convert(mask + 0.1)


@pytest.mark.parametrize(
    ("architecture", "arguments", "options"),
    [("DeepLabV3", STRIDE_16, {"output_stride": 16}), ("PSPNet", {"encoder_depth": 5, "upsampling": 32}, {})],
    ids=str,
)
def test_an_encoder_with_a_deep_stem_is_compared(
    architecture: str, arguments: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = built(architecture, "tu-resnet18d", arguments)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", options=options)
    report = weights_tools.compare(
        tmp_path / "w.pth", tmp_path / "w.safetensors", project="smp", sizes=[(64, 96), (32, 64)]
    )
    assert report.holds, report.verdict
    assert "encoder_name='tu-resnet18d'" in report.call


def test_names_of_timms_encoders() -> None:
    def call(**options: Any) -> str:
        config = ModelConfig("deeplabv3_resnet50", {"align_corners": True, **options})
        return str(PEERS["smp"].call(config, ["encoder.model.conv1.0.weight"]))

    assert "'tu-resnet50'" in call()
    assert "'tu-resnet50c'" in call(stem="deep")
    assert "'tu-resnet50d'" in call(stem="deep", downsample="average_dilated")
    for options, name in (
        ({"downsample": "average_dilated"}, "stem"),
        ({"stem": "deep", "downsample": "average"}, "downsample"),
    ):
        with pytest.raises(WeightsError, match=f"has no deeplabv3_resnet50 with the {name} of this file"):
            call(**options)


def test_the_projects_loading_accepts_older_names() -> None:
    """SMP itself loads these names, so they are the older ones."""
    network = built("DeepLabV3", "resnet18", {})
    fresh = built("DeepLabV3", "resnet18", {})
    randomised(fresh, gain=2.0)
    state = older(network.state_dict())
    assert any(name.startswith("decoder.0.convs.") for name in state)
    fresh.load_state_dict(state)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in fresh.state_dict().items())
