"""Blocks with parameters. They know no model; backbones and heads are made of them."""

from segnets.layers.aspp import ASPP, ASPPConv, ASPPPooling
from segnets.layers.conv_norm_act import ConvNormAct
from segnets.layers.inverted_residual import InvertedResidual, InvertedResidualSpec, SqueezeExcitation
from segnets.layers.resize import resize_bilinear

__all__ = [
    "ASPP",
    "ASPPConv",
    "ASPPPooling",
    "ConvNormAct",
    "InvertedResidual",
    "InvertedResidualSpec",
    "SqueezeExcitation",
    "resize_bilinear",
]
