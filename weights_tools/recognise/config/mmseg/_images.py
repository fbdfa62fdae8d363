"""Read the preprocessing of an mmsegmentation config: size, channel order, mean and standard deviation.

Images are read as BGR (cv2). Release 1 normalises in the model's data_preprocessor, release 0 in the pipelines. The
pipeline for tests resizes.
Source: mmsegmentation 1.2.2 models/data_preprocessor.py; mmcv 1.7 image/photometric.py imnormalize; mmcv 2.1
transforms/processing.py Resize, image/geometric.py rescale_size.
"""

from __future__ import annotations

from collections.abc import Iterator

from segnets.preprocessing import INTERPOLATIONS
from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings
from weights_tools.recognise.config._section import Section, is_count, set_preprocessing, set_resize

_MAX_DEPTH = 4  # nesting of pipelines
_MAX_STEPS = 100
_WHITE = 255.0
_TEST_PIPELINES = (
    ("data", "test", "pipeline"),
    ("test_dataloader", "dataset", "pipeline"),
    ("test_pipeline",),
)
_RESIZING = ("Resize", "ResizeShortestEdge", "ResizeToMultiple", "RandomResize", "RandomChoiceResize")


def read_images(settings: dict[str, Value], model: Section) -> None:
    """Record the preprocessing, if the config has one."""
    _read_normalisation(settings, model)
    _read_resize(settings, model.findings)


def _read_normalisation(settings: dict[str, Value], model: Section) -> None:
    found = model.findings
    preprocessor = model.part("data_preprocessor")
    if preprocessor.has("mean"):
        # Both flags swap the first and the last channel, despite their names.
        swaps = [preprocessor.flag(key, False) for key in ("bgr_to_rgb", "rgb_to_bgr")]
        _record(preprocessor, None if None in swaps else any(swaps))
        return
    for place in (*_TEST_PIPELINES, ("data", "train", "pipeline"), ("train_pipeline",)):
        for step in _steps(_at(settings, place), _MAX_DEPTH):
            if step.get("type") == "Normalize":
                normalise = Section("pipeline", step, found)
                _record(normalise, normalise.flag("to_rgb", True))
                return
    if isinstance(settings.get("img_norm_cfg"), dict):
        normalise = Section("img_norm_cfg", settings["img_norm_cfg"], found)
        _record(normalise, normalise.flag("to_rgb", True))


def _read_resize(settings: dict[str, Value], found: Findings) -> None:
    """Record how the pipeline for tests resizes. A pipeline without such a step does not resize."""
    steps: list[dict[Value, Value]] = []
    for place in _TEST_PIPELINES:
        steps = list(_steps(_at(settings, place), _MAX_DEPTH))
        if steps:
            break
    if not steps:
        return
    resizing = [step for step in steps if step.get("type") in _RESIZING]
    if not resizing:
        set_resize({"resize": "none", "size": None}, found)
        return
    # Release 0 has the size in MultiScaleFlipAug, around the step that resizes.
    outer = next((step for step in steps if step.get("type") == "MultiScaleFlipAug"), {})
    step = Section("pipeline Resize", resizing[0], found)
    scale = resizing[0].get("scale") or resizing[0].get("img_scale") or outer.get("img_scale")
    keep = step.flag("keep_ratio", resizing[0].get("type") == "ResizeShortestEdge")
    size = _pair(scale)
    if len(resizing) > 1 or resizing[0].get("type") != "Resize" or size is None or keep is None:
        found.note("the project resizes images in a way that segnets does not; set the size with --resize")
        return
    kept = step.word("interpolation", "bilinear")
    how = {"interpolation": kept if kept in INTERPOLATIONS else "bilinear", "antialias": False}  # as cv2.resize
    if not keep:
        set_resize({"resize": "fixed", "size": (size[1], size[0]), **how}, found)
        return
    set_resize({"resize": "short_side", "size": min(size), **how}, found)
    found.note(
        f"the project resizes the short side to {min(size)} unless the long side would exceed {max(size)}; segnets "
        "resizes the short side of every image"
    )


def _pair(scale: Value) -> tuple[int, int] | None:
    """Return (width, height), or None for anything but two sides in pixels, or a list of one such pair."""
    if isinstance(scale, list | tuple) and len(scale) == 1:
        scale = scale[0]
    if isinstance(scale, list | tuple) and len(scale) == 2:
        width, height = scale
        if is_count(width) and is_count(height):
            return width, height
    return None


def _record(section: Section, rgb: bool | None) -> None:
    mean, std = section.triple("mean"), section.triple("std")
    if rgb is not None:
        set_preprocessing(mean, std, section.findings, scale=_WHITE, channel_order="RGB" if rgb else "BGR")


def _at(settings: dict[str, Value], path: tuple[str, ...]) -> Value:
    value: Value = settings
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _steps(pipeline: Value, depth: int) -> Iterator[dict[Value, Value]]:
    """Yield the steps of a pipeline, and those inside a step such as MultiScaleFlipAug."""
    if not isinstance(pipeline, list | tuple) or depth == 0:
        return
    for step in pipeline[:_MAX_STEPS]:
        if isinstance(step, dict):
            yield step
            yield from _steps(step.get("transforms"), depth - 1)


def read_test_mode(model: Section, found: Findings) -> None:
    """Add a note if the config evaluates in sliding windows, as for 769x769: segnets uses the whole image."""
    if model.part("test_cfg").get("mode") == "slide":
        found.note(
            "the project evaluates in sliding windows (test_cfg mode='slide'); a whole image gives different logits"
        )
