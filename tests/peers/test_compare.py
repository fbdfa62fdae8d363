"""`compare` with SMP and mmsegmentation: default sizes, records, and differences that must be caught.

test_convert_smp.py and test_convert_mmseg.py compare every conversion at small sizes.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import segnets
import weights_tools
from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.weights import read_weights_file, write_weights_file
from tests.peers import test_mmseg, test_smp
from tests.peers.compare import MODULES, Case, absent, randomised
from tests.peers.conversions import check_same, open_options
from tests.typed import card_of
from weights_tools.check.network import build_network
from weights_tools.check.peer import compare_with_peer, default_sizes
from weights_tools.check.peers import PEERS, Peer
from weights_tools.recognise.layouts.tables import MMSEG, SMP

NAMES = {"segmentation_models_pytorch": "smp", "mmsegmentation": "mmseg"}
# Features alone are not saved in files.
WHOLE = [
    case
    for case in (*test_smp.CASES, *test_mmseg.CASES)
    if not case.layers and not case.adapts and "mobilenet" not in case.model
]


def needs(project: str) -> None:
    """Skip the test if the project is not installed."""
    peer = next((peer for peer, name in NAMES.items() if name == project), project)
    if missing := absent(peer):
        pytest.skip(f"{', '.join(missing)} not installed: make test-peers")


def saved(case: Case, state: Mapping[str, Any], path: Path) -> None:
    """Save a state dict as mmsegmentation does, or bare, as users of SMP do."""
    meta = {"mmseg_version": "1.2.2", "CLASSES": None}
    torch.save({"meta": meta, "state_dict": state} if case.peer == "mmsegmentation" else dict(state), path)


Convert = Callable[[Case, Path], tuple[Path, Path]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Return a function that saves and converts a case, and copies the converted file into a folder."""
    folders: dict[str, Path] = {}

    def convert(case: Case, folder: Path) -> tuple[Path, Path]:
        needs(NAMES[case.peer])
        if str(case) not in folders:
            made = tmp_path_factory.mktemp("converted")
            saved(case, case.theirs().module.state_dict(), made / "w.pth")
            tables = MMSEG if case.peer == "mmsegmentation" else SMP
            weights_tools.convert(made / "w.pth", made / "w.safetensors", options=open_options(case, tables))
            folders[str(case)] = made
        shutil.copy(folders[str(case)] / "w.safetensors", folder)
        return folders[str(case)] / "w.pth", folder / "w.safetensors"

    return convert


def first(project: str, **options: Any) -> Case:
    """Return the first case with these options, on the smallest network that has them."""
    found = [
        case
        for case in WHOLE
        if NAMES[case.peer] == project
        and all({"model": case.model.split("_")[0], **case.options}.get(k) == v for k, v in options.items())
    ]
    return min(found, key=lambda case: ("resnet18" not in case.model, found.index(case)))


FULL = [first("smp", model="deeplabv3"), first("mmseg", model="deeplabv3", align_corners=True, output_stride=8)]


@pytest.mark.parametrize("case", FULL, ids=str)
def test_default_sizes_and_record(case: Case, tmp_path: Path, converted: Convert) -> None:
    src, dst = converted(case, tmp_path)
    project = NAMES[case.peer]
    check_same(weights_tools.compare(src, dst, project=project, record=True))
    model = segnets.load(dst)
    proof: Any = card_of(model).provenance["proof"]
    done = proof["compared"][project]
    assert done["holds"] is True
    assert done["assumed"]["atrous_rates"] == [12, 24, 36]
    measured = {tuple(each["size"]) for each in done["measured"]}
    assert isinstance(model.config, ModelConfig)
    assert measured == set(default_sizes(PEERS[project], model.config))
    assert any(max(size) >= 304 for size in measured)


@pytest.mark.parametrize(
    ("case", "changed"),
    [
        (FULL[0], {"encoder_output_stride": 16}),
        (FULL[0], {"decoder_atrous_rates": [6, 12, 18]}),
        (FULL[0], {"upsampling": 8, "activation": "softmax2d"}),
        (FULL[1], {"backbone.contract_dilation": False}),
        (FULL[1], {"backbone.norm_cfg.eps": 1e-3}),
        (FULL[1], {"decode_head.norm_cfg.eps": 1e-3}),
        (FULL[1], {"decode_head.align_corners": False}),
        (FULL[1], {"auxiliary_head.align_corners": False}),
        (FULL[1], {"decode_head.dilations": [1, 12, 24, 35]}),
        (FULL[1], {"backbone.dilations": [1, 1, 1, 2], "backbone.strides": [1, 2, 2, 1]}),
        (FULL[1], {"backbone.multi_grid": [1, 2]}),
    ],
    ids=str,
)
def test_another_argument_of_the_projects_network_is_caught(
    case: Case, changed: dict[str, JSON], tmp_path: Path, converted: Convert
) -> None:
    sizes = None if "dilations" in str(changed) or "rates" in str(changed) else [(64, 96)]
    src, dst = converted(case, tmp_path)
    report = weights_tools.compare(src, dst, project=NAMES[case.peer], sizes=sizes, arguments=changed, record=True)
    assert not report.holds
    assert not report.recorded
    assert "NOT the same" in report.verdict
    proof: Any = card_of(segnets.load(dst)).provenance["proof"]
    assert "compared" not in proof


