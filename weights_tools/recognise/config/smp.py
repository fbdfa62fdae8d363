"""Read segmentation_models_pytorch configs: the arguments of the network.

Its `save_pretrained` (since 0.4) writes every argument and the name of the class to config.json. Lightning modules
store only the arguments that they were given, as `hyper_parameters`; missing ones have no known default.
Source: segmentation_models_pytorch 0.6 base/hub_mixin.py, decoders/{deeplabv3,pspnet}/model.py, base/modules.py,
encoders/__init__.py.
"""

from __future__ import annotations

import re

from segnets.card import Decoding
from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings, SourceConfig
from weights_tools.recognise.config._section import Section, is_count, quote, set_preprocessing

_STRIDES = {"DeepLabV3": 8, "DeepLabV3Plus": 16}  # the defaults; before 0.5, DeepLabV3 only supported 8
_RATES = (12, 24, 36)
_HEADS = {
    "DeepLabV3": "deeplabv3",
    "DeepLabV3Plus": "deeplabv3plus",
    "PSPNet": "pspnet",
}  # class in SMP -> head in segnets
# SMP's own encoders, and timm's with the same names. "d": with the stem and the shortcuts of ResNet-D.
_ENCODER = re.compile(r"(resnet(?:18|34|50|101|152)|resnext50_32x4d|resnext101_32x8d)")
_FROM_TIMM = re.compile(r"tu-(?:(resnet(?:18|34|50|101|152))(d?)|(resnext\d+_\d+x\d+d))(?:\..*)?")


def read_config(values: dict[str, Value], source: str) -> SourceConfig:
    """Read the facts in a parsed config.json."""
    found = Findings()
    config = Section("config.json", values, found)
    network = config.word("_model_class", "")
    if network in _STRIDES:
        _read_deeplab(config, network)
    elif network == "PSPNet":
        _read_pspnet(config)
    elif network:
        found.refuse(f"a {quote(network)} of segmentation_models_pytorch")
    if network in _HEADS:
        _expect_shapes(config, _HEADS[network])
    if config.has("activation"):
        _read_activation(config)
    channels = config.count("in_channels")
    if channels:
        found.set_option("in_channels", channels)
    _read_encoder_images(config)
    return found.finish(source, "smp")


def _read_activation(config: Section) -> None:
    """Record the rule that an activation implies: a sigmoid decides about each channel alone."""
    found, activation = config.findings, config.get("activation")
    text = f"the project applies {quote(activation)} to its logits; segnets returns plain logits"
    if activation == "sigmoid":
        found.decoding = Decoding("threshold" if config.count("classes", 1) == 1 else "multilabel")
        text += f" and makes masks by {found.decoding}"
    found.note(text)


def _read_encoder_images(config: Section) -> None:
    """Record the mean and standard deviation that `get_preprocessing_params` returns for a pretrained encoder.

    They are ImageNet's for every ResNet, ResNeXt and MobileNetV3 that segnets supports.
    """
    encoder = config.get("encoder_name")
    known = isinstance(encoder, str) and (_ENCODER.fullmatch(encoder) or _FROM_TIMM.fullmatch(encoder))
    if known and isinstance(config.get("encoder_weights"), str):
        set_preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), config.findings)


def _expect_shapes(config: Section, head: str) -> None:
    """Record expected facts that the tensors show, if the config has them: releases have different defaults."""
    found = config.findings
    found.expect("head", head)
    _expect_encoder(config)
    depth = config.get("encoder_depth")
    if is_count(depth) and depth in (3, 4, 5):
        found.expect("backbone_stages", depth - 1)
    for key, option in (
        ("classes", "num_classes"),
        ("in_channels", "in_channels"),
        ("psp_out_channels" if head == "pspnet" else "decoder_channels", "head_channels"),
    ):
        value = config.get(key)
        if is_count(value) and value > 0:
            found.expect(option, value)
    separable = config.get("decoder_aspp_separable")
    if isinstance(separable, bool) and head != "pspnet":
        found.expect("aspp_separable", separable)


