"""Match checkpoints with the tables of layouts: one to one, with options noted or chosen.

tests/peers/test_convert_*.py show that a converted network computes what the original does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import segnets
import weights_tools
from segnets.errors import WeightsError
from segnets.registry import MODELS, build_described
from tests.oracle import randomise_
from tests.tiers import full_but
from tests.typed import options_of
from tests.weights_tools.files import assert_same, described
from weights_tools.cli import main
from weights_tools.recognise.layouts import LAYOUTS, Evidence, Match
from weights_tools.recognise.layouts.key_map import rename, rename_back
from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.table_layout import TableLayout
from weights_tools.recognise.layouts.tables import SMP

State = dict[str, Tensor]
ALL = [
    (layout, table, backbone)
    for layout in LAYOUTS.values()
    if isinstance(layout, TableLayout)
    for table in layout.networks
    for backbone in table.backbones
    # transformers' network without a classifier is a backbone alone.
    if (layout.name, backbone.signature) != ("transformers", "embedder.embedder.convolution.weight")
]

IDS = [f"{layout.name}-{table.name}-{backbone.signature.removesuffix('.weight')}" for layout, table, backbone in ALL]


def sample() -> list[tuple[TableLayout, NetworkTable, BackboneTable]]:
    """Choose one backbone for each table, in turn, and further cases for backbones that are then missing."""
    chosen = [
        (layout, table, table.backbones[i % len(table.backbones)])
        for layout in LAYOUTS.values()
        if isinstance(layout, TableLayout)
        for i, table in enumerate(layout.networks)
    ]
    seen = {(layout.name, backbone.signature) for layout, _, backbone in chosen}
    for case in ALL:
        key = case[0].name, case[2].signature
        if key not in seen:
            seen.add(key)
            chosen.append(case)
    return [case for case in chosen if case in ALL]


def backbone_name_of(backbone: BackboneTable) -> tuple[str, dict[str, Any]]:
    """Return the smallest network that has this backbone, and its visible options."""
    last = max((int(new.split(".")[1]) for new in backbone.keys.values() if new.split(".")[1].isdecimal()), default=0)
    if last == 0 and "{}" in "".join(backbone.keys.values()) and "backbone.{}" in backbone.keys:
        last = int(backbone.signature.split(".")[1])
    if last:
        return {16: "mobilenet_v3_large", 12: "mobilenet_v3_small"}[last], {}
    deep = ("conv1.0.weight", "stem.0.weight")
    return "resnet18", {"stem": "deep"} if backbone.signature.endswith(deep) else {}


def random_model(table: NetworkTable, backbone: BackboneTable | None = None, **options: Any) -> nn.Module:
    """Build a random network of ours that a file of this table could hold."""
    model = model_without_values(table, backbone, **options).to_empty(device="cpu")
    randomise_(model)
    return model


def model_without_values(table: NetworkTable, backbone: BackboneTable | None = None, **options: Any) -> nn.Module:
    """Build the network of `random_model` on the meta device."""
    name_of_backbone, visible = backbone_name_of(backbone or table.backbones[0])
    name = f"{table.head}_{name_of_backbone}" if table.head else name_of_backbone
    options = {"num_classes": 4, **visible, **options}
    if table.head:
        options = MODELS[name].resolve({"head_channels": 16, **options})
    return build_described(name, options)


def theirs(table: NetworkTable, state: State, backbone: BackboneTable | None = None) -> State:
    """Rename our tensors to the names of the other project."""
    names = rename_back(state, {**(backbone or table.backbones[0]).keys, **table.keys})
    assert names is not None
    return {names[ours]: tensor for ours, tensor in state.items()}


def head_options(table: NetworkTable) -> dict[str, Any]:
    return {name: value for name, value in table.required.items() if name == "head_variant"}


@pytest.mark.parametrize(("layout", "table", "backbone"), full_but(sample(), ALL), ids=IDS)
def test_every_tensor_is_renamed_and_exported_back(
    layout: TableLayout, table: NetworkTable, backbone: BackboneTable, tmp_path: Path
) -> None:
    model = random_model(table, backbone, **head_options(table))
    config: Any = model.config
    own = model.state_dict()
    ways = [way for way in layout.export_names(config, list(own)) if backbone.signature in way.names.values()]
    assert ways, "the table has a place for every tensor"
    names = ways[0].names
    assert names.keys() == own.keys()
    assert len(set(names.values())) == len(own), "one to one"
    state = {names[ours]: t[..., None, None] if ours in ways[0].flattened else t for ours, t in own.items()}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    report = weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", layout=layout.name)
    assert (report.layout, report.model) == (layout.name, config.name)
    loaded: Any = segnets.load(tmp_path / "w.safetensors")
    assert_same(loaded.state_dict(), own)
    options = loaded.config.options
    assert options["num_classes"] == 4
    builder = MODELS.get(config.name)
    required = {**table.required, **backbone.required}
    assert {name: value for name, value in required.items() if name in options}.items() <= options.items()
    if builder is None:
        assert not backbone.required or options["norm_eps"] == backbone.required["norm_eps"]
        return
    assert all(name in options for name in required if name in builder.applicable(options))
    for name, value in table.choices.items():
        if value is not None and name in options:
            assert options[name] == value, "the project's default"
            assert f"{name}={value}" in " ".join(report.notes), "and noted"


@pytest.mark.parametrize(("layout", "table", "backbone"), ALL, ids=IDS)
def test_keys_are_one_to_one(layout: TableLayout, table: NetworkTable, backbone: BackboneTable) -> None:
    """Each entry of a table, applied forwards and backwards, gives itself."""
    key_map = {**backbone.keys, **table.keys}
    modules = [module.replace("{}", "0") for module in key_map]
    forwards, unknown = rename((f"{module}.weight" for module in modules), key_map)
    assert unknown == []
    assert len(forwards) == len(modules)
    backwards = rename_back(forwards, key_map)
    assert backwards == forwards


def test_only_unique_names_match_without_a_request() -> None:
    for layout in LAYOUTS.values():
        if not isinstance(layout, TableLayout) or layout.container:
            continue
        for table in layout.networks:
            model: Any = model_without_values(table, **head_options(table))
            own = described(model.state_dict())
            ways = layout.export_names(model.config, list(own))
            names = next(way.names for way in ways if table.signature in way.names.values())
            answer = layout.match(Evidence({new: own[old] for old, new in names.items()}))
            assert isinstance(answer, Match) == table.unique, f"{layout.name}: {table.name}"


@pytest.fixture(scope="module")
def smp_state() -> State:
    """Return a random network under the names of SMP's first table. Do not modify it."""
    return theirs(SMP[0], random_model(SMP[0]).state_dict())


