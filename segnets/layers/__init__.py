"""Building blocks of backbones and heads, independent of any model."""

from segnets.layers.aspp import ASPP, ASPPConv, ASPPPooling
from segnets.layers.conv_norm_act import ConvNormAct, SeparableConv
from segnets.layers.inverted_residual import (
    InvertedResidual,
    InvertedResidualSpec,
    SqueezeExcitation,
    round_channels,
)
from segnets.layers.norm import (
    NORM_LAYERS,
    FrozenBatchNorm2d,
    NormLayer,
    SyncBatchNorm2d,
    as_batch_norm,
    is_batch_norm,
    norm_layer,
)
from segnets.layers.pooling import PooledBranch, PyramidPooling
from segnets.layers.resize import resize_bilinear
from segnets.layers.tracing import is_symbolic

__all__ = [
    "ASPP",
    "NORM_LAYERS",
    "ASPPConv",
    "ASPPPooling",
    "ConvNormAct",
    "FrozenBatchNorm2d",
    "InvertedResidual",
    "InvertedResidualSpec",
    "NormLayer",
    "PooledBranch",
    "PyramidPooling",
    "SeparableConv",
    "SqueezeExcitation",
    "SyncBatchNorm2d",
    "as_batch_norm",
    "is_batch_norm",
    "is_symbolic",
    "norm_layer",
    "resize_bilinear",
    "round_channels",
]