def _expect_encoder(config: Section) -> None:
    """Record the backbone, if segnets has the encoder."""
    encoder = config.get("encoder_name")
    if not isinstance(encoder, str):
        return
    if _ENCODER.fullmatch(encoder):
        config.findings.expect("backbone", encoder)
        config.findings.expect("stem", "plain")
    elif own := _FROM_TIMM.fullmatch(encoder):
        config.findings.expect("backbone", own[1] or own[3])
        config.findings.expect("stem", "deep" if own[2] else "plain")


def _read_deeplab(config: Section, network: str) -> None:
    found = config.findings
    stride = config.count("encoder_output_stride", _STRIDES[network])
    depth = config.count("encoder_depth", 5)
    if stride in (8, 16) and depth in (3, 4, 5):
        stride = min(stride, 1 << depth)  # fewer stages give a smaller output stride
        found.set_option("output_stride", stride)
        _check_upsampling(config, 4 if network == "DeepLabV3Plus" else stride)
    rates = config.counts("decoder_atrous_rates", _RATES)
    if rates and 0 not in rates:
        found.set_option("atrous_rates", [*rates])
    separable = config.flag("decoder_aspp_separable", network == "DeepLabV3Plus")
    if separable is not None:
        found.set_option("aspp_separable", separable)
    _read_dropout(config, "decoder_aspp_dropout", 0.5)


def _read_pspnet(config: Section) -> None:
    depth = config.count("encoder_depth", 3)
    if depth in (3, 4, 5):
        config.findings.set_option("output_stride", 1 << depth)
        _check_upsampling(config, 1 << depth)
    _read_dropout(config, "psp_dropout", 0.2)
    _read_norm(config, "psp_use_batchnorm" if config.has("psp_use_batchnorm") else "decoder_use_norm")


def _check_upsampling(config: Section, needed: int) -> None:
    factor = config.count("upsampling", needed) if config.has("upsampling") else needed
    if factor not in (needed, None):
        config.findings.refuse(f"its logits differ in size from the image (upsampling={factor})")


def _read_dropout(config: Section, key: str, default: float) -> None:
    dropout = config.number(key, default)
    if dropout is not None and 0 <= dropout < 1:
        config.findings.set_option("head_dropout", dropout)


def _read_norm(config: Section, key: str) -> None:
    """Read the head's norm: True, False, a name, or a dictionary with arguments of the layer."""
    value = config.values.get(key, "batchnorm")
    norm = Section(f"config.json {key}", value, config.findings)
    kind = "batchnorm" if value is True else norm.word("type", "") if norm.values else value
    eps = norm.number("eps", 1e-5)
    if not isinstance(kind, str) or kind.lower() != "batchnorm":
        config.findings.refuse(f"its head has the norm {quote(kind)} ({key})")
    elif eps is not None and 0 < eps < 1:
        config.findings.set_option("head_norm_eps", eps)


def read_hyper_parameters(values: Value, source: str) -> SourceConfig | None:
    """Read the facts in a Lightning module's arguments; return None unless they are clearly SMP's."""
    arguments = Section("hyper_parameters", values, Findings())
    stated = arguments.has("encoder_output_stride") or arguments.has("decoder_atrous_rates")
    if not isinstance(arguments.get("encoder_name"), str) or not stated:
        return None
    found = arguments.findings
    if arguments.has("encoder_output_stride"):
        stride = arguments.count("encoder_output_stride")
        depth = arguments.count("encoder_depth", 5)
        if stride in (8, 16) and depth in (3, 4, 5):
            found.set_option("output_stride", min(stride, 1 << depth))
    if arguments.has("decoder_atrous_rates"):
        rates = arguments.counts("decoder_atrous_rates", ())
        if rates and 0 not in rates:
            found.set_option("atrous_rates", [*rates])
    _expect_encoder(arguments)
    _read_encoder_images(arguments)
    return found.finish(source, "smp")
