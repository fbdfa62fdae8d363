"""Feature maps in, class scores out, at the size of the feature map."""

from segnets.heads.deeplab import DeepLabHead
from segnets.heads.fcn import FCNHead
from segnets.heads.lraspp import LRASPPHead

__all__ = ["DeepLabHead", "FCNHead", "LRASPPHead"]
