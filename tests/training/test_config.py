"""The configuration: recipes, TOML, and what it refuses."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from segnets.errors import TrainingError
from segnets.training.config import TrainingConfig, describe_options, loss_terms, option_names
from segnets.training.recipes import RECIPES, TORCHVISION_MODELS


def test_the_recipe_fills_what_is_not_given() -> None:
    config = TrainingConfig(model="fcn_resnet50", recipe="torchvision", epochs=2)
    assert (config.epochs, config.lr, config.batch, config.optimizer) == (2, 0.02, 4, "sgd")
    assert (config.crop, config.base_size, config.resize) == (480, 520, "520")
    assert (config.aux_loss, config.aux_weight, config.aux_lr_factor, config.power) == (True, 0.5, 10.0, 0.9)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_leaves_nothing_open(recipe: str) -> None:
    config = TrainingConfig(model="fcn_resnet50", recipe=recipe)
    assert None not in config.to_json().values()


@pytest.mark.parametrize(
    ("model", "lr", "weight_decay", "aux_loss"),
    [
        ("deeplabv3_resnet101", 0.02, 1e-4, True),
        ("deeplabv3_mobilenet_v3_large", 0.01, 1e-6, True),
        ("lraspp_mobilenet_v3_large", 0.01, 1e-6, False),
    ],
)
def test_torchvision_trained_its_networks_so(model: str, lr: float, weight_decay: float, aux_loss: bool) -> None:
    config = TrainingConfig(model=model, recipe="torchvision")
    assert (config.lr, config.weight_decay, config.aux_loss) == (lr, weight_decay, aux_loss)


@pytest.mark.parametrize("model", [*TORCHVISION_MODELS, "lraspp_mobilenet_v3_small", "pspnet_resnet50"])
def test_networks_of_torchvision_take_its_recipe_if_they_start_from_imagenet(model: str) -> None:
    expected = "torchvision" if model in TORCHVISION_MODELS else "light"
    assert TrainingConfig(model=model, weights_backbone="resnet.pth").recipe == expected
    assert TrainingConfig(model=model).recipe == "light"
    assert TrainingConfig(model=model, weights_backbone="a.pth", weights="b.safetensors").recipe == "light"


def test_sizes_scale_with_the_crop_unless_they_are_given() -> None:
    config = TrainingConfig(model="m", recipe="torchvision", crop=240)
    assert (config.base_size, config.resize) == (260, "260")
    assert config.changed(crop=480).base_size == 520
    own = TrainingConfig(model="m", recipe="torchvision", crop=240, base_size=300)
    assert own.changed(crop=480).base_size == 300


@pytest.mark.parametrize("resize", ["x2", "none", "360x480", "400"])
def test_the_resize_of_predictions_is_that_of_the_training_images_too(resize: str) -> None:
    config = TrainingConfig(model="m", recipe="light", resize=resize)
    assert (config.crop, config.base_size, config.resize) == (480, 0, resize)
    assert config.with_values(["crop=240"]) == TrainingConfig(model="m", recipe="light", resize=resize, crop=240)
    assert config.changed(resize="720") == TrainingConfig(model="m", recipe="light")
    assert TrainingConfig(model="m", recipe="light").changed(resize=resize) == config
    assert TrainingConfig.from_json(config.to_json()) == config
    assert config.changed(base_size=720).changed(crop=240).base_size == 720


def test_another_recipe_changes_only_what_was_left_to_it() -> None:
    config = TrainingConfig(model="m", recipe="light", lr=0.5)
    other = config.changed(recipe="torchvision")
    assert (other.lr, other.optimizer) == (0.5, "sgd")


def test_toml_and_json_read_back(tmp_path: Path) -> None:
    config = TrainingConfig(
        data='a "folder"\\\x7f é', classes=("sky", "road"), ignore=(11,), class_weights=(1, 2.5), scale=(0.5, 1), flip=0
    )
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert TrainingConfig.from_toml(file) == config
    assert TrainingConfig.from_toml(file, epochs=3) == config.changed(epochs=3)
    assert TrainingConfig.from_json(config.to_json()) == config
    assert list(tomllib.loads(config.to_toml())) == option_names()
    assert all(about in config.to_toml() for about in describe_options().values())


@pytest.mark.parametrize("options", [{"resize": "none"}, {"crop": 240}, {"recipe": "torchvision"}])
def test_the_configuration_of_a_run_follows_other_options(tmp_path: Path, options: dict[str, Any]) -> None:
    config, file = TrainingConfig(model="m", recipe="light", lr=0.5), tmp_path / "config.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    expected = TrainingConfig(**{"model": "m", "recipe": "light", "lr": 0.5, **options})
    assert TrainingConfig.from_toml(file, **options) == expected
    file.write_text("model = 'm'\nrecipe = 'light'\nbase_size = 720", encoding="utf-8")
    assert TrainingConfig.from_toml(file, **options).base_size == 720


def test_values_are_given_as_texts() -> None:
    config = TrainingConfig().with_values(
        ["lr=1e-2", "crop=240", "class_weights=[1, 2]", "scale=0.5,1", "classes=sky, road", "aux_loss=true", "out=a=b"]
    )
    assert (config.lr, config.crop, config.class_weights, config.scale) == (0.01, 240, (1.0, 2.0), (0.5, 1.0))
    assert (config.classes, config.aux_loss, config.out) == (("sky", "road"), True, "a=b")
    assert config.with_values(["class_weights=enet", "ignore=3", 'model="m"']).class_weights == "enet"


def test_paths_become_texts() -> None:
    assert TrainingConfig(data=Path("a")).data == "a"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr=1", "unknown option 'lrr'; did you mean 'lr'"),
        ("zzzzzzz=1", "unknown option 'zzzzzzz'; known: data, format"),
        ("lr", "'lr': expected key=value, for example lr=0.01"),
        ("lr=fast", "lr='fast': expected a number. Largest learning rate"),
        ("lr=nan", "lr=nan: expected a number"),
        ("epochs=0", "epochs=0: expected a number from 1"),
        ("lr=1e300", r"lr=1e\+300: expected a number up to 1000000"),
        ("crop=1", "crop=1: expected a number from 8"),
        ("epochs=1.5", "epochs=1.5: expected a whole number"),
        ("epochs=true", "epochs=True: expected a whole number"),
        ("epochs=99999999999", "epochs=99999999999: expected a number up to 4294967295"),
        ("lr=" + "9" * 5000, r"lr='9+\.\.\.: expected a number"),
        ("lr=" + "9" * 400, "lr=9.*: expected a number"),
        ("data=\udcff", "data=.*: expected text"),
        ("scale=" + "[" * 100_000, "scale=.*: expected two numbers"),
        ("flip=2", "flip=2: expected a number from 0 to 1"),
        ("channels_last=1", "channels_last=1: expected true or false"),
        ("amp=bf16", "amp='bf16': expected one of no, bfloat16, float16; did you mean 'bfloat16'"),
        ("scale=2,1", r"scale=\[2.0, 1.0\]: expected the smaller scale first"),
        ("scale=1", r"scale=\[1\]: expected two numbers"),
        ("warmup_epochs=500", "warmup_epochs=500: expected at most epochs=100"),
        ("momentum=1", "momentum=1: expected a number below 1 with optimizer=adamw"),
        ("ema=1", "ema=1: expected a number below 1"),
        ("output_stride=4", "output_stride=4: expected 8, 16 or 32"),
        ("resize=big", "resize='big': expected 520"),
        ("resize=x0", r"resize='x0': expected a factor from 0\.1 to 10 after the x"),
        ("class_weights=inverse", "class_weights='inverse': expected none, enet, median or a list"),
        ("class_weights=[0, 0]", "class_weights=.*: expected numbers of at least 0, not all 0"),
        ("loss=dise", "loss='dise': 'dise' is unknown; expected cross_entropy, ohem"),
        ("loss=-1*dice", "loss=.*: '-1' is not a weight above 0"),
        ("recipe=heavy", "recipe='heavy': expected one of auto, torchvision, light"),
    ],
)
def test_bad_values_are_named(text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as raised:
        TrainingConfig().with_values([text])
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lr = 0.1\nepoch = 3\n", "unknown option 'epoch'; did you mean 'epochs'"),
        (b"lr = ", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (b"lr = " + b"9" * 5000, "is not valid TOML: Exceeds the limit"),
        (b"lr = " + b"[" * 100_000, "is not valid TOML: "),
        (None, "can't be read: No such file"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "config.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TrainingError, match=message) as raised:
        TrainingConfig.from_toml(file)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("dice", [("dice", 1.0)]),
        ("cross_entropy+0.5*dice", [("cross_entropy", 1.0), ("dice", 0.5)]),
        ("2 * ohem + lovasz", [("ohem", 2.0), ("lovasz", 1.0)]),
    ],
)
def test_sums_of_losses(text: str, terms: list[Any]) -> None:
    assert loss_terms(text) == terms


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_configurations_of_the_shipped_network(stage: str) -> None:
    config = TrainingConfig.from_toml(Path(__file__).parents[2] / "examples" / "camvid" / f"{stage}.toml")
    assert (config.model, config.recipe) == ("lraspp_mobilenet_v3_small", "light")
