"""Tables of segnets' own networks, for state dicts saved with torch.save or found in a training checkpoint.

Files written by segnets.save describe their network and need no layout.
"""

from __future__ import annotations

from segnets.card import JSON
from segnets.options import OPTIONS
from weights_tools.recognise.layouts.key_map import KeyMap
from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.tables._resnet import resnet_keys

_BACKBONES = (
    BackboneTable("backbone.conv1.weight", resnet_keys("backbone.")),
    BackboneTable("backbone.conv1.0.weight", resnet_keys("backbone.")),
    *(BackboneTable(f"backbone.{last}.0.weight", {"backbone.{}": "backbone.{}"}) for last in (16, 12)),
)
_SAME: KeyMap = {"classifier": "classifier", "aux_classifier": "aux_classifier"}
_OF_ASPP = ("atrous_rates", "aspp_norm_eps")
# Options that the weights do not determine. Dropout does not change the outputs, and the weights show whether shortcuts
# pool.
_HIDDEN = tuple(
    option.name
    for option in OPTIONS
    if option.visible != "yes" and not option.training_only and option.name not in ("head_dropout", "downsample")
)
_ANY: dict[str, JSON] = {name: None for name in _HIDDEN if name not in _OF_ASPP}
_ASPP: dict[str, JSON] = dict.fromkeys(_OF_ASPP)


def _network(
    name: str, signature: str, head: str, last: str, variant: str | None = None, *, unique: bool = False
) -> NetworkTable:
    required: dict[str, JSON] = {} if variant is None else {"head_variant": variant}
    aspp = _ASPP if head.startswith("deeplab") else {}
    return NetworkTable(name, signature, head, _BACKBONES, _SAME, last, required, {**_ANY, **aspp}, unique=unique)


SEGNETS = (
    _network("PSPNet", "classifier.pyramid.0.1.weight", "pspnet", "classifier.classify", unique=True),
    _network("DeepLabV3+", "classifier.refine.0.0.weight", "deeplabv3plus", "classifier.classify", "smp", unique=True),
    _network(
        "DeepLabV3+", "classifier.project_low.0.weight", "deeplabv3plus", "classifier.classify", "vainf", unique=True
    ),
    _network("FCN", "classifier.convs.0.0.weight", "fcn", "classifier.classify", "mmseg", unique=True),
    # These share their names with other projects, so the layout must be requested.
    _network("DeepLabV3", "classifier.2.weight", "deeplabv3", "classifier.4"),
    _network("DeepLabV3", "classifier.0.convs.0.0.weight", "deeplabv3", "classifier.1", "mmseg"),
    _network("LR-ASPP", "classifier.cbr.0.weight", "lraspp", "classifier.high_classifier"),
    _network("FCN", "classifier.0.weight", "fcn", "classifier.4"),
)
