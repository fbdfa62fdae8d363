"""How logits become ids: argmax, a threshold, planes of several labels, in every format."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segnets.card import Decoding, ModelCard
from segnets.cli import main
from segnets.deploy import export, join_onnx, load_exported, verify
from segnets.deploy.check.tolerance import count_differences, ids_of, relative_margin
from segnets.deploy.formats import _script
from segnets.deploy.formats.aoti import ImageProgram
from segnets.deploy.formats.torchscript_cuda import compile_segmenter
from segnets.errors import ExportError
from segnets.model import SegmentationModel
from segnets.preprocessing import Preprocessing, preprocess
from segnets.segmenter import Segmenter, logits_at, logits_to_planes, segment
from segnets.weights import load, save
from tests.deploy.common import SMALL, changed, needs_compiler, random_image, random_model, rewrite, tiny
from tests.tiers import full_but

FORMATS: dict[str, dict[str, Any]] = {
    "portable.ts": {"target": "portable"},
    "cpu.ts": {"target": "cpu"},
    "network.onnx": {"format": "onnx"},
}
RULES = [(1, Decoding("threshold")), (1, Decoding("threshold", 0.3)), (3, Decoding("multilabel", 0.7))]


def spread(channels: int) -> SegmentationModel:
    """A network whose probabilities are on both sides of every threshold of `RULES`."""
    model = tiny(channels)
    nn.init.normal_(model.classifier.get_parameter("weight"), std=3.0, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image = preprocess(random_image(64, 80), SMALL)
        model.classifier.get_parameter("bias").sub_(model(image)["out"].mean(dim=(0, 2, 3)))
    return model


def expected_ids(model: nn.Module, image: Tensor, decoding: Decoding) -> Tensor:
    """The ids by probabilities, as a project other than segnets computes them."""
    with torch.inference_mode():
        logits = model(preprocess(image, SMALL))["out"]
        probabilities = torch.sigmoid(logits_at(logits, image.shape[1], image.shape[2]))
    planes = (probabilities > decoding.threshold).to(torch.uint8)
    return planes if decoding.rule == "multilabel" else planes[:, 0]


@pytest.mark.parametrize(
    ("name", "channels", "decoding"),
    # Every format and every rule each time.
    full_but(
        [(name, *rule) for name, rule in zip(FORMATS, RULES, strict=True)],
        [(name, *rule) for name in FORMATS for rule in RULES],
    ),
    ids=str,
)
def test_every_format_obeys_the_rule(name: str, channels: int, decoding: Decoding, tmp_path: Path) -> None:
    model, image, path = spread(channels), random_image(60, 50, seed=3), tmp_path / name
    report = export(model, path, preprocessing=SMALL, decoding=decoding, **FORMATS[name])
    assert report.notes == ()
    expected = expected_ids(model, image, decoding)
    assert 0.1 < expected.float().mean() < 0.9
    exported = load_exported(path)
    assert exported.contract.decoding == decoding
    for mask in (exported.segment(image), segment(model, image, SMALL, decoding)):
        assert (mask.shape, mask.dtype) == (expected.shape, torch.uint8)
        assert (mask != expected).float().mean() < 1e-3
    assert verify(path, against=model).passed
    if name.endswith(".onnx"):
        assert len(join_onnx(path, tmp_path / "joined.onnx")) == 3  # compares the masks itself


def test_the_programs_of_the_other_formats_obey_the_rule() -> None:
    """Compiling a network and a GPU take too long here; the programs around the network are the same."""
    image = random_image(40, 50, seed=3)
    for channels, decoding in RULES:
        model = spread(channels)
        expected = segment(model, image, SMALL, decoding)
        program: Any = _script.script(ImageProgram(SMALL, decoding))
        with torch.inference_mode():
            logits = model(program.preprocess(image))["out"]
            assert torch.equal(program.mask(logits, 40, 50), expected)
            compiled: Any = compile_segmenter(Segmenter(model, SMALL, decoding))
            assert torch.equal(compiled.segment(image), expected)


@pytest.mark.full
@needs_compiler
def test_a_compiled_model_obeys_the_rule(tmp_path: Path) -> None:
    model, image, decoding = spread(3), random_image(60, 50, seed=3), Decoding("multilabel", 0.7)
    export(model, tmp_path / "m.pt2", format="aoti", preprocessing=SMALL, decoding=decoding)
    mask = load_exported(tmp_path / "m.pt2").segment(image)
    assert (mask != expected_ids(model, image, decoding)).float().mean() < 1e-3


def test_one_channel_without_a_rule_is_a_sigmoid_at_a_half(tmp_path: Path) -> None:
    model, image = spread(1), random_image(60, 50, seed=3)
    report = export(model, tmp_path / "m.ts", target="portable", preprocessing=SMALL)
    (note,) = report.notes
    assert "assumed a sigmoid with threshold 0.5" in note
    assert note in str(report)
    exported = load_exported(tmp_path / "m.ts")
    assert exported.contract.decoding == Decoding("threshold", 0.5)
    assert exported.contract.card.provenance["assumed"] == ["decoding"]
    assert json.loads(exported.contract.to_json())["decoding"] == {"rule": "threshold", "threshold": 0.5}
    with pytest.warns(UserWarning, match="assumed a sigmoid with threshold 0.5"):
        mask = segment(model, image, SMALL)
    assert torch.equal(exported.segment(image), mask)
    assert set(mask.unique().tolist()) == {0, 1}


def test_more_channels_without_a_rule_are_argmax(tmp_path: Path) -> None:
    model = tiny(3)
    report = export(model, tmp_path / "m.ts", target="portable", preprocessing=SMALL)
    assert report.notes == ()
    assert report.verification.contract.decoding == Decoding("argmax")


def test_the_weights_file_carries_the_rule_to_the_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model("lraspp_mobilenet_v3_small", num_classes=1)
    weights, path = tmp_path / "w.safetensors", tmp_path / "m.ts"
    save(
        model,
        weights,
        classes=["road", "crack"],
        preprocessing=SMALL,
        decoding=Decoding("threshold", 0.35),
    )
    assert load(weights).card.decoding == Decoding("threshold", 0.35)  # type: ignore[union-attr]
    assert main(["info", str(weights)]) == 0
    assert re.search(r"^decoding +threshold 0.35$", capsys.readouterr().out, re.MULTILINE)
    # The command states another threshold.
    assert main(["export", str(weights), str(path), "--decoding", "threshold", "--threshold", "0.6"]) == 0
    assert main(["export", str(weights), str(path), "--force", "--threshold", "0.6"]) == 1
    assert "--threshold needs --decoding" in capsys.readouterr().err
    contract = load_exported(path).contract
    assert (contract.decoding, contract.card.classes) == (Decoding("threshold", 0.6), ("road", "crack"))
    said = "masks follow threshold 0.6 in the file and threshold 0.35 in the model; only logits are compared"
    assert said in str(verify(path, against=load(weights)))


@pytest.mark.parametrize(
    ("channels", "card", "message"),
    [
        (1, {"decoding": Decoding("argmax")}, "argmax gives 0 everywhere.*Decoding('threshold', 0.5)"),
        (2, {"decoding": Decoding("threshold")}, "needs a network of one channel, but this one has 2.*multilabel"),
        (1, {"classes": ("crack",)}, "1 names for a network of one channel.*Pass two, the background first"),
        (1, {"classes": ("crack",), "decoding": Decoding("threshold")}, "1 names for a network of one channel"),
        (3, {"classes": ("a", "b"), "decoding": Decoding("multilabel")}, "2 names for a model with 3 classes"),
        (1, {"palette": ((0, 0, 0),) * 3}, "3 colours for a network of one channel"),
    ],
)
def test_contradictions_are_refused(channels: int, card: dict[str, Any], message: str, tmp_path: Path) -> None:
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    model = tiny(channels)
    model.card = ModelCard(preprocessing=SMALL, **card)
    with pytest.raises(ExportError, match=pattern):
        export(model, tmp_path / "m.ts")
    described = random_model("lraspp_mobilenet_v3_small", num_classes=channels)
    with pytest.raises(ValueError, match=pattern):
        save(described, tmp_path / "w.safetensors", **card)
    assert list(tmp_path.iterdir()) == []


def test_exports_of_one_channel_from_before_keep_their_meaning(tmp_path: Path) -> None:
    """Files without the key were written when argmax was the only rule, and may have one name."""
    export(tiny(2), tmp_path / "m.ts", preprocessing=SMALL)
    path = rewrite(tmp_path / "m.ts", tmp_path / "old.ts", lambda name, data: _without_decoding(name, data))
    exported = load_exported(path)
    assert exported.contract.card.decoding is None
    assert verify(path, against=tiny(2)).passed
    older = json.loads(exported.contract.to_json())
    one = {**older, "num_classes": 1, "classes": ["crack"], "palette": []}
    assert type(exported.contract).from_json(json.dumps(one), "old.ts").decoding == Decoding("argmax")


def _without_decoding(name: str, contents: bytes) -> bytes:
    if not name.endswith("segnets.json"):
        return contents
    return json.dumps({key: value for key, value in json.loads(contents).items() if key != "decoding"}).encode()


@pytest.fixture(scope="module")
def one_channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoding") / "m.ts"
    export(spread(1), path, preprocessing=SMALL, decoding=Decoding("threshold"))
    return path


@pytest.mark.parametrize(
    "decoding", [{"rule": "softmax"}, {"threshold": 0.5}, {"rule": "threshold", "threshold": 1}, "threshold", {}]
)
def test_a_damaged_rule_is_refused(decoding: object, one_channel: Path, tmp_path: Path) -> None:
    path = rewrite(one_channel, tmp_path / "bad.ts", changed(decoding=decoding))
    with pytest.raises(ExportError, match=r"segnets\.json is damaged: .*(rule|threshold|decoding)"):
        load_exported(path)


def test_a_changed_threshold_fails_verification(one_channel: Path, tmp_path: Path) -> None:
    """The golden mask finds a contract that states another threshold than the program applies."""
    path = tmp_path / "other.ts"
    rewrite(one_channel, path, changed(decoding={"rule": "multilabel", "threshold": 0.5}))
    with pytest.raises(ExportError, match="'mask' in the golden pair is"):
        verify(path)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1, 2, True, "0.5", math.nan])
def test_thresholds_are_probabilities(threshold: Any) -> None:
    with pytest.raises(ValueError, match="expected a probability strictly between 0 and 1"):
        Decoding("threshold", threshold)


def test_planes_are_the_same_for_any_group_size() -> None:
    logits = torch.randn(2, 5, 20, 31, generator=torch.Generator().manual_seed(1))
    expected = (logits_at(logits, 33, 27) > 0.25).to(torch.uint8)
    for group in (1, 2, 1000):
        assert torch.equal(logits_to_planes(logits, 33, 27, 0.25, max_logits=group * 2 * 33 * 27), expected)


def test_margins_bound_the_change_of_an_id() -> None:
    """Logits that move by less than half the margin keep their ids; near-ties are counted per pixel."""
    logits = torch.randn(1, 3, 8, 9, generator=torch.Generator().manual_seed(2))
    decoding = Decoding("multilabel", 0.6)
    margin = relative_margin(logits, decoding)
    moved = logits + 0.499 * margin * logits.abs().max() * torch.where(logits > decoding.cut, -1, 1)
    assert torch.equal(ids_of(moved, decoding), ids_of(logits, decoding))
    flipped = logits + 0.501 * margin * logits.abs().max() * torch.where(logits > decoding.cut, -1, 1)
    ids = ids_of(flipped, decoding)
    assert torch.equal(ids, 1 - ids_of(logits, decoding))
    assert count_differences(ids, ids_of(logits, decoding), margin, float(margin.max())) == (72, 72)
    assert count_differences(ids, ids_of(logits, decoding), margin, 0.0) == (72, 0)


def test_the_default_of_segment_is_the_card_of_the_model() -> None:
    model, image = spread(1), random_image(40, 50, seed=3)
    model.card = ModelCard(decoding=Decoding("threshold", 0.9))
    mask = segment(model, image, Preprocessing(resize="none"))
    assert torch.equal(mask, segment(model, image, Preprocessing(resize="none"), Decoding("threshold", 0.9)))
    assert not torch.equal(mask, segment(model, image, Preprocessing(resize="none"), Decoding("threshold", 0.5)))


@pytest.mark.parametrize(("channels", "decoding"), [(1, Decoding("argmax")), (3, Decoding("threshold"))])
def test_segment_refuses_a_contradiction(channels: int, decoding: Decoding) -> None:
    with pytest.raises(ValueError, match=r"^decoding: .*\(--decoding "):
        segment(tiny(channels), random_image(8, 9), Preprocessing(resize="none"), decoding)
