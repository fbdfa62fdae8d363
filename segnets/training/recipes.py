"""Training recipes: default values of options.

`torchvision` is the recipe of torchvision's segmentation references:
https://github.com/pytorch/vision/tree/main/references/segmentation
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Networks that torchvision published with this recipe. It is their default when training from ImageNet weights.
TORCHVISION_MODELS = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "torchvision": MappingProxyType(
            {
                "epochs": 30,
                "batch": 4,
                "optimizer": "sgd",
                "lr": 0.02,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "schedule": "poly",
                "power": 0.9,
                "warmup_epochs": 0.0,
                "crop": 480,
                "base_size": 520,
                "scale": (0.5, 2.0),
                "flip": 0.5,
                "colour": 0.0,
                "blur": 0.0,
                "loss": "cross_entropy",
                "loss_average": "rank",
                "class_weights": "none",
                "aux_loss": True,
                "aux_lr_factor": 10.0,
                "ema": 0.0,
                "channels_last": False,
                "resize": "520",
            }
        ),
        "light": MappingProxyType(
            {
                "epochs": 100,
                "batch": 8,
                "optimizer": "adamw",
                "lr": 1e-3,
                "momentum": 0.9,
                "weight_decay": 0.01,
                "schedule": "poly",
                "power": 0.9,
                "warmup_epochs": 1.0,
                "crop": 480,
                "base_size": 720,
                "scale": (0.5, 1.6),
                "flip": 0.5,
                "colour": 0.5,
                "blur": 0.2,
                "loss": "cross_entropy+dice",
                "loss_average": "all",
                "class_weights": "none",
                "aux_loss": False,
                "aux_lr_factor": 1.0,
                "ema": 0.999,
                "channels_last": True,
                "resize": "720",
            }
        ),
    }
)


def recipe_for(model: str, *, from_imagenet: bool) -> str:
    """Return the name of the default recipe of a network.

    Args:
        model: Name of the network.
        from_imagenet: Whether its backbone starts from ImageNet weights and its head from random ones.
    """
    return "torchvision" if from_imagenet and model in TORCHVISION_MODELS else "light"


def recipe_values(recipe: str, model: str, crop: int | None = None, resize: str | None = None) -> dict[str, Any]:
    """Return the values of the options that a recipe determines, by name.

    Args:
        recipe: Key of `RECIPES`.
        model: Name of the network. torchvision trained its networks on MobileNetV3 with other values.
        crop: Height and width of the crops. The sizes of images scale with it: 520 for 480 in torchvision's recipe, 720
            for 480 in "light".
        resize: The option `resize` if it is given. It then applies to the training images too.
    """
    values = dict(RECIPES[recipe])
    if recipe == "torchvision":
        if "mobilenet" in model:
            values |= {"lr": 0.01, "weight_decay": 1e-6}
        if model.startswith("lraspp"):
            values["aux_loss"] = False
    if crop is not None:
        values["base_size"] = max(1, round(crop * values["base_size"] / values["crop"]))
        values["resize"] = str(values["base_size"])
    if resize is not None and resize != values["resize"]:
        values["base_size"] = 0
    return values
