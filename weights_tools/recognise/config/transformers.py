"""Read config.json and preprocessor_config.json of a transformers ResNet.

Source: transformers 5 models/resnet/{configuration,modeling}_resnet.py, image_processing_utils.py.
"""

from __future__ import annotations

import re

from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings, SourceConfig
from weights_tools.recognise.config._section import Section, parse_class_names, quote, set_preprocessing

_CLASSIFIER = "ResNetForImageClassification"
# (bottleneck blocks, blocks per stage) -> name in segnets.
_DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}


def read_config(values: dict[str, Value], images: dict[str, Value] | None, source: str) -> SourceConfig:
    """Read the facts in the config of a ResNet.

    Args:
        values: Values of config.json, whose model_type is "resnet".
        images: Values of preprocessor_config.json, if there is one.
        source: Name of the config for messages.
    """
    found = Findings()
    config = Section("config.json", values, found)
    if config.flag("downsample_in_first_stage", False):
        found.refuse("its first stage also downsamples (downsample_in_first_stage)")
    activation = config.word("hidden_act", "relu")
    if activation not in ("relu", None):
        found.refuse(f"its activation is {quote(activation)}")
    # Basic blocks have no 1x1 convolution and ignore it.
    in_1x1 = config.flag("downsample_in_bottleneck", False)
    if config.word("layer_type", "bottleneck") == "bottleneck" and in_1x1 is not None:
        found.set_option("stride_in_1x1", in_1x1)
    channels = config.count("num_channels", 3)
    if channels:
        found.set_option("in_channels", channels)
    _expect_shapes(config)
    _read_labels(config)
    if images is not None:
        _read_images(Section("preprocessor_config.json", images, found))
    return found.finish(source, "transformers")


def _expect_shapes(config: Section) -> None:
    """Record expected facts that the tensors show. transformers only writes values that differ from the defaults."""
    found = config.findings
    layer, depths = config.word("layer_type", "bottleneck"), config.counts("depths", (3, 4, 6, 3))
    if layer is not None and depths is not None:
        deep = layer == "bottleneck"
        known = f"a ResNet of {'bottlenecks' if deep else 'basic blocks'}, {list(depths)}"
        found.expect("backbone", _DEPTHS.get((deep, depths), known))
    labels = config.get("id2label")
    if isinstance(labels, dict) and labels and _is_classifier(config):
        found.expect("num_classes", len(labels))


def _is_classifier(config: Section) -> bool:
    kinds = config.get("architectures")
    return isinstance(kinds, list) and _CLASSIFIER in kinds[:10]


def _read_labels(config: Section) -> None:
    """Record the class names of a classifier for the ids 0, 1, 2 ..., unless they are placeholders."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not _is_classifier(config):
        return
    names = parse_class_names([labels.get(str(number)) for number in range(len(labels))], config.findings)
    if not all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        config.findings.classes = names


def _read_images(images: Section) -> None:
    """Record the mean and standard deviation, if pixels are first scaled to 0..1."""
    scale = images.number("rescale_factor", 1 / 255)
    scaled = images.flag("do_rescale", True) and scale is not None and abs(scale * 255 - 1) < 1e-6
    if images.flag("do_normalize", True) and scaled:
        set_preprocessing(images.triple("image_mean"), images.triple("image_std"), images.findings)
