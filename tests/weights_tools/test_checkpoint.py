"""Finding the one state dict in what a file holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segnets.errors import WeightsError
from tests.weights_tools.files import described
from weights_tools.extract.state_dict import StateDict, find_state_dict, looks_trained
from weights_tools.reader.container import Container
from weights_tools.reader.limits import MAX_ATTRIBUTES, MAX_DEPTH, MAX_MODULES, MAX_TENSORS
from weights_tools.reader.values import Foreign, Global, UnreadableTensor, Value

W = described({"w": torch.ones(2, 3)})["w"]
STATE = {"conv.weight": W, "conv.bias": W}


def _find(top: Value, key: str | None = None) -> StateDict:
    return find_state_dict(Container("torch zip", top, {}), key)


def test_several_candidates_need_a_key() -> None:
    top = {"model": STATE, "model_ema": {"module.conv.weight": W}, "epoch": 1}
    with pytest.raises(WeightsError, match="it holds several sets of weights: model, model_ema; choose one with --key"):
        _find(top)
    assert _find(top, "model").tensors.keys() == STATE.keys()
    assert _find(top, "model_ema").stripped == ("module.",)
    with pytest.raises(WeightsError, match=r"it has no key 'ema'; it has the keys model \(dict\), model_ema \(dict\)"):
        _find(top, "ema")
    with pytest.raises(WeightsError, match="under the key 'epoch' it holds no tensors by name but int"):
        _find(top, "epoch")


LARGE = {f"layer{i}.weight": W for i in range(8)}


@pytest.mark.parametrize(
    ("top", "named"),
    [
        ({**LARGE, "ema": dict(LARGE)}, r"\., ema"),
        ({"model": LARGE, "ema_model": dict(LARGE)}, "model, ema_model"),
        ({"model": LARGE, "teacher": dict(LARGE)}, "model, teacher"),
        (
            {"state_dict": LARGE, "callbacks": {"average": {"weights": dict(LARGE)}}},
            r"state_dict, callbacks\.average\.wei",
        ),
    ],
)
def test_whatever_could_be_a_network_too_counts(top: Value, named: str) -> None:
    with pytest.raises(WeightsError, match=f"it holds several sets of weights: {named}"):
        _find(top)


def test_what_is_far_smaller_does_not_count() -> None:
    assert _find({"model": LARGE, "loss": {"weight": W, "bias": W}}).path == ("model",)
    assert _find({**LARGE, "scaler": {"scale": W}}).path == ()
    assert _find({"model": LARGE, "optimizer": {"state": {0: {"exp_avg": W}}, "param_groups": []}}).path == ("model",)


def test_a_key_may_name_the_outermost_or_a_prefix() -> None:
    assert _find({**LARGE, "ema": dict(LARGE)}, ".").path == ()
    two = {f"{name}.{key}": W for name in ("student", "teacher") for key in LARGE}
    for top in (two, {"state_dict": two, "epoch": 1}):
        found = _find(top, "teacher")
        assert found.tensors.keys() == LARGE.keys()
        assert found.stripped == ("teacher.",)
        assert found.dropped == tuple(f"student.{key}" for key in LARGE)
    with pytest.raises(WeightsError, match="it has no key 'teach'"):
        _find(two, "teach")


def test_nested_keys_may_contain_dots() -> None:
    top = {"a.b": {"c": STATE}, "other": {"c": STATE}}
    assert _find(top, "a.b.c").path == ("a.b", "c")
    assert _find(top, "other.c").path == ("other", "c")


def test_a_dictionary_of_an_unknown_name_is_found() -> None:
    assert _find({"student": STATE, "epoch": 3}).path == ("student",)
    with pytest.raises(WeightsError, match="several sets of weights: student, teacher"):
        _find({"student": STATE, "teacher": dict(STATE)})


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (None, r"no tensors named like the parameters of a network; it holds nothing \(None\)"),
        (W, r"no tensors named .* it holds a bare tensor \(2, 3\)"),
        ([W], "no tensors named .* it holds a bare list"),
        ({}, "no tensors named .* it holds an empty dictionary"),
        ({"epoch": 3, "loss": 0.5}, r"no tensors named .* it has the keys epoch \(int\), loss \(float\)"),
        ({"state": {0: {"exp_avg": W}}, "param_groups": []}, "the state of an optimizer only"),
        (
            {"optimizer": {"state": {0: {"exp_avg": W}}, "param_groups": []}},
            r"the state of an optimizer \(under 'optimizer'\) and no weights",
        ),
        (
            Foreign(Global("my.net", "Net"), (), {"_parameters": {}}),
            r"a whole pickled model \(my\.net\.Net\), .* save model",
        ),
        (
            {"model": Foreign(Global("my.net", "Net"), (), {"_parameters": {}})},
            r"a whole pickled model \(my\.net\.Net\)",
        ),
        (Foreign(Global("my", "Thing")), r"no weights but an object of my\.Thing"),
    ],
)
def test_no_weights(top: Value, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        _find(top)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (3, "a name that is not a string"),
        (("a", "b"), "a name that is not a string"),
        ("", "name '' is not accepted"),
        ("a\0b", r"name 'a\\x00b' is not accepted"),
        ("a\nb", r"name 'a\\nb' is not accepted"),
        ("a/b", "name 'a/b' is not accepted"),
        ("a\\b", r"is not accepted"),
        ("a..b", "is not accepted"),
        (".a", "is not accepted"),
        ("a\ud800", r"name 'a\\ud800' is not accepted"),
        ("a\u202eb", "is not accepted"),
        ("__metadata__", "name '__metadata__' is not accepted"),
        ("x" * 10_000_000, "a name of 10,000,000 characters; 400 are the most"),
    ],
)
def test_names_that_no_tool_can_hold(name: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as error:
        _find({**STATE, name: W})
    assert len(str(error.value)) < 300


def test_search_visits_every_dictionary_once() -> None:
    node: dict[Value, Value] = {"x": 1}
    for _ in range(4):
        node = {f"k{i}": node for i in range(100)}
    with pytest.raises(WeightsError, match="no tensors named"):
        _find(node)
    assert _find({"model": STATE, "model_ema": STATE}).path == ("model",)


def test_more_tensors_than_any_network_has() -> None:
    with pytest.raises(WeightsError, match="it holds 50,001 entries in one dictionary"):
        _find({f"w{i}": W for i in range(50_001)})


def test_prefixes_are_taken_off_only_if_all_have_them() -> None:
    assert _find({"module.a.w": W, "module.module.b": W}).tensors.keys() == {"a.w", "module.b"}
    assert _find({"module.a": W, "b": W}).stripped == ()
    assert _find({"module.a": W, "n_averaged": described({"n": torch.tensor(1)})["n"]}).dropped == ("n_averaged",)


def test_prefixes_can_not_make_two_names_one() -> None:
    both = _find({"module.a": W, "module.module.a": W})
    assert both.tensors.keys() == {"a", "module.a"}


def test_what_is_ignored_is_listed_without_being_looked_into() -> None:
    loop: list[Value] = []
    for _ in range(60):
        loop = [loop, loop]
    found = _find(
        {"model": STATE, "args": Foreign(Global("argparse", "Namespace"), loop, loop), "nested": loop, 7: None}
    )
    assert found.ignored == ("args (argparse.Namespace)", "nested (list)", "7 (NoneType)")


def _module(state: dict[Value, Value]) -> Foreign:
    return Foreign(Global("__torch__", "M"), (), state)


def _recalling_itself() -> Foreign:
    module = _module({})
    module.state = {"w": W, **{f"a{i}": module for i in range(5_000)}}
    return module


def _chain(length: int) -> Foreign:
    module = _module({"w": W})
    for _ in range(length):
        module = _module({"next": module})
    return module


MODULES: dict[str, tuple[Foreign, str]] = {
    "recalls itself": (_recalling_itself(), "too many or nested too deep"),
    "too many": (_module({f"a{i}": _module({}) for i in range(MAX_MODULES + 1)}), "too many or nested too deep"),
    "too deep": (_chain(MAX_DEPTH + 1), "too many or nested too deep"),
    "plain attributes again and again": (
        _module({f"a{i}": module for module in [_module(dict.fromkeys(range(10_000)))] for i in range(1_000)}),
        f"with {MAX_ATTRIBUTES:,} attributes",
    ),
    "tensors again and again": (
        _module({f"a{i}": module for module in [_module({f"w{i}": W for i in range(1_000)})] for i in range(60)}),
        f"it holds more than {MAX_TENSORS:,} tensors, as no network does",
    ),
    "long names": (_module({"x" * 10_000_000: _module({"w": W})}), "a name of 402 characters; 400 are the most"),
}


@pytest.mark.parametrize("case", MODULES)
def test_modules_of_no_network(case: str) -> None:
    top, message = MODULES[case]
    with pytest.raises(WeightsError, match=message):
        find_state_dict(Container("TorchScript archive", top, {}))


def test_modules_are_walked_in_order_and_may_share() -> None:
    shared = _module({"w": W, "n": 3, "odd": UnreadableTensor("sparse")})
    top = _module({"b": shared, "own": W, "a": shared, "deep": _chain(50)})
    found = find_state_dict(Container("TorchScript archive", top, {}))
    assert list(found.tensors) == ["own", "b.w", "a.w", f"deep.{'next.' * 50}w"]
    assert found.notes == ("2 attributes that are no plain tensors were left out",)


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("0.weight", torch.zeros(2, 3), True),
        ("query", torch.zeros(2, 3, dtype=torch.float16), True),
        ("packed.weight", torch.zeros(2, 3, dtype=torch.int8), True),
        ("bn.running_mean", torch.zeros(3), True),
        ("loss.weight", torch.zeros(3), False),
        ("iou.confmat", torch.zeros(3, 3, dtype=torch.int64), False),
        ("f1.tp", torch.tensor(0), False),
    ],
)
def test_what_looks_trained(name: str, tensor: Tensor, expected: bool) -> None:
    assert looks_trained(name, described({name: tensor})[name]) is expected
