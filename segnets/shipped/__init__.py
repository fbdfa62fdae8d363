"""Street-scene network shipped with segnets. Trained on CamVid, for non-commercial use.

LR-ASPP on MobileNetV3-Small in float16. `docs/training.md` gives the training command and the results. The weights
are licensed under CC BY-NC 4.0, like CamVid: see the file LICENSE in this folder.
"""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).with_name("street_scenes.safetensors")
NOTICE = "using the shipped street-scene network, 11 classes, non-commercial"