@pytest.mark.parametrize(
    ("case", "option", "value", "recorded"),
    [
        (FULL[0], "align_corners", False, True),
        (FULL[0], "first_block_dilation", "previous", True),
        (FULL[0], "norm_eps", 1e-3, False),
        (FULL[0], "head_norm_eps", 1e-3, False),
        (FULL[1], "basic_block_dilation", "both", True),
    ],
)
def test_an_option_that_the_project_does_not_have_is_caught(
    case: Case, option: str, value: JSON, recorded: bool, tmp_path: Path, converted: Convert
) -> None:
    """If the conversion recorded the option, the change itself is reported."""
    src, dst = converted(case, tmp_path)
    file = read_weights_file(dst)
    assert file.config is not None
    assert file.card is not None
    held = {name: tensor.clone() for name, tensor in file.tensors.items()}
    config = ModelConfig(file.config.name, {**file.config.options, option: value})
    write_weights_file(dst, held, config, file.card)
    without = rf"has no \w+ with the {option} of this file"
    with pytest.raises(WeightsError, match=rf"after the conversion: {option}={value}" if recorded else without):
        weights_tools.compare(src, dst, project=NAMES[case.peer])
    with pytest.raises(WeightsError, match=without):
        PEERS[NAMES[case.peer]].call(config, held)


def test_shortcuts_that_mmsegmentation_does_not_have() -> None:
    """The tensors show these shortcuts; mmsegmentation has no such network."""
    options: dict[str, JSON] = {**FULL[1].options, "stem": "deep", "downsample": "average_dilated"}
    with pytest.raises(WeightsError, match=r"has no \w+ with the downsample of this file"):
        PEERS["mmseg"].call(ModelConfig(FULL[1].model, options), ())


def test_sizes_that_the_project_does_not_accept(tmp_path: Path, converted: Convert) -> None:
    src, dst = converted(FULL[0], tmp_path)
    with pytest.raises(
        WeightsError,
        match=r"image size 65x97: segmentation_models_pytorch needs multiples of 8 for this network. Use 72x104",
    ):
        weights_tools.compare(src, dst, project="smp", sizes=[(65, 97)])


def test_an_encoder_of_timm_in_smp() -> None:
    needs("smp")
    smp = importlib.import_module("segmentation_models_pytorch")
    theirs = randomised(
        smp.DeepLabV3("tu-resnet18", encoder_weights=None, classes=4, encoder_output_stride=16),
        gain=0.6,
        within="encoder.",
    ).state_dict()
    ours = {name.replace("encoder.model.", "backbone."): tensor for name, tensor in theirs.items()}
    for new, old in {"classifier.0.": "decoder.aspp.", "classifier.1.": "decoder.conv."}.items():
        ours = {name.replace(old, new): tensor for name, tensor in ours.items()}
    for new, old in {"classifier.2.": "decoder.bn.", "classifier.4.": "segmentation_head.0."}.items():
        ours = {name.replace(old, new): tensor for name, tensor in ours.items()}
    options: dict[str, JSON] = {"num_classes": 4, "output_stride": 16, "atrous_rates": [12, 24, 36]}
    config = ModelConfig("deeplabv3_resnet18", {**options, "align_corners": True})
    check_same(compare_with_peer("smp", theirs, config, build_network(config, ours), sizes=[(64, 96), (96, 64)]))
    same = ModelConfig(config.name, {**config.options, "first_block_dilation": "same"})
    with pytest.raises(WeightsError, match="first_block_dilation of this file; it supports only 'previous'"):
        compare_with_peer("smp", theirs, same, build_network(config, ours))


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_tests_skip_if_and_only_if_compare_would_refuse(peer: Peer) -> None:
    if peer.title in MODULES and peer.name != "torchvision":
        assert peer.modules == MODULES[peer.title]