def test_hidden_options_can_be_chosen(smp_state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(smp_state, tmp_path / "w.pth")
    arguments = ["convert", str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")]
    assert main([*arguments, "--option", "output_stride=16", "--option", "atrous_rates=[6, 12, 18]"]) == 0
    capsys.readouterr()
    options = options_of(segnets.load(tmp_path / "w.safetensors"))
    assert (options["output_stride"], options["atrous_rates"]) == (16, [6, 12, 18])
    for wrong, message in (
        ("num_classes=5", "the option num_classes cannot be chosen"),
        ("align_corners=false", "the option align_corners cannot be chosen"),
        ("output_stride=7", "output_stride=7: expected one of 8, 16, 32"),
    ):
        assert main([*arguments, "--force", "--option", wrong]) == 1
        complaint = capsys.readouterr().err
        assert message in complaint
        assert complaint.count("\n") == 1
    assert options_of(segnets.load(tmp_path / "w.safetensors"))["output_stride"] == 16, "untouched"


def test_number_of_stages_is_inferred(tmp_path: Path) -> None:
    """SMP's PSPNet keeps the deeper stages of its encoder and never runs them."""
    whole = random_model(SMP[3], head_variant="smp", backbone_stages=2)
    deeper = random_model(SMP[3], head_variant="smp").state_dict()
    unused = {
        name: tensor for name, tensor in deeper.items() if name.startswith(("backbone.layer3", "backbone.layer4"))
    }
    torch.save(theirs(SMP[3], {**whole.state_dict(), **unused}), tmp_path / "w.pth")
    weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    loaded = segnets.load(tmp_path / "w.safetensors")
    assert (options_of(loaded)["backbone_stages"], options_of(loaded)["output_stride"]) == (2, 8)
    assert_same(loaded.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {**state, "decoder.extra.weight": torch.ones(2)},
            "but some belong to no part of it .*: 'deco",
        ),
        (lambda state: {k: t for k, t in state.items() if "layer2" not in k}, "on a ResNet of 2-0-2-2 basic blocks"),
        (lambda state: {k: t for k, t in state.items() if not k.startswith("segm")}, "is missing or not a convolution"),
        (lambda state: {k: t for k, t in state.items() if "layer4.1.bn2" not in k}, "5 missing"),
        (
            lambda state: {k.replace("encoder.", "encoder.model.features."): t for k, t in state.items()},
            "an encoder that",
        ),
    ],
)
def test_similar_networks_are_refused_with_the_reason(
    smp_state: State, change: Any, message: str, tmp_path: Path
) -> None:
    torch.save(change(smp_state), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_torchvisions_geometry_cannot_be_chosen(tmp_path: Path) -> None:
    torch.save(segnets.lraspp_mobilenet_v3_large().state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match="option output_stride cannot be chosen: torchvision's networks have a fixed"
    ):
        weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", options={"output_stride": 8})


def test_config_of_another_network_is_ignored(tmp_path: Path) -> None:
    """Another file may have been put next to an old config.json."""
    table = next(table for table in SMP if table.name == "DeepLabV3+")
    state = theirs(table, random_model(table, **head_options(table)).state_dict())
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    own = {"_model_class": "DeepLabV3Plus", "encoder_name": "resnet18", "encoder_depth": 5, "classes": 4}
    for config, stride in (
        ({**own, "encoder_output_stride": 8, "decoder_channels": 16}, 8),
        ({**own, "encoder_output_stride": 8, "classes": 7}, 16),
        ({"_model_class": "DeepLabV3", "encoder_name": "resnet34", "encoder_output_stride": 8, "classes": 7}, 16),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        report = weights_tools.convert(path, tmp_path / "w.safetensors", overwrite=True)
        assert report.options["output_stride"] == stride
        assert any(note.startswith("ignored config.json") for note in report.notes) == (stride == 16)
