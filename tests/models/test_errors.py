"""Errors for the mistakes that torchvision reports, with more helpful messages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import segnets
from tests.models.pairs import DEEP_IN_FULL, NAMES, is_deep, random_pair, with_aux
from tests.tiers import full_but
from tests.typed import part

DEEPLABS = [name for name in NAMES if name.startswith("deeplabv3")]


@pytest.mark.parametrize("name", DEEP_IN_FULL)
def test_a_single_image_without_batch_dimension(name: str) -> None:
    ours, theirs = random_pair(name, aux_loss=with_aux(name))
    with pytest.raises(ValueError, match=r"expected 4D input \(got 3D input\)"):
        theirs(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match=r"expected 4D input \(got 3D input\).*unsqueeze\(0\)"):
        ours(torch.zeros(3, 64, 64))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")
@pytest.mark.parametrize("name", full_but(["lraspp_mobilenet_v3_large"], NAMES))
def test_a_single_image_without_batch_dimension_in_torchscript(name: str) -> None:
    scripted = torch.jit.script(random_pair(name, aux_loss=with_aux(name)).ours)
    with pytest.raises(Exception, match=r"expected 4D input \(got 3D input\)"):
        scripted(torch.zeros(3, 64, 64))


@pytest.mark.parametrize("name", DEEP_IN_FULL)
def test_a_uint8_image(name: str) -> None:
    ours, theirs = random_pair(name, aux_loss=with_aux(name))
    x = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(RuntimeError):
        theirs(x)
    with pytest.raises(RuntimeError, match=r"expected a floating point image.*torch\.uint8.*segnets\.preprocess"):
        ours(x)


@pytest.mark.parametrize("name", DEEP_IN_FULL)
def test_a_wrong_number_of_channels(name: str) -> None:
    for model in random_pair(name, aux_loss=with_aux(name)):
        with pytest.raises(RuntimeError, match=r"expected input.* to have 3 channels, but got 4 channels"):
            model(torch.zeros(1, 4, 64, 64))


@pytest.mark.parametrize("name", full_but([name for name in DEEPLABS if not is_deep(name)], DEEPLABS))
def test_a_batch_of_one_in_training(name: str) -> None:
    ours, theirs = copy.deepcopy(random_pair(name, aux_loss=False))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        theirs.train()(torch.zeros(1, 3, 64, 64))
    with pytest.raises(
        ValueError, match=r"Expected more than 1 value per channel when training, got a batch of one.*drop_last=True"
    ):
        ours.train()(torch.zeros(1, 3, 64, 64))
    part(ours, "classifier.0.convs.4.2").eval()
    ours(torch.zeros(1, 3, 64, 64))  # a remedy from the message


def test_weights_with_aux_do_not_load_strictly_without_aux() -> None:
    for with_head, without in zip(
        random_pair("fcn_resnet50", aux_loss=True), random_pair("fcn_resnet50", aux_loss=False), strict=True
    ):
        with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"aux_classifier.0.weight\""):
            without.load_state_dict(with_head.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": True}, r"unexpected argument 'pretrained': use weights="),
        ({"aux": True}, r"unexpected argument 'aux': use aux_loss="),
        ({"num_clases": 4}, r"unexpected argument 'num_clases': did you mean num_classes="),
        ({"zzz": 4}, r"unexpected argument 'zzz' \(it takes weights, progress, num_classes, aux_loss"),
    ],
)
def test_unknown_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        segnets.fcn_resnet50(**arguments)
    with pytest.raises(TypeError, match=message):
        segnets.create_model("fcn_resnet50", **arguments)


def test_positional_arguments() -> None:
    with pytest.raises(TypeError, match=r"fcn_resnet50\(\) takes keyword arguments only"):
        segnets.fcn_resnet50(None)  # type: ignore[call-arg]  # the mistake is the point


@pytest.mark.parametrize("num_classes", [0, -3, 2.5, True, "21"])
def test_an_invalid_number_of_classes(num_classes: Any) -> None:
    with pytest.raises(ValueError, match=r"num_classes=.*expected an integer from 1"):
        segnets.create_model("lraspp_mobilenet_v3_large", num_classes=num_classes)


@pytest.mark.parametrize("aux_loss", ["no", 1])
def test_an_invalid_aux_loss(aux_loss: Any) -> None:
    with pytest.raises(ValueError, match=r"aux_loss=.*expected True or False"):
        segnets.create_model("fcn_resnet50", aux_loss=aux_loss)


def test_lraspp_has_no_auxiliary_classifier() -> None:
    with pytest.raises(NotImplementedError, match="has no auxiliary classifier") as torchvisions:
        segnets.lraspp_mobilenet_v3_large(aux_loss=True)
    assert isinstance(torchvisions.value, ValueError)  # like all other refused options


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "deeplab_resnet50",
            r"no model 'deeplab_resnet50'\. Similar names: deeplabv3_resnet50, deeplabv3plus_resnet50, ",
        ),
        ("resnet50", r"no model 'resnet50'\. That is a backbone: segnets\.backbones\.resnet50\(\) builds"),
        ("nosuchhead_resnet34", r"\. Similar names: \w+_resnet34, .*\. segnets\.list_models\(\) names all \d+$"),
        ("lraspp_swin", r"Similar names: lraspp_mobilenet_v3_large, "),
        ("zzz", r"no model 'zzz'\. segnets\.list_models\(\) names all \d+$"),
        (None, r"no model None\. segnets\.list_models\(\) names all \d+$"),
    ],
)
def test_unknown_model_names(name: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segnets.create_model(name)
