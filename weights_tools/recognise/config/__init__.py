"""What stands beside the tensors of a checkpoint: the configuration of the project that wrote it.

It settles what no tensor shows: dilation, eps, how maps are resized, classes, colours, mean and standard deviation.
Everything is read from inert values; nothing is executed or imported, and what can't be read becomes a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weights_tools.reader.values import Value
from weights_tools.recognise.config import smp, timm, transformers
from weights_tools.recognise.config._contradiction import contradiction
from weights_tools.recognise.config._facts import SourceConfig
from weights_tools.recognise.config._json_file import UnreadableFileError, read_object
from weights_tools.recognise.config._section import named
from weights_tools.recognise.config.mmseg import read_meta

__all__ = ["SourceConfig", "contradiction", "read_source_config"]

# Files that hold tensors alone, for which projects write config.json. In a folder of training runs it is another's.
_WITH_CONFIG = (".safetensors", ".bin", ".index.json")
_SOURCE = "config.json beside it"


def read_source_config(top: Value, path_of_weights: tuple[str, ...], file: Path) -> SourceConfig | None:
    """Return what the checkpoint's own configuration says, or None where it has none.

    top: what the file holds; path_of_weights: the keys that lead to the tensors; file: where it lies.
    What is said inside the file comes first: config.json may be another file's. Never raises for what either holds.
    """
    nodes = list(_dictionaries(top, path_of_weights))
    names = nodes[-1] if len(nodes) > len(path_of_weights) else {}
    auxiliary = any(isinstance(name, str) and "auxiliary_head." in name for name in names)
    for node in reversed(nodes):
        told = read_meta(node.get("meta"), auxiliary=auxiliary)
        if told is None:
            source = "the hyperparameters in the checkpoint"
            told = smp.read_hyper_parameters(node.get("hyper_parameters"), source)
        if told is not None:
            return told
    return _read_config(file) if file.name.endswith(_WITH_CONFIG) else None


def _dictionaries(top: Value, path: tuple[str, ...]) -> Iterator[dict[Value, Value]]:
    """The dictionaries from the outermost to the one of the tensors."""
    node = top
    for key in (*path, None):
        if not isinstance(node, dict):
            return
        yield node
        node = node.get(key)


def _read_config(file: Path) -> SourceConfig | None:
    try:
        config = read_object(file.with_name("config.json"))
    except UnreadableFileError as error:
        return SourceConfig(_SOURCE, notes=(f"config.json beside it is ignored: {error}",))
    if config is None:
        return None
    if config.get("model_type") == "resnet":
        return _read_transformers(config, file)
    if isinstance(config.get("encoder_name"), str):
        return smp.read_config(config, _SOURCE)
    if isinstance(config.get("architecture"), str):
        return timm.read_config(config, _SOURCE)
    kind = config.get("model_type")
    what = f"of the model {named(kind)}" if isinstance(kind, str) else "of no network that is known here"
    return SourceConfig(_SOURCE, notes=(f"config.json beside it is ignored: it is {what}",))


def _read_transformers(config: dict[str, Value], file: Path) -> SourceConfig:
    try:
        images = read_object(file.with_name("preprocessor_config.json"))
    except UnreadableFileError:
        images = None
    return transformers.read_config(config, images, _SOURCE)
