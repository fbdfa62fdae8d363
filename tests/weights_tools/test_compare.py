"""`compare` with torchvision's own networks. tests/peers/test_compare.py has the other projects."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import segnets
import weights_tools
from segnets.card import JSON, ModelConfig
from segnets.errors import OutputError, WeightsError
from segnets.weights import read_weights_file, write_weights_file
from tests.typed import card_of
from tests.weights_tools.files import assert_same, network
from weights_tools.check.network import build_network
from weights_tools.check.peer import compare_with_peer
from weights_tools.check.peers import PEERS, find_peer
from weights_tools.cli import main
from weights_tools.commands._common import PROJECTS as OFFERED

SMALL = ["--size", "32x48", "--size", "33x47"]
SIZES = [(32, 48), (33, 47)]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore SIGTERM: a command handles it for its process, which here is pytest."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def folder_with_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a classifier's training checkpoint and its converted file. Do not modify it."""
    folder = tmp_path_factory.mktemp("compare")
    tensors = {f"module.{name}": tensor for name, tensor in network("resnet18", num_classes=9).state_dict().items()}
    torch.save({"epoch": 3, "model": tensors}, folder / "w.pth")
    weights_tools.convert(folder / "w.pth", folder / "w.safetensors")
    return folder


@pytest.fixture
def pair(folder_with_pair: Path, tmp_path: Path) -> tuple[str, str]:
    """Copy the two files."""
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes((folder_with_pair / name).read_bytes())
    return str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")


def rewrite(path: str, *, tensors: Mapping[str, Tensor] | None = None, **options: JSON) -> None:
    """Change tensors or options of a converted file and keep its provenance."""
    file = read_weights_file(path)
    assert file.config is not None
    assert file.card is not None
    held = {name: tensor.clone() for name, tensor in file.tensors.items()}
    config = ModelConfig(file.config.name, {**file.config.options, **options})
    write_weights_file(path, {**held, **(tensors or {})}, config, file.card)


FULL = pytest.mark.full  # the same in larger networks


@pytest.mark.parametrize("name", ["resnet18", "lraspp_mobilenet_v3_large", pytest.param("fcn_resnet50", marks=FULL)])
def test_torchvisions_own_network_computes_the_same(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"num_classes": 7, **({"aux_loss": True} if name.startswith("fcn") else {})}
    save_file(network(name, **options).state_dict(), tmp_path / "w.safetensors")
    weights_tools.convert(tmp_path / "w.safetensors", tmp_path / "o.safetensors")
    report = weights_tools.compare(
        tmp_path / "w.safetensors", tmp_path / "o.safetensors", project="torchvision", sizes=SIZES
    )
    assert report.holds
    assert not report.recorded
    outputs = {"fcn_resnet50": {"out", "aux"}, "lraspp_mobilenet_v3_large": {"out"}}.get(name, {"logits"})
    assert {(each.output, each.size) for each in report.measured if each.dtype == "float32"} == {
        (output, size) for output in outputs for size in SIZES
    }
    assert {each.output for each in report.measured if each.dtype == "float64"} == outputs
    assert all(each.difference == 0 and each.agreement == 1 and each.largest > 1 for each in report.measured)
    assert report.assumed == {}  # torchvision has one geometry
    assert f"{name}(num_classes=7" in report.call


