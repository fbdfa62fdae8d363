"""The prepared scripts for a GPU run with tiny sizes on a CPU, and the benchmark of memory measures."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.training import gpu, memory
from tests.data.common import write_folder
from tests.training.runs import toys

__all__ = ["toys"]

distil = importlib.import_module("examples.distil")  # no package


def test_the_gpu_benchmark_runs_small() -> None:
    sizes = replace(gpu.SMALL, network="fcn_toy", light="fcn_toy")
    lines = list(gpu.report(sizes, torch.device("cpu"), None))
    text = "\n".join(lines)
    assert "failed" not in text
    assert "| segnets, bfloat16 |" in text
    assert "0 workers, bfloat16 |" in text
    assert "Interrupted in the middle of an epoch and resumed: equal bit for bit." in lines
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_failed_section_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = replace(gpu.SMALL, network="fcn_toy", light="missing")
    lines = list(gpu.report(sizes, torch.device("cpu"), write_folder(tmp_path)))
    assert [line[:22] for line in lines if line.startswith("failed")] == ["failed: TrainingError:"] * 2
    assert "| segnets, bfloat16 |" in "\n".join(lines)
    assert "Traceback" in capsys.readouterr().err


def test_memory_of_a_training_is_sampled(tmp_path: Path) -> None:
    found = memory.train_long(tmp_path, "lraspp_toy", 2)
    assert 50 < found["early"] <= found["last"] * 1.5
    assert 0 <= found["waiting"] < 1


@pytest.mark.full
def test_the_benchmark_of_memory() -> None:
    lines = list(memory.peaks(batch=2, side=96, networks=("fcn_resnet50",)))
    assert 0 < float(lines[-1].split("|")[4]) < 1
    assert "MiB" in list(memory.flatness(2))[-1]


def test_distillation_runs_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distil, "TEACHER", "fcn_toy")
    monkeypatch.setattr(distil, "STUDENT", "lraspp_toy")
    data = write_folder(tmp_path / "data", train=4)
    arguments = [str(data), str(tmp_path / "out"), "--small", "--minutes", "0"]
    distil.main(arguments)
    out = capsys.readouterr().out
    assert "lraspp_toy: 2 epochs" in out
    assert out.count("mean IoU") == 2
    config = (tmp_path / "out" / "student" / "config.toml").read_text()
    assert f'teacher = "{tmp_path}/out/teacher/last.safetensors"' in config
    distil.main(arguments)  # resumes: both are finished
    assert capsys.readouterr().out.count("this run is finished") == 2
