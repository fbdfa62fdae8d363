"""Read the config that a project stored with its weights, in the checkpoint or in config.json.

A config has the facts that the weights do not determine: dilation, eps, resizing, classes, colours, mean and standard
deviation. Values are read from inert data; nothing is executed or imported. Unreadable values become notes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weights_tools.reader.values import Value
from weights_tools.recognise.config import smp, timm, transformers
from weights_tools.recognise.config._contradiction import find_contradiction
from weights_tools.recognise.config._facts import SourceConfig
from weights_tools.recognise.config._json_file import UnreadableFileError, read_object
from weights_tools.recognise.config._section import quote
from weights_tools.recognise.config.mmseg import read_meta

__all__ = ["SourceConfig", "find_contradiction", "read_source_config"]

# Formats that only hold tensors, next to which projects store config.json. For a .pth in a folder of training runs,
# config.json may belong to another file.
_WITH_CONFIG = (".safetensors", ".bin", ".index.json")
_CONFIG_FILE = "config.json"


def read_source_config(top: Value, path_of_weights: tuple[str, ...], file: Path) -> SourceConfig | None:
    """Read the config of a checkpoint; return None if there is none.

    A config inside the checkpoint comes first, because config.json may belong to another file. The content of neither
    raises an error.

    Args:
        top: Content of the checkpoint.
        path_of_weights: Keys that lead to the tensors.
        file: Path of the checkpoint.
    """
    nodes = list(_dictionaries(top, path_of_weights))
    names = nodes[-1] if len(nodes) > len(path_of_weights) else {}
    auxiliary = any(isinstance(name, str) and "auxiliary_head." in name for name in names)
    for node in reversed(nodes):
        config = read_meta(node.get("meta"), auxiliary=auxiliary)
        if config is None:
            source = "the hyperparameters in the checkpoint"
            config = smp.read_hyper_parameters(node.get("hyper_parameters"), source)
        if config is not None:
            return config
    return _read_config_file(file) if file.name.endswith(_WITH_CONFIG) else None


def _dictionaries(top: Value, path: tuple[str, ...]) -> Iterator[dict[Value, Value]]:
    """Yield the dictionaries from the outermost one to the state dict."""
    node = top
    for key in (*path, None):
        if not isinstance(node, dict):
            return
        yield node
        node = node.get(key)


def _read_config_file(file: Path) -> SourceConfig | None:
    try:
        config = read_object(file.with_name(_CONFIG_FILE))
    except UnreadableFileError as error:
        return SourceConfig(_CONFIG_FILE, notes=(f"ignored {_CONFIG_FILE}: {error}",))
    if config is None:
        return None
    if config.get("model_type") == "resnet":
        return _read_transformers(config, file)
    if isinstance(config.get("encoder_name"), str):
        return smp.read_config(config, _CONFIG_FILE)
    if isinstance(config.get("architecture"), str):
        return timm.read_config(config, _CONFIG_FILE)
    kind = config.get("model_type")
    what = f"the model {quote(kind)}" if isinstance(kind, str) else "no known network"
    return SourceConfig(_CONFIG_FILE, notes=(f"ignored {_CONFIG_FILE}: it describes {what}",))


def _read_transformers(config: dict[str, Value], file: Path) -> SourceConfig:
    try:
        images = read_object(file.with_name("preprocessor_config.json"))
    except UnreadableFileError:
        images = None
    return transformers.read_config(config, images, _CONFIG_FILE)
