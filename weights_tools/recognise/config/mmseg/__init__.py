"""What mmsegmentation writes beside the weights: `meta`, with the configuration as text, classes and colours.

Release 0: config, CLASSES, PALETTE, mmseg_version. Release 1: cfg, dataset_meta. Sources: mmengine 0.10
runner/runner.py save_checkpoint; mmsegmentation 0.30 apis/train.py.
"""

from __future__ import annotations

from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings, SourceConfig
from weights_tools.recognise.config._numpy_values import read_palette
from weights_tools.recognise.config._python_literals import UnreadableTextError, read_text
from weights_tools.recognise.config._section import Section, class_names, named
from weights_tools.recognise.config.mmseg._backbone import read_backbone, type_of
from weights_tools.recognise.config.mmseg._heads import read_heads
from weights_tools.recognise.config.mmseg._images import read_images, read_test_mode


def read_meta(meta: Value, *, auxiliary: bool) -> SourceConfig | None:
    """meta: of a checkpoint. auxiliary: there are tensors of an auxiliary head.

    Returns None if it is no dictionary that mmengine or mmcv writes.
    """
    if not isinstance(meta, dict):
        return None
    key = next((key for key in ("cfg", "config") if isinstance(meta.get(key), str | dict)), None)
    described = isinstance(meta.get("dataset_meta"), dict)
    if key is None and not described and not meta.keys() & {"CLASSES", "mmseg_version"}:
        return None
    found = Findings()
    source = "the checkpoint's meta" if key is None else f"the configuration in the checkpoint (meta.{key})"
    project = "mmseg" if "mmseg_version" in meta else None
    settings = _settings(meta[key], found) if key is not None else {}
    if settings:
        project = _read_settings(settings, found, auxiliary) or project
    _read_classes(meta, settings, found)
    return found.told(source, project)


def _settings(text: Value, found: Findings) -> dict[str, Value]:
    if not isinstance(text, str):
        settings: dict[str, Value] = text if isinstance(text, dict) else {}
        return settings
    try:
        return read_text(text)
    except UnreadableTextError as error:
        found.note(f"its text can't be read: {error}")
        return {}


def _read_settings(settings: dict[str, Value], found: Findings, auxiliary: bool) -> str | None:
    """Return the project, or None, with a note, if the configuration is of something else."""
    model = Section("", settings.get("model"), found)
    scope = settings.get("default_scope", "mmseg")
    if "_base_" in settings:
        found.note("it continues another configuration (_base_), which is not there")
        return None
    if scope != "mmseg" if isinstance(scope, str) else scope is not None:
        found.note(f"its default_scope is {named(scope)}, so its names are not mmsegmentation's")
        return None
    if "decode_head" not in model.values:
        found.note("it describes no segmentation network of mmsegmentation")
        return None
    if type_of(model) != "EncoderDecoder":
        found.refuse(f"its model is {named(type_of(model))}")
    if model.gives("neck"):
        found.refuse("its model has a neck")
    read_backbone(model.part("backbone"))
    read_heads(model, auxiliary=auxiliary)
    read_images(settings, model)
    read_test_mode(model, found)
    return "mmseg"


def _read_classes(meta: dict[Value, Value], settings: dict[str, Value], found: Findings) -> None:
    """Classes and colours, if there are as many as the network gives scores."""
    described = meta.get("dataset_meta")
    new = described if isinstance(described, dict) else {}
    names = class_names(meta.get("CLASSES") or new.get("classes"), found)
    if not names:
        return
    head = Section("", settings.get("model"), Findings()).part("decode_head")
    scores = head.count("out_channels") or head.count("num_classes")
    if scores is not None and scores != len(names):
        found.note(f"it names {len(names)} classes for {scores} scores; the names are left out")
        return
    found.classes = names
    palette = meta.get("PALETTE")
    found.palette = read_palette(new.get("palette") if palette is None else palette, len(names))
