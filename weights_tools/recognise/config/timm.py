"""Read timm's config.json: the architecture, its arguments and the preprocessing.

Source: timm 1.0 models/_hub.py save_config_for_hf, models/resnet.py, models/mobilenetv3.py.
"""

from __future__ import annotations

import re

from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings, SourceConfig
from weights_tools.recognise.config._section import Section, parse_class_names, quote, set_preprocessing

# Pattern of networks with the names and shapes of supported ones -> the difference.
_LOOK_ALIKES = (
    (r"tf_", "pads one side of the image more than the other, like TensorFlow"),
    (r"(se|eca|sk)?resne(s?t|xt)(aa|blur)\d", "blurs feature maps before downsampling"),
)
# Arguments that do not change the outputs of a trained network, and arguments that equal every network's default.
_HARMLESS = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")
_DEFAULTS: dict[str, Value] = {"global_pool": "avg", "output_stride": 32}
# "d": ResNet-D. The others are those with the same names in segnets.
_RESNET = re.compile(
    r"(resnet(?:18|34|50|101|152))(d?)|(resnext50_32x4d|resnext101_(?:32x8d|64x4d)|wide_resnet(?:50|101)_2)"
)
_MOBILENET = re.compile(r"mobilenetv3_(large|small)_100")


def read_config(values: dict[str, Value], source: str) -> SourceConfig:
    """Read the facts in a parsed config.json."""
    found = Findings()
    config = Section("config.json", values, found)
    architecture = (config.word("architecture", "") or "").partition(".")[0]  # drop the tag of the weights
    for pattern, what in _LOOK_ALIKES:
        if re.match(pattern, architecture):
            found.refuse(f"{quote(architecture)} {what}")
    for key, value in config.part("model_args").values.items():
        if key not in _HARMLESS and not (key in _DEFAULTS and value == _DEFAULTS[key]) and value is not None:
            found.refuse(f"it was built with {quote(key)}")
    _expect_shapes(config, architecture)
    if _MOBILENET.fullmatch(architecture):
        found.set_option("norm_eps", 1e-5)  # torchvision's has 1e-3
    # Older files nest pretrained_cfg, or have everything at the top.
    weights = config.part("pretrained_cfg") if config.has("pretrained_cfg") else config
    set_preprocessing(weights.triple("mean"), weights.triple("std"), found)
    _read_labels(config if config.has("label_names") else weights, config.count("num_classes"))
    return found.finish(source, "timm")


def _expect_shapes(config: Section, architecture: str) -> None:
    """Record expected facts that the tensors show, if segnets has the architecture."""
    found = config.findings
    mobile = _MOBILENET.fullmatch(architecture)
    if mobile:
        found.expect("backbone", f"mobilenet_v3_{mobile[1]}")
    elif own := _RESNET.fullmatch(architecture):
        found.expect("backbone", own[1] or own[3])
        found.expect("stem", "deep" if own[2] else "plain")
    if mobile or own:
        found.expect("num_classes", config.count("num_classes") or None)


def _read_labels(section: Section, classes: int | None) -> None:
    """Record the class names, from a list or a dictionary by id, if every class has one."""
    labels = section.get("label_names")
    if isinstance(labels, dict):
        labels = [labels.get(str(number)) for number in range(len(labels))]
    names = parse_class_names(labels, section.findings)
    if names and len(names) == classes:
        section.findings.classes = names
