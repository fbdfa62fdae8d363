"""Recognise which network a checkpoint holds.

`recognise` matches the state dict with the layouts of known projects (`layouts`), reads what the weights do not
determine from the project's own config file (`config`), and checks every tensor against the network.
"""

from __future__ import annotations

from weights_tools.recognise._architecture import describe_architecture, format_architecture
from weights_tools.recognise._recognise import Recognised, recognise
from weights_tools.recognise.config import SourceConfig
from weights_tools.recognise.layouts import PREPROCESSING

__all__ = ["PREPROCESSING", "Recognised", "SourceConfig", "describe_architecture", "format_architecture", "recognise"]
