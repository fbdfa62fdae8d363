"""Tables of the networks of other projects: module names, and options that make our networks equivalent.

There is one file per project. tests/peers compares each network with the project's own, with every tensor random.
"""

from __future__ import annotations

from weights_tools.recognise.layouts.tables.libtorch import ALLENTDAN, NAVIFRA
from weights_tools.recognise.layouts.tables.mmseg import MMSEG
from weights_tools.recognise.layouts.tables.segnets import SEGNETS
from weights_tools.recognise.layouts.tables.smp import SMP
from weights_tools.recognise.layouts.tables.timm import TIMM
from weights_tools.recognise.layouts.tables.transformers import TRANSFORMERS
from weights_tools.recognise.layouts.tables.vainf import VAINF

__all__ = ["ALLENTDAN", "MMSEG", "NAVIFRA", "SEGNETS", "SMP", "TIMM", "TRANSFORMERS", "VAINF"]