def test_the_command(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *pair, "--with", "torchvision", *SMALL]) == 0
    table = capsys.readouterr().out
    assert "torchvision.models.resnet18(num_classes=9)" in table
    assert "logits     33x47 float32: largest difference 0, largest output" in table
    assert "result     the same results" in table
    assert main(["compare", *pair, "--with", "torchvision", *SMALL, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["holds"] is True
    assert answer["recorded"] is False
    assert {tuple(each["size"]) for each in answer["measured"]} == set(SIZES)
    assert {each["dtype"] for each in answer["measured"]} == {"float32", "float64"}


def test_a_changed_tensor_is_caught(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    held = read_weights_file(pair[1]).tensors
    rewrite(pair[1], tensors={"layer4.1.bn2.weight": held["layer4.1.bn1.weight"].clone()})
    before = Path(pair[1]).read_bytes()
    assert main(["compare", *pair, "--with", "torchvision", *SMALL, "--record"]) == 1
    out = capsys.readouterr()
    assert "NOT the same: 'logits' differs by" in out.out
    assert out.err == ""
    assert Path(pair[1]).read_bytes() == before


def test_another_geometry_of_torchvisions_network_is_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same tensors load into it strictly."""
    pair = str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")
    torch.save(network("mobilenet_v3_small", num_classes=9).state_dict(), pair[0])
    weights_tools.convert(*pair)
    call = ["compare", *pair, "--with", "torchvision", "--size", "64x96"]
    assert main(call) == 0
    capsys.readouterr()
    assert main([*call, "--argument", "dilated=true"]) == 1
    assert "NOT the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("norm_eps", 1e-3),
        pytest.param("first_block_dilation", "same", marks=FULL),
        pytest.param("align_corners", True, marks=FULL),
    ],
)
def test_an_option_changed_in_the_converted_file_is_caught(
    tmp_path: Path, option: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(network("fcn_resnet50", num_classes=2).state_dict(), tmp_path / "w.pth")
    pair = str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")
    weights_tools.convert(*pair)
    rewrite(pair[1], **{option: value})
    assert main(["compare", *pair, "--with", "torchvision", *SMALL]) == 1
    out = capsys.readouterr()
    assert out.out == ""
    changed = f"the options were changed after the conversion: {option}={value}"
    missing = f"torchvision has no fcn_resnet50 with the {option} of this file; it supports only "
    assert (changed if option == "align_corners" else missing) in out.err
    assert out.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("norm_eps", 1.1e-5),
        pytest.param("norm_eps", 1e-3, marks=FULL),
        pytest.param("first_block_dilation", "same", marks=FULL),
        pytest.param("align_corners", True, marks=FULL),
    ],
)
def test_a_network_that_computes_something_else_is_caught(option: str, value: JSON) -> None:
    """A network that differs from the recorded options shows in the outputs alone."""
    theirs = network("fcn_resnet50", num_classes=2).state_dict()
    options: dict[str, JSON] = {"num_classes": 2}
    other = build_network(ModelConfig("fcn_resnet50", {**options, option: value}), theirs)
    comparison = compare_with_peer("torchvision", theirs, ModelConfig("fcn_resnet50", options), other, sizes=[(32, 48)])
    assert not comparison.holds
    assert comparison.to_json()["holds"] is False


def test_record(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = pair
    before = read_weights_file(dst)
    held = {name: tensor.clone() for name, tensor in before.tensors.items()}
    assert main(["compare", *pair, "--with", "torchvision", *SMALL, "--record"]) == 0
    assert f"recorded   in {dst}" in capsys.readouterr().out
    after = read_weights_file(dst)
    assert_same(after.tensors, held)
    assert after.config == before.config
    assert before.card is not None
    assert after.card is not None
    earlier: Any = before.card.provenance["proof"]
    proof: Any = after.card.provenance["proof"]
    assert {**proof, "compared": None} == {**earlier, "compared": None}
    assert proof["compared"].keys() == {"torchvision"}
    done = proof["compared"]["torchvision"]
    assert done["holds"] is True
    assert done["network"] == "torchvision.models.resnet18(num_classes=9)"
    assert [each["size"] for each in done["measured"] if each["dtype"] == "float32"] == [[32, 48], [33, 47]]
    assert {**after.card.provenance, "proof": 0} == {**before.card.provenance, "proof": 0}
    # Another comparison replaces this one and keeps those with other projects.
    first = Path(dst).read_bytes()
    rewrite(dst)
    weights_tools.compare(src, dst, project="torchvision", sizes=[(40, 40)], record=True)
    proof = card_of(segnets.load(dst)).provenance["proof"]
    assert [each["size"] for each in proof["compared"]["torchvision"]["measured"]] == [[40, 40], [40, 40]]
    # The same comparison gives the same bytes.
    weights_tools.compare(src, dst, project="torchvision", sizes=SIZES, record=True)
    assert Path(dst).read_bytes() == first


def test_records_of_other_projects_are_kept(pair: tuple[str, str]) -> None:
    file = read_weights_file(pair[1])
    assert file.config is not None
    assert file.card is not None
    held = {name: tensor.clone() for name, tensor in file.tensors.items()}
    older: dict[str, JSON] = {"tensors": "renamed", "compared": {"timm": {"version": "1"}, "torchvision": {}}}
    card = segnets.ModelCard(provenance={**file.card.provenance, "proof": older})
    write_weights_file(pair[1], held, file.config, card)
    weights_tools.compare(*pair, project="torchvision", sizes=SIZES, record=True)
    proof: Any = card_of(segnets.load(pair[1])).provenance["proof"]
    assert proof["tensors"] == "renamed"
    assert proof["compared"]["timm"] == {"version": "1"}
    assert proof["compared"]["torchvision"]["holds"] is True


def test_a_link_is_not_replaced_by_a_record(pair: tuple[str, str], tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(pair[1])
    with pytest.raises(OutputError, match="symbolic link"):
        weights_tools.compare(pair[0], link, project="torchvision", sizes=SIZES, record=True)
    assert weights_tools.compare(pair[0], link, project="torchvision", sizes=SIZES).holds


def test_a_file_made_from_another_source_is_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    torch.save(network("resnet18", num_classes=9).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"was not made from this file but from w\.pth: the sha256 begins with"):
        weights_tools.compare(tmp_path / "other.pth", pair[1], project="torchvision")
    segnets.save(segnets.registry.build("resnet18", {"num_classes": 9}), tmp_path / "own.safetensors")
    with pytest.raises(WeightsError, match="does not record which file it was made from"):
        weights_tools.compare(pair[0], tmp_path / "own.safetensors", project="torchvision")
    with pytest.raises(WeightsError, match="is a PyTorch file, not safetensors"):
        weights_tools.compare(pair[0], pair[0], project="torchvision")
    with pytest.raises(WeightsError, match=r"absent\.pth: the file does not exist"):
        weights_tools.compare(tmp_path / "absent.pth", pair[1], project="torchvision")


def test_a_file_that_was_loaded_and_saved_is_compared(pair: tuple[str, str], tmp_path: Path) -> None:
    model = segnets.load(pair[1])
    segnets.save(model, tmp_path / "again.safetensors")
    assert weights_tools.compare(pair[0], tmp_path / "again.safetensors", project="torchvision", sizes=SIZES).holds
    with torch.no_grad():
        model.get_parameter("fc.bias")[0] += 0.01
    segnets.save(model, tmp_path / "tuned.safetensors")
    report = weights_tools.compare(pair[0], tmp_path / "tuned.safetensors", project="torchvision", sizes=SIZES)
    assert not report.holds


def test_cast_weights_are_not_the_same(pair: tuple[str, str], tmp_path: Path) -> None:
    weights_tools.convert(pair[0], tmp_path / "half.safetensors", dtype="float16")
    assert not weights_tools.compare(pair[0], tmp_path / "half.safetensors", project="torchvision", sizes=SIZES).holds


def test_a_network_within_another_module(tmp_path: Path) -> None:
    """Lightning saves networks so: under an attribute, next to counters of metrics."""
    tensors = {f"net2.{name}": tensor for name, tensor in network("resnet18", num_classes=9).state_dict().items()}
    torch.save({"state_dict": {**tensors, "seen": torch.tensor(3)}}, tmp_path / "w.ckpt")
    weights_tools.convert(tmp_path / "w.ckpt", tmp_path / "o.safetensors")
    report = weights_tools.compare(
        tmp_path / "w.ckpt", tmp_path / "o.safetensors", project="torchvision", sizes=[(32, 32)]
    )
    assert report.holds


def test_projects_without_the_network_or_not_installed(
    pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(PEERS) == set(OFFERED)
    names = {"conv1.weight"}
    for project in ("smp", "mmseg"):
        with pytest.raises(WeightsError, match="has no network that corresponds to resnet18"):
            PEERS[project].call(ModelConfig("resnet18", {"num_classes": 9}), names)
    with pytest.raises(WeightsError, match="has no network that corresponds to pspnet_resnet50"):
        PEERS["torchvision"].call(ModelConfig("pspnet_resnet50", {}), names)
    with pytest.raises(WeightsError, match="unknown project 'keras'; known are mmseg, smp"):
        find_peer("keras")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("mmcv", "regex") else find(name))
    for peer in PEERS.values():
        monkeypatch.setattr(type(peer), "modules", ("mmcv", "regex"))
        assert main(["compare", *pair, "--with", peer.name]) == 1
        error = capsys.readouterr().err
        assert f"needs mmcv, regex, not installed here. Run: pip install {peer.install}" in error
        assert error.count("\n") == 1


def test_an_exception_of_a_project_becomes_one_line(
    pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("something\nof theirs")

    for argument, reason in (("depth=3", "failed to build"), ("num_classes=8", "the source's tensors do not fit")):
        assert main(["compare", *pair, "--with", "torchvision", *SMALL, "--argument", argument]) == 1
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
    assert main(["compare", *pair, "--with", "torchvision", "--argument", "num_classes.x=8"]) == 1
    assert "does not fit in" in capsys.readouterr().err
    monkeypatch.setattr(type(PEERS["torchvision"]), "run", fail)
    assert main(["compare", *pair, "--with", "torchvision", *SMALL]) == 1
    assert "on an image of 32x48: AttributeError: something of theirs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [[], ["--with", "keras"], *(["--with", "torchvision", "--size", size] for size in ("5", "0x5", "axb", "99999x1"))],
)
def test_wrong_arguments_exit_with_2(pair: tuple[str, str], wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", *pair, *wrong])
    assert caught.value.code == 2
