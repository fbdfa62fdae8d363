"""`find_state_dict`: candidates, keys, prefixes, names, module trees."""

from __future__ import annotations

from collections.abc import Callable
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
    with pytest.raises(
        WeightsError, match=r"the checkpoint holds several sets of weights: model, model_ema\. Choose one with --key"
    ):
        _find(top)
    assert _find(top, "model").tensors.keys() == STATE.keys()
    assert _find(top, "model_ema").stripped == ("module.",)
    with pytest.raises(
        WeightsError, match=r"the checkpoint has no key 'ema', but the keys model \(dict\), model_ema \(dict\)"
    ):
        _find(top, "ema")
    with pytest.raises(WeightsError, match="the key 'epoch' holds int instead of named tensors"):
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
def test_all_plausible_networks_count_as_candidates(top: Value, named: str) -> None:
    with pytest.raises(WeightsError, match=f"the checkpoint holds several sets of weights: {named}"):
        _find(top)


def test_much_smaller_dictionaries_are_not_candidates() -> None:
    assert _find({"model": LARGE, "loss": {"weight": W, "bias": W}}).path == ("model",)
    assert _find({**LARGE, "scaler": {"scale": W}}).path == ()
    assert _find({"model": LARGE, "optimizer": {"state": {0: {"exp_avg": W}}, "param_groups": []}}).path == ("model",)


def test_key_may_be_the_outermost_dictionary_or_a_prefix() -> None:
    assert _find({**LARGE, "ema": dict(LARGE)}, ".").path == ()
    two = {f"{name}.{key}": W for name in ("student", "teacher") for key in LARGE}
    for top in (two, {"state_dict": two, "epoch": 1}):
        found = _find(top, "teacher")
        assert found.tensors.keys() == LARGE.keys()
        assert found.stripped == ("teacher.",)
        assert found.dropped == tuple(f"student.{key}" for key in LARGE)
    with pytest.raises(WeightsError, match="the checkpoint has no key 'teach'"):
        _find(two, "teach")


def test_nested_keys_may_contain_dots() -> None:
    top = {"a.b": {"c": STATE}, "other": {"c": STATE}}
    assert _find(top, "a.b.c").path == ("a.b", "c")
    assert _find(top, "other.c").path == ("other", "c")


def test_dictionary_under_an_unknown_key_is_found() -> None:
    assert _find({"student": STATE, "epoch": 3}).path == ("student",)
    with pytest.raises(WeightsError, match="several sets of weights: student, teacher"):
        _find({"student": STATE, "teacher": dict(STATE)})


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (None, r"no tensors named like the parameters of a network, but nothing \(None\)"),
        (W, r"no tensors named .* but a bare tensor \(2, 3\)"),
        ([W], r"tensors without names \(1 in a list"),
        ({}, "no tensors named .* but an empty dictionary"),
        ({"epoch": 3, "loss": 0.5}, r"no tensors named .* but the keys epoch \(int\), loss \(float\)"),
        ({"state": {0: {"exp_avg": W}}, "param_groups": []}, "only the state of an optimizer"),
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
        (Foreign(Global("my", "Thing")), r"holds an object of my\.Thing, not weights"),
    ],
)
def test_files_without_weights_are_refused(top: Value, message: str) -> None:
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
        ("x" * 10_000_000, r"a name of 10,000,000 characters \(at most 400 are accepted\)"),
    ],
)
def test_unusable_tensor_names_are_refused(name: Any, message: str) -> None:
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


def test_too_many_tensors_are_refused() -> None:
    with pytest.raises(WeightsError, match="the checkpoint holds 50,001 entries in one dictionary"):
        _find({f"w{i}": W for i in range(50_001)})


def test_prefixes_are_removed_only_if_all_names_share_them() -> None:
    assert _find({"module.a.w": W, "module.module.b": W}).tensors.keys() == {"a.w", "module.b"}
    assert _find({"module.a": W, "b": W}).stripped == ()
    assert _find({"module.a": W, "n_averaged": described({"n": torch.tensor(1)})["n"]}).dropped == ("n_averaged",)


def test_removing_prefixes_never_merges_names() -> None:
    both = _find({"module.a": W, "module.module.a": W})
    assert both.tensors.keys() == {"a", "module.a"}


def test_ignored_objects_are_listed_without_traversal() -> None:
    loop: list[Value] = []
    for _ in range(60):
        loop = [loop, loop]
    found = _find(
        {"model": STATE, "args": Foreign(Global("argparse", "Namespace"), loop, loop), "nested": loop, 7: None}
    )
    assert found.ignored == ("args (argparse.Namespace)", "nested (list)", "7 (NoneType)")


def _module(state: dict[Value, Value]) -> Foreign:
    return Foreign(Global("__torch__", "M"), (), state)


def _cyclic() -> Foreign:
    module = _module({})
    module.state = {"w": W, **{f"a{i}": module for i in range(5_000)}}
    return module


def _chain(length: int) -> Foreign:
    module = _module({"w": W})
    for _ in range(length):
        module = _module({"next": module})
    return module


# Built by the tests: every collection would wait for a hundred thousand modules.
MODULES: dict[str, tuple[Callable[[], Foreign], str]] = {
    "cyclic": (_cyclic, "too many modules, or they are nested too deeply"),
    "too many": (
        lambda: _module({f"a{i}": _module({}) for i in range(MAX_MODULES + 1)}),
        "too many modules, or they are nested too deeply",
    ),
    "too deep": (lambda: _chain(MAX_DEPTH + 1), "too many modules, or they are nested too deeply"),
    "repeated plain attributes": (
        lambda: _module({f"a{i}": module for module in [_module(dict.fromkeys(range(10_000)))] for i in range(1_000)}),
        f"with {MAX_ATTRIBUTES:,} attributes",
    ),
    "repeated tensors": (
        lambda: _module(
            {f"a{i}": module for module in [_module({f"w{i}": W for i in range(1_000)})] for i in range(60)}
        ),
        f"the archive holds more than {MAX_TENSORS:,} tensors, which no network has",
    ),
    "long names": (
        lambda: _module({"x" * 10_000_000: _module({"w": W})}),
        r"a name of 402 characters \(at most 400 are accepted\)",
    ),
}


@pytest.mark.parametrize("case", MODULES)
def test_implausible_module_trees_are_refused(case: str) -> None:
    make, message = MODULES[case]
    with pytest.raises(WeightsError, match=message):
        find_state_dict(Container("TorchScript archive", make(), {}))


def test_modules_are_walked_in_order_and_may_be_shared() -> None:
    shared = _module({"w": W, "n": 3, "odd": UnreadableTensor("sparse")})
    top = _module({"b": shared, "own": W, "a": shared, "deep": _chain(50)})
    found = find_state_dict(Container("TorchScript archive", top, {}))
    assert list(found.tensors) == ["own", "b.w", "a.w", f"deep.{'next.' * 50}w"]
    assert found.notes == ("2 attributes that are not plain tensors were left out",)


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
def test_looks_trained(name: str, tensor: Tensor, expected: bool) -> None:
    assert looks_trained(name, described({name: tensor})[name]) is expected
