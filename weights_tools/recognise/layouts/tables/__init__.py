"""The tables: which networks other projects have, what they call the parts, and what these compute the same under.

One file per project; each is compared with the project's own network, every tensor random (tests/peers).
"""

from __future__ import annotations

from weights_tools.recognise.layouts.tables.libtorch import ALLENTDAN, NAVIFRA
from weights_tools.recognise.layouts.tables.mmseg import MMSEG
from weights_tools.recognise.layouts.tables.segnets import OWN
from weights_tools.recognise.layouts.tables.smp import SMP
from weights_tools.recognise.layouts.tables.timm import TIMM
from weights_tools.recognise.layouts.tables.transformers import TRANSFORMERS
from weights_tools.recognise.layouts.tables.vainf import VAINF

__all__ = ["ALLENTDAN", "MMSEG", "NAVIFRA", "OWN", "SMP", "TIMM", "TRANSFORMERS", "VAINF"]
