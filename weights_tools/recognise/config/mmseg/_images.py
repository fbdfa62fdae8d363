"""Read the preprocessing of an mmsegmentation config: channel order, mean and standard deviation.

Images are read as BGR (cv2). Release 1 normalises in the model's data_preprocessor, release 0 in the pipelines. Sizes
are ignored: they belong to a benchmark, and networks accept any size.
Source: mmsegmentation 1.2.2 models/data_preprocessor.py; mmcv 1.7 image/photometric.py imnormalize.
"""

from __future__ import annotations

from collections.abc import Iterator

from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings
from weights_tools.recognise.config._section import Section, set_preprocessing

_MAX_DEPTH = 4  # nesting of pipelines
_MAX_STEPS = 100
_WHITE = 255.0


def read_images(settings: dict[str, Value], model: Section) -> None:
    """Record the preprocessing, if the config has one."""
    found = model.findings
    preprocessor = model.part("data_preprocessor")
    if preprocessor.has("mean"):
        # Both flags swap the first and the last channel, despite their names.
        swaps = [preprocessor.flag(key, False) for key in ("bgr_to_rgb", "rgb_to_bgr")]
        _record(preprocessor, None if None in swaps else any(swaps))
        return
    for place in (("data", "test", "pipeline"), ("test_pipeline",), ("data", "train", "pipeline"), ("train_pipeline",)):
        for step in _steps(_at(settings, place), _MAX_DEPTH):
            if step.get("type") == "Normalize":
                normalise = Section("pipeline", step, found)
                _record(normalise, normalise.flag("to_rgb", True))
                return
    if isinstance(settings.get("img_norm_cfg"), dict):
        normalise = Section("img_norm_cfg", settings["img_norm_cfg"], found)
        _record(normalise, normalise.flag("to_rgb", True))


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
        found.note("the project evaluates in sliding windows (test_cfg mode='slide'); a whole image gives other logits")
