"""Values that no trained network has are refused; unusual values of sound files are not."""

from __future__ import annotations

import torch

from weights_tools.check.values import check_values

KERNEL = torch.ones(4, 3, 3, 3)


def test_unusual_values_pass() -> None:
    unusual = {
        "bn.running_var": torch.zeros(8),
        "bn.weight": torch.zeros(8),
        "bn.running_mean": torch.tensor([1e6, -1e6]),
        "conv.bias": torch.zeros(8),
        "conv.weight": torch.cat([KERNEL, torch.zeros(2, 3, 3, 3)]),
        "tiny.weight": torch.full((4, 3, 3, 3), 1e-30),
        "counter": torch.tensor(-1),
        "empty": torch.zeros(0, 3),
    }
    assert check_values(unusual).problems == ()
    assert check_values(unusual).doubts == ()


def test_negative_variance() -> None:
    problems = check_values({"bn1.running_var": torch.tensor([1.0, -0.25])}).problems
    assert problems == ("1 tensors hold negative variances: bn1.running_var (-2.5e-01)",)


def test_one_dead_kernel_is_a_doubt_and_many_are_a_problem() -> None:
    kernels = {f"conv{i}.weight": KERNEL for i in range(3)}
    one = check_values(kernels | {"dead.weight": torch.zeros(4, 3, 3, 3)})
    assert one.problems == ()
    assert one.doubts == ("1 of 4 convolution kernels hold only zeros: dead.weight",)
    many = check_values(kernels | {f"dead{i}.weight": torch.zeros(4, 3, 3, 3) for i in range(4)})
    assert "4 of 7 convolution kernels hold only zeros" in many.problems[0]


def test_every_float_dtype_is_checked() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2):
        tensors = {"w": torch.tensor([1.0, float("nan"), 2.0]).to(dtype)}
        assert check_values(tensors).problems == ("1 tensors hold NaN or infinite values: w (1 of 3)",)


def test_a_flipped_exponent_bit_is_huge() -> None:
    weights = torch.full((3,), 0.5)
    weights.view(torch.int32)[1] ^= 1 << 30
    assert "1 tensors hold values beyond 1e+15: w" in check_values({"w": weights}).problems[0]
