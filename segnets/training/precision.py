"""Advice on training in bfloat16 on CPUs that support it, based on a measurement of the network."""

from __future__ import annotations

import copy
import statistics
import time

import torch
from torch import nn

from segnets.training.config import TrainingConfig

_ROUNDS = 3
_MOST_IMAGES, _LARGEST_SIDE = 2, 160  # for the measurement, which should take a few seconds even for a large network
_LEAST_GAIN = 1.15  # speed-up; less is within measurement noise


def bfloat16_advice(model: nn.Module, config: TrainingConfig, *, channels: int = 3) -> str | None:
    """Measure whether bfloat16 is faster on this CPU, and return a recommendation.

    The network is copied for the measurement. Neither it nor the caller's random state is changed.

    Args:
        model: Network to train, in training mode.
        config: Options `amp`, `batch`, `crop`, `channels_last` and `compile`.
        channels: Number of image channels.

    Returns:
        One line of advice, or None if bfloat16 is already used, not supported by the CPU, or not faster.
    """
    device = next(model.parameters()).device
    if config.amp != "no" or config.compile or device.type != "cpu" or not has_bfloat16():
        return None
    gain = measure_gain(model, config, channels)
    if gain < _LEAST_GAIN:
        return None
    return (
        f"this CPU runs this network {gain:.1f} times as fast in bfloat16, measured with small images. --set "
        "amp=bfloat16 trains in bfloat16, with slightly different results"
    )


def has_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16 (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def measure_gain(model: nn.Module, config: TrainingConfig, channels: int) -> float:
    """Measure the speed-up of forward and backward passes in bfloat16, from the median of a few rounds."""
    trial = copy.deepcopy(model)
    side = min(config.crop, _LARGEST_SIDE)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with torch.random.fork_rng(devices=[]):
        images = torch.randn(max(2, min(config.batch, _MOST_IMAGES)), channels, side, side)
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        for number in range(_ROUNDS + 1):
            for reduced in (False, True):
                started = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                    loss = sum(output.float().mean() for output in trial(images).values())
                loss.backward()
                if number:  # the first round prepares kernels
                    seconds[reduced].append(time.perf_counter() - started)
    return statistics.median(seconds[False]) / statistics.median(seconds[True])
