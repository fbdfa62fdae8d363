"""Translate the heads of an mmsegmentation config to segnets options.

Source: mmsegmentation 1.2.2, models/decode_heads/{decode_head,fcn_head,aspp_head,psp_head}.py; 0.30 has the same.
"""

from __future__ import annotations

from segnets.card import Decoding
from weights_tools.recognise.config._facts import Findings
from weights_tools.recognise.config._section import Section, quote
from weights_tools.recognise.config.mmseg._backbone import read_norm, refuse_other_convolutions, type_of

# models/decode_heads/decode_head.py: the default for one channel.
_THRESHOLD = 0.3
HEADS = {"FCNHead": "fcn", "ASPPHead": "deeplabv3", "PSPHead": "pspnet"}  # class in mmsegmentation -> head in segnets


def read_heads(model: Section, *, auxiliary: bool) -> None:
    """Set the options of the heads, and refuse what segnets does not support.

    Args:
        model: Section of the whole model.
        auxiliary: Whether the checkpoint has tensors of an auxiliary head.
    """
    found = model.findings
    head = model.part("decode_head")
    if not head.values:
        found.refuse("its decode_head is not a single head")
        return
    kind = type_of(head)
    if kind not in HEADS:
        found.refuse(f"its decode_head is {quote(kind)}")
        return
    found.expect("head", HEADS[kind])
    # Without out_channels, the logits have a channel for each class.
    channels = head.count("out_channels") or head.count("num_classes")
    found.expect("num_classes", channels)
    found.expect("head_channels", head.count("channels"))
    _read_head(head, kind, model.part("backbone"), stage=3)
    dropout = head.number("dropout_ratio", 0.1)
    if dropout is not None and dropout < 1:
        found.set_option("head_dropout", max(dropout, 0.0))
    if kind == "ASPPHead":
        _read_rates(head)
    elif kind == "PSPHead" and head.counts("pool_scales", (1, 2, 3, 6)) not in ((1, 2, 3, 6), None):
        found.refuse(f"its decode_head has pool_scales={head.counts('pool_scales', ())}")
    if channels == 1:
        _read_threshold(head)
    if auxiliary:
        _read_auxiliary(model)


def _read_head(head: Section, kind: str, backbone: Section, *, stage: int) -> None:
    """Read the settings that all heads have.

    Args:
        head: Section of the head.
        kind: Class of the head.
        backbone: Section of the backbone.
        stage: Stage of the backbone that the head must read, from 0.
    """
    found = head.findings
    refuse_other_convolutions(head)
    if "act_cfg" in head.values and type_of(head.part("act_cfg")) != "ReLU":
        found.refuse(f"its {head.name} has an activation other than ReLU")
    if head.has("input_transform"):
        found.refuse(f"its {head.name} has an input_transform")
    else:
        _refuse_other_stage(head, backbone, stage)
    if head.has("norm_cfg"):
        read_norm(head, "head_norm_eps")
    else:
        found.refuse(f"its {head.name} has no norms")
    corners = head.flag("align_corners", False)
    if corners is not None:
        found.set_option("align_corners", corners)
    if kind == "FCNHead":
        for key, only in (("dilation", 1), ("kernel_size", 3)):
            value = head.count(key, only)
            if value not in (only, None):
                found.refuse(f"its {head.name} has {key}={value}")


def _refuse_other_stage(head: Section, backbone: Section, stage: int) -> None:
    index = head.get("in_index") if "in_index" in head.values else -1
    stages = backbone.counts("out_indices", (0, 1, 2, 3))
    if type(index) is not int or stages is None:
        head.findings.note(f"ignored in_index of {head.name}: unreadable")
    elif not -len(stages) <= index < len(stages) or stages[index] != stage:
        head.findings.refuse(f"its {head.name} reads a different backbone stage than in segnets (in_index)")


def _read_threshold(head: Section) -> None:
    """Record the threshold of a network of one channel. With more channels, mmsegmentation always uses argmax."""
    threshold = head.number("threshold", _THRESHOLD) if head.has("threshold") else _THRESHOLD
    if threshold is None:
        return
    if not 0 < threshold < 1:
        head.findings.note(f"ignored threshold={threshold:g} of {head.name}: expected a probability")
        return
    head.findings.decoding = Decoding("threshold", threshold)
    head.findings.note(f"the project gives id 1 where the sigmoid of its one channel exceeds {threshold:g}")


def _read_rates(head: Section) -> None:
    """Set the atrous rates. The first dilation belongs to the 1x1 convolution; a further 1 would mean a second one."""
    dilations = head.counts("dilations", (1, 6, 12, 18))
    if dilations is None:
        return
    if len(dilations) < 2 or dilations[0] != 1 or min(dilations[1:]) < 2:
        head.findings.refuse(f"its decode_head has dilations={dilations}")
        return
    head.findings.set_option("atrous_rates", [*dilations[1:]])


def _read_auxiliary(model: Section) -> None:
    """Check that the auxiliary head has the main head's norms and resizing: segnets has one option for both."""
    found = model.findings
    own = Findings({name: value for name, value in found.options.items() if name == "norm_layer"})
    aux = Section("auxiliary_head", model.get("auxiliary_head"), own)
    kind = type_of(aux)
    if kind != "FCNHead":
        found.refuse(f"its auxiliary_head is {quote(kind)}" if kind else "its auxiliary_head is not a single head")
        return
    _read_head(aux, kind, model.part("backbone"), stage=2)
    found.notes += own.notes
    found.reasons += own.reasons
    for option, value in {"head_norm_layer": "batch", **own.options}.items():
        other = found.options.get(option, "batch" if option == "head_norm_layer" else value)
        if other != value:
            found.refuse(f"{option} is {value} in its auxiliary_head and {other} in its decode_head")
