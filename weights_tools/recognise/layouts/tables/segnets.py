"""State dicts of segnets' own networks, saved with torch.save or found in a training checkpoint.

The files that segnets.save writes say themselves what they are and need no layout.
"""

from __future__ import annotations

from segnets.card import JSON
from weights_tools.recognise.layouts.key_map import BackboneTable, NetworkTable, Table
from weights_tools.recognise.layouts.tables.timm import resnet_table

_BODIES = (
    BackboneTable("backbone.conv1.weight", resnet_table("backbone.")),
    BackboneTable("backbone.conv1.0.weight", resnet_table("backbone.")),
    *(BackboneTable(f"backbone.{last}.0.weight", {"backbone.{}": "backbone.{}"}) for last in (16, 12)),
)
_SAME: Table = {"classifier": "classifier", "aux_classifier": "aux_classifier"}
_ANY: dict[str, JSON] = {
    "output_stride": None,
    "first_block_dilation": None,
    "basic_block_dilation": None,
    "multi_grid": None,
    "stride_in_1x1": None,
    "norm_layer": None,
    "norm_eps": None,
    "head_norm_layer": None,
    "head_norm_eps": None,
    "align_corners": None,
}
_RATES: dict[str, JSON] = {"atrous_rates": None, "aspp_norm_eps": None}


def _origin(
    name: str, signature: str, head: str, last: str, variant: str | None = None, *, unique: bool = False
) -> NetworkTable:
    required: dict[str, JSON] = {} if variant is None else {"head_variant": variant}
    rates = _RATES if head.startswith("deeplab") else {}
    return NetworkTable(name, signature, head, _BODIES, _SAME, last, required, {**_ANY, **rates}, unique=unique)


OWN = (
    _origin("PSPNet", "classifier.pyramid.0.1.weight", "pspnet", "classifier.classify", unique=True),
    _origin("DeepLabV3+", "classifier.refine.0.0.weight", "deeplabv3plus", "classifier.classify", "smp", unique=True),
    _origin(
        "DeepLabV3+", "classifier.project_low.0.weight", "deeplabv3plus", "classifier.classify", "vainf", unique=True
    ),
    _origin("FCN", "classifier.convs.0.0.weight", "fcn", "classifier.classify", "mmseg", unique=True),
    # With other projects' names: they have to be asked for.
    _origin("DeepLabV3", "classifier.2.weight", "deeplabv3", "classifier.4"),
    _origin("DeepLabV3", "classifier.0.convs.0.0.weight", "deeplabv3", "classifier.1", "mmseg"),
    _origin("LR-ASPP", "classifier.cbr.0.weight", "lraspp", "classifier.high_classifier"),
    _origin("FCN", "classifier.0.weight", "fcn", "classifier.4"),
)
