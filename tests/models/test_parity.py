"""Networks against torchvision's: state dicts, initial weights, and bit-identical outputs in eval mode."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

import segnets
from tests.models.pairs import (
    DEEP_IN_FULL,
    NAMES,
    assert_same_output,
    images,
    is_deep,
    random_pair,
    torchvision_model,
    with_aux,
)
from tests.tiers import full_but
from tests.typed import in_memory_format

SMALL = [(64, 64), (65, 97), (1, 1)]
LARGE = (520, 693)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.float64]


def aux_options(name: str) -> list[bool]:
    return [False, True] if with_aux(name) else [False]


@pytest.mark.parametrize("name", DEEP_IN_FULL)
def test_state_dict_has_the_same_names_order_shapes_and_dtypes(name: str) -> None:
    for aux_loss in aux_options(name):
        with torch.device("meta"):
            ours = segnets.create_model(name, aux_loss=aux_loss).state_dict()
            theirs = torchvision_model(name, aux_loss=aux_loss).state_dict()
        described = [(key, tensor.shape, tensor.dtype) for key, tensor in ours.items()]
        assert described == [(key, tensor.shape, tensor.dtype) for key, tensor in theirs.items()]


@pytest.mark.parametrize("name", DEEP_IN_FULL)
def test_state_dicts_load_strictly_in_both_directions(name: str) -> None:
    ours, theirs = random_pair(name, aux_loss=with_aux(name))  # theirs into ours
    back = copy.deepcopy(theirs)
    for tensor in back.state_dict().values():
        tensor.zero_()
    back.load_state_dict(ours.state_dict(), strict=True)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key


WITH_AND_WITHOUT_AUX = [(name, aux_loss) for name in NAMES for aux_loss in aux_options(name)]
SEEDED_EVERY_RUN = [case for case in WITH_AND_WITHOUT_AUX if "mobilenet" in case[0]]
SEEDED_EVERY_RUN += [("fcn_resnet50", True), ("deeplabv3_resnet50", False)]


@pytest.mark.usefixtures("drawn_initial_values")
@pytest.mark.parametrize(("name", "aux_loss"), full_but(SEEDED_EVERY_RUN, WITH_AND_WITHOUT_AUX))
def test_the_same_seed_draws_the_same_initial_weights(name: str, aux_loss: bool) -> None:
    torch.manual_seed(5)
    ours = segnets.create_model(name, num_classes=3, aux_loss=aux_loss).state_dict()
    ours_next = torch.rand(1)
    torch.manual_seed(5)
    theirs = torchvision_model(name, num_classes=3, aux_loss=aux_loss).state_dict()
    assert torch.equal(torch.rand(1), ours_next), "the random generator is in another state"
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


def compare(
    name: str, aux_loss: bool, batch: int, size: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    pair = random_pair(name, aux_loss=aux_loss)
    if dtype != torch.float32 or layout != torch.contiguous_format:
        pair = type(pair)(*(in_memory_format(copy.deepcopy(model).to(dtype), layout) for model in pair))
    x = images(batch, *size, dtype=dtype).contiguous(memory_format=layout)
    with torch.inference_mode():
        ours, theirs = pair.ours(x), pair.theirs(x)
    assert ours["out"].shape == (batch, 7, *size)
    assert_same_output(ours, theirs)


def is_slow(name: str, dtype: torch.dtype, layout: torch.memory_format) -> bool:
    """Return whether a case waits for `--full`: only LR-ASPP runs in every precision and memory format each time."""
    unusual = dtype == torch.float64 or layout == torch.channels_last
    return is_deep(name) or (unusual and not name.startswith("lraspp"))


SMALL_CASES = [
    (name, aux_loss, batch, dtype, layout)
    for name, dtype, layout in itertools.product(NAMES, DTYPES, LAYOUTS)
    for aux_loss, batch in itertools.product(aux_options(name), [1, 3])
]
# An auxiliary classifier runs with a batch of three, its absence with a single image; `--full` has the product.
SMALL_EVERY_RUN = [
    (name, aux_loss, batch, dtype, layout)
    for name, aux_loss, batch, dtype, layout in SMALL_CASES
    if not is_slow(name, dtype, layout) and (aux_loss == (batch == 3) or not with_aux(name))
]


@pytest.mark.parametrize(
    ("name", "aux_loss", "batch", "dtype", "layout"), full_but(SMALL_EVERY_RUN, SMALL_CASES), ids=str
)
def test_eval_output_is_equal_bit_for_bit(
    name: str, aux_loss: bool, batch: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    for size in SMALL:
        compare(name, aux_loss, batch, size, dtype, layout)


LARGE_CASES = [
    (True, 1, torch.float32, torch.contiguous_format),
    (False, 1, torch.float32, torch.channels_last),
    (True, 1, torch.float64, torch.contiguous_format),
]


# One of each head on a ResNet-50; more, and ResNets-101, are in the complete product below.
LARGE_RESNETS = [("deeplabv3_resnet50", LARGE_CASES[0]), ("fcn_resnet50", LARGE_CASES[1])]
LARGE_MOBILENETS = list(itertools.product([name for name in NAMES if "mobilenet" in name], LARGE_CASES))
LARGE_EVERY_RUN = [case for case in LARGE_MOBILENETS if case[1] is LARGE_CASES[1]]


@pytest.mark.parametrize(("name", "case"), full_but(LARGE_EVERY_RUN, LARGE_RESNETS + LARGE_MOBILENETS), ids=str)
def test_eval_output_of_a_large_image_is_equal_bit_for_bit(
    name: str, case: tuple[bool, int, torch.dtype, torch.memory_format]
) -> None:
    aux_loss, batch, dtype, layout = case
    compare(name, aux_loss and with_aux(name), batch, LARGE, dtype, layout)


@pytest.mark.parametrize("layout", full_but([torch.channels_last], LAYOUTS), ids=["contiguous", "channels_last"])
def test_eval_output_of_a_batch_of_large_images_is_equal_bit_for_bit(layout: torch.memory_format) -> None:
    compare("deeplabv3_mobilenet_v3_large", True, 3, LARGE, torch.float32, layout)


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_eval_output_of_every_combination_of_large_images_is_equal_bit_for_bit(
    name: str, batch: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    for aux_loss in aux_options(name):
        compare(name, aux_loss, batch, LARGE, dtype, layout)
