"""How a configuration of mmsegmentation makes an image the network's input: channels, mean and standard deviation.

Images are read as BGR (cv2). Release 1 normalises in the model's data_preprocessor, release 0 in the pipelines. How
large images are made is left alone: it belongs to a benchmark there, and networks take any size.
Source: mmsegmentation 1.2.2 models/data_preprocessor.py; mmcv 1.7 image/photometric.py imnormalize.
"""

from __future__ import annotations

from collections.abc import Iterator

from weights_tools.reader.values import Value
from weights_tools.recognise.config._facts import Findings
from weights_tools.recognise.config._section import Section, input_of

_DEPTH = 4  # of pipelines within pipelines
_LONGEST = 100
_WHITE = 255.0


def read_images(settings: dict[str, Value], model: Section) -> None:
    """Find the preprocessing, if the configuration has one."""
    found = model.findings
    preprocessor = model.part("data_preprocessor")
    if preprocessor.gives("mean"):
        # Both flags exchange the first and the last channel, whatever their names say.
        swaps = [preprocessor.flag(key, False) for key in ("bgr_to_rgb", "rgb_to_bgr")]
        _input(preprocessor, None if None in swaps else any(swaps))
        return
    for place in (("data", "test", "pipeline"), ("test_pipeline",), ("data", "train", "pipeline"), ("train_pipeline",)):
        for step in _steps(_at(settings, place), _DEPTH):
            if step.get("type") == "Normalize":
                normalise = Section("pipeline", step, found)
                _input(normalise, normalise.flag("to_rgb", True))
                return
    if isinstance(settings.get("img_norm_cfg"), dict):
        normalise = Section("img_norm_cfg", settings["img_norm_cfg"], found)
        _input(normalise, normalise.flag("to_rgb", True))


def _input(section: Section, rgb: bool | None) -> None:
    mean, std = section.triple("mean"), section.triple("std")
    if rgb is not None:
        input_of(mean, std, section.findings, scale=_WHITE, channel_order="RGB" if rgb else "BGR")


def _at(settings: dict[str, Value], path: tuple[str, ...]) -> Value:
    value: Value = settings
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _steps(pipeline: Value, depth: int) -> Iterator[dict[Value, Value]]:
    """The steps of a pipeline, and those inside a step, such as MultiScaleFlipAug."""
    if not isinstance(pipeline, list | tuple) or depth == 0:
        return
    for step in pipeline[:_LONGEST]:
        if isinstance(step, dict):
            yield step
            yield from _steps(step.get("transforms"), depth - 1)


def read_test_mode(model: Section, found: Findings) -> None:
    """Published networks for 769x769 were measured in overlapping windows; here an image is one piece."""
    if model.part("test_cfg").get("mode") == "slide":
        found.note("it was tested in overlapping windows (test_cfg mode='slide'); a whole image gives other scores")
