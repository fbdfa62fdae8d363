"""Read malicious configs: nothing is executed, and unreadable values set no option."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.weights_tools.mmseg_text import TEXT, changed, of_mmseg
from weights_tools.reader.values import Foreign, Value
from weights_tools.recognise.config import read_source_config
from weights_tools.recognise.config._python_literals import MAX_TEXT, read_text


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {}')",
        "x = 1\nopen({!r}, 'w')",
        "model['backbone']['style'] = 'caffe'",
        "for i in (): pass",
        "def f(): pass",
        "x, y = 1, 2",
        "x = " + "(" * 100_000,
        "x = " + "[" * 190 + "]" * 190,
        "x = " + "-" * 100_000 + "1",
        "x = " + "~" * 5000 + "1",
        "x = a" + ".b" * 100_000,
        "x = 1" + "+1" * 100_000,
        "x = a" + "()" * 100_000,
        "x = " + "lambda:" * 50_000 + "1",
        "x = [" + "1," * 110_000 + "]",
        "x = " + "9" * 100_000,
        "x = '\0'",
        "x = '\ud800'",
        "x = 1" * (MAX_TEXT // 4),
        "{not python",
        "",
    ],
    ids=range(21),
)
def test_hostile_texts_set_no_option(text: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    found = of_mmseg(text.replace("{}", str(touched)).replace("{!r}", repr(str(touched))))
    assert (found.options, found.refused, found.project) == ({}, None, None)
    assert all(len(note) < 200 for note in found.notes)
    assert not touched.exists()


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os').system('touch {}')",
        "{**{'style': 'caffe'}, 'type': 'ResNet', 'depth': 50}",
        "dict(norm_cfg, type='ResNet', depth=50)",
        "dict(type='ResNet', depth=50, **norm_cfg)",
        "{('style', 1): 'caffe', 'type': 'ResNet', 'depth': 50}",
        "dict(type='ResNet', depth=50)\ndict = __import__\nmodel['backbone'] = 1",
        "dict(style=" + "[" * 60 + "]" * 60 + ", type='ResNet', depth=10**9)",
        "7",
        "(1, 2)",
    ],
)
def test_hostile_values_set_no_option(value: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    head = "dict(type='FCNHead', norm_cfg=dict(type='BN'))"
    found = of_mmseg(
        f"model = dict(type='EncoderDecoder', decode_head={head}, backbone={value})".replace("{}", str(touched))
    )
    assert not found.options.keys() & {"output_stride", "stride_in_1x1"}
    assert not touched.exists()


def test_reassigned_dict_is_not_called() -> None:
    assert of_mmseg("dict = print\n" + TEXT).options == {}


def test_shared_and_recursive_values_are_not_walked() -> None:
    lines = ["x0 = [1, 1]"] + [f"x{i} = [x{i - 1}, x{i - 1}]" for i in range(1, 60)]
    found = of_mmseg("\n".join(lines) + changed(("style='pytorch'", "style=x59"), ("in_index=3", "in_index=x59")))
    assert found.options["output_stride"] == 8
    loop: list[Value] = []
    loop.append(loop)
    model = {"decode_head": {"type": loop, "norm_cfg": loop}, "backbone": {"strides": loop}, "type": loop}
    assert of_mmseg({"model": model, "default_scope": loop, 7: loop}).options == {}


@pytest.mark.parametrize(
    "top", [None, 7, [], {}, {"meta": 7}, {"meta": {}}, {"meta": {"cfg": 7}}, {"state_dict": {1: 2}}, Foreign(None)]
)
def test_checkpoint_without_a_config(top: Value) -> None:
    assert read_source_config(top, ("state_dict",), Path("nowhere/w.safetensors")) is None


ODD: tuple[Value, ...] = (
    None,
    7,
    -1,
    2.5,
    1e300,
    10**5000,
    "x" * 10_000,
    "\ud800",
    [],
    [[[]]],
    (1,) * 10_000,
    {"type": 1},
    True,
    Foreign(None),
)


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_values_of_any_kind(odd: Value) -> None:
    """Replace each value and each section of a config."""
    settings: dict[Value, Value] = dict(read_text(TEXT).items())
    for path in paths_of(settings):
        found = of_mmseg(replaced(settings, path, odd), dataset_meta={"classes": odd, "palette": odd})
        assert all(len(text) < 400 and text.isprintable() for text in (*found.notes, found.refused or ""))


def paths_of(value: Value) -> list[tuple[Value, ...]]:
    if not isinstance(value, dict):
        return []
    return [path for key, child in value.items() for path in [(key,), *((key, *rest) for rest in paths_of(child))]]


def replaced(settings: dict[Value, Value], path: tuple[Value, ...], value: Value) -> dict[Value, Value]:
    inner = settings[path[0]]
    new = replaced(inner, path[1:], value) if len(path) > 1 and isinstance(inner, dict) else value
    return {**settings, path[0]: new}
