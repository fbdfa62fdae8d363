"""The heads in a configuration of mmsegmentation, in terms of the options of segnets.

Source: mmsegmentation 1.2.2, models/decode_heads/{decode_head,fcn_head,aspp_head,psp_head}.py; 0.30 has the same.
"""

from __future__ import annotations

from weights_tools.recognise.config._facts import Findings
from weights_tools.recognise.config._section import Section, named
from weights_tools.recognise.config.mmseg._backbone import read_norm, refuse_other_convolutions, type_of

HEADS = {"FCNHead": "fcn", "ASPPHead": "deeplabv3", "PSPHead": "pspnet"}  # ours


def read_heads(model: Section, *, auxiliary: bool) -> None:
    """State what the heads settle, and refuse what segnets does not compute. auxiliary: the file holds such a head."""
    found = model.findings
    head = model.part("decode_head")
    if not head.values:
        found.refuse("its decode_head is no single head")
        return
    kind = type_of(head)
    if kind not in HEADS:
        found.refuse(f"its decode_head is {named(kind)}")
        return
    found.expect("head", HEADS[kind])
    # Without out_channels there is a score for each class.
    found.expect("num_classes", head.count("out_channels") or head.count("num_classes"))
    found.expect("head_channels", head.count("channels"))
    _read_head(head, kind, model.part("backbone"), stage=3)
    dropout = head.number("dropout_ratio", 0.1)
    if dropout is not None and dropout < 1:
        found.state("head_dropout", max(dropout, 0.0))
    if kind == "ASPPHead":
        _read_rates(head)
    elif kind == "PSPHead" and head.counts("pool_scales", (1, 2, 3, 6)) not in ((1, 2, 3, 6), None):
        found.refuse(f"its decode_head has pool_scales={head.counts('pool_scales', ())}")
    if head.count("out_channels") == 1:
        found.note("its one score is of the foreground, through a sigmoid and compared with its threshold there")
    if auxiliary:
        _read_auxiliary(model)


def _read_head(head: Section, kind: str, backbone: Section, *, stage: int) -> None:
    """What all heads share. stage: which of the backbone's stages it has to read, from 0."""
    found = head.findings
    refuse_other_convolutions(head)
    if "act_cfg" in head.values and type_of(head.part("act_cfg")) != "ReLU":
        found.refuse(f"its {head.name} has another activation than ReLU")
    if head.gives("input_transform"):
        found.refuse(f"its {head.name} has an input_transform")
    else:
        _refuse_other_stage(head, backbone, stage)
    if head.gives("norm_cfg"):
        read_norm(head, "head_norm_eps")
    else:
        found.refuse(f"its {head.name} has no norms")
    corners = head.flag("align_corners", False)
    if corners is not None:
        found.state("align_corners", corners)
    if kind == "FCNHead":
        for key, only in (("dilation", 1), ("kernel_size", 3)):
            value = head.count(key, only)
            if value not in (only, None):
                found.refuse(f"its {head.name} has {key}={value}")


def _refuse_other_stage(head: Section, backbone: Section, stage: int) -> None:
    index = head.get("in_index") if "in_index" in head.values else -1
    stages = backbone.counts("out_indices", (0, 1, 2, 3))
    if type(index) is not int or stages is None:
        head.findings.note(f"which stage its {head.name} reads can't be read there")
    elif not -len(stages) <= index < len(stages) or stages[index] != stage:
        head.findings.refuse(f"its {head.name} reads another stage of the backbone than here (in_index)")


def _read_rates(head: Section) -> None:
    """The first rate is the 1x1 convolution; any other of 1 would be one too."""
    dilations = head.counts("dilations", (1, 6, 12, 18))
    if dilations is None:
        return
    if len(dilations) < 2 or dilations[0] != 1 or min(dilations[1:]) < 2:
        head.findings.refuse(f"its decode_head has dilations={dilations}")
        return
    head.findings.state("atrous_rates", [*dilations[1:]])


def _read_auxiliary(model: Section) -> None:
    """One head of one convolution, with the eps and the resizing of the other head: segnets has them once."""
    found = model.findings
    own = Findings({name: value for name, value in found.options.items() if name == "norm_layer"})
    aux = Section("auxiliary_head", model.get("auxiliary_head"), own)
    kind = type_of(aux)
    if kind != "FCNHead":
        found.refuse(f"its auxiliary_head is {named(kind)}" if kind else "its auxiliary_head is no single head")
        return
    _read_head(aux, kind, model.part("backbone"), stage=2)
    found.notes += own.notes
    found.reasons += own.reasons
    for option, value in {"head_norm_layer": "batch", **own.options}.items():
        other = found.options.get(option, "batch" if option == "head_norm_layer" else value)
        if other != value:
            found.refuse(f"{option} is {value} in its auxiliary_head and {other} in its decode_head")
