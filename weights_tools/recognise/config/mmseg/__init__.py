"""Read mmsegmentation configs: the checkpoint's `meta`, with the config as text, classes and colours.

Release 0: config, CLASSES, PALETTE, mmseg_version. Release 1: cfg, dataset_meta. Sources: mmengine 0.10
runner/runner.py save_checkpoint; mmsegmentation 0.30 apis/train.py.
"""

from __future__ import annotations

from segnets.card import Decoding
from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings, SourceConfig
from weights_tools.recognise.config._numpy_values import read_palette
from weights_tools.recognise.config._python_literals import UnreadableTextError, read_text
from weights_tools.recognise.config._section import Section, parse_class_names, quote
from weights_tools.recognise.config.mmseg._backbone import read_backbone, type_of
from weights_tools.recognise.config.mmseg._heads import read_heads
from weights_tools.recognise.config.mmseg._images import read_images, read_test_mode


def read_meta(meta: Value, *, auxiliary: bool) -> SourceConfig | None:
    """Return the facts in the `meta` of a checkpoint, or None if mmengine or mmcv did not write it.

    Args:
        meta: Value under the key `meta`.
        auxiliary: Whether the checkpoint has tensors of an auxiliary head.
    """
    if not isinstance(meta, dict):
        return None
    key = next((key for key in ("cfg", "config") if isinstance(meta.get(key), str | dict)), None)
    described = isinstance(meta.get("dataset_meta"), dict)
    if key is None and not described and not meta.keys() & {"CLASSES", "mmseg_version"}:
        return None
    found = Findings()
    source = "the checkpoint's meta" if key is None else f"the config in the checkpoint (meta.{key})"
    project = "mmseg" if "mmseg_version" in meta else None
    settings = _settings(meta[key], found) if key is not None else {}
    if settings:
        project = _read_settings(settings, found, auxiliary) or project
    _read_classes(meta, settings, found)
    return found.finish(source, project)


def _settings(text: Value, found: Findings) -> dict[str, Value]:
    if not isinstance(text, str):
        settings: dict[str, Value] = text if isinstance(text, dict) else {}
        return settings
    try:
        return read_text(text)
    except UnreadableTextError as error:
        found.note(f"ignored the text of the config: {error}")
        return {}


def _read_settings(settings: dict[str, Value], found: Findings, auxiliary: bool) -> str | None:
    """Return the project. If the config describes something else, add a note and return None."""
    model = Section("", settings.get("model"), found)
    scope = settings.get("default_scope", "mmseg")
    if "_base_" in settings:
        found.note("ignored the config: it inherits from another config (_base_), which is not in the checkpoint")
        return None
    if scope != "mmseg" if isinstance(scope, str) else scope is not None:
        found.note(f"ignored the config: its default_scope is {quote(scope)}, so its names are not mmsegmentation's")
        return None
    if "decode_head" not in model.values:
        found.note("ignored the config: it does not describe a segmentation network of mmsegmentation")
        return None
    if type_of(model) != "EncoderDecoder":
        found.refuse(f"its model is {quote(type_of(model))}")
    if model.has("neck"):
        found.refuse("its model has a neck")
    read_backbone(model.part("backbone"))
    read_heads(model, auxiliary=auxiliary)
    read_images(settings, model)
    read_test_mode(model, found)
    return "mmseg"


def _read_classes(meta: dict[Value, Value], settings: dict[str, Value], found: Findings) -> None:
    """Record class names and colours, if there is one for each id."""
    described = meta.get("dataset_meta")
    new = described if isinstance(described, dict) else {}
    names = parse_class_names(meta.get("CLASSES") or new.get("classes"), found)
    if not names:
        return
    head = Section("", settings.get("model"), Findings()).part("decode_head")
    channels = head.count("out_channels") or head.count("num_classes")
    ids = None if channels is None else Decoding.default(channels).ids(channels)
    if ids is not None and ids != len(names):
        what = "1 channel, so the ids are 0 and 1" if channels == 1 else f"{channels} channels"
        found.note(f"ignored {len(names)} class {'name' if len(names) == 1 else 'names'}: the logits have {what}")
        return
    found.classes = names
    palette = meta.get("PALETTE")
    found.palette = read_palette(new.get("palette") if palette is None else palette, len(names))
