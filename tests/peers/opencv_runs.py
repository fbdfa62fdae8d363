"""Run an ONNX file in OpenCV: `python opencv_runs.py FILE INPUT.npy OUTPUT_FOLDER`. Needs OpenCV and NumPy only."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

cv2: Any = import_module("cv2")
path, given, folder = sys.argv[1:]
for engine in ("ENGINE_AUTO", "ENGINE_CLASSIC", "ENGINE_NEW"):
    network = cv2.dnn.readNetFromONNX(path, getattr(cv2.dnn, engine))
    network.setInput(np.load(given))
    np.save(Path(folder, engine), network.forward())
