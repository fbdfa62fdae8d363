"""Free memory is that of the container, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import segnets
from segnets import ImageError, Preprocessing
from segnets.memory import available_memory


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:    8000 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


CASES: list[tuple[dict[str, str], int | None]] = [
    ({}, 8000 * 1024),
    ({"proc/self/cgroup": "0::/a/b\n"}, 8000 * 1024),
    # Version 2, in the group itself, in one around it, and without a limit.
    (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "5000\n",
            "sys/fs/cgroup/a/b/memory.current": "4500\n",
            "sys/fs/cgroup/a/b/memory.stat": "anon 4000\ninactive_file 300\n",
        },
        800,
    ),
    (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "4500\n",
            "sys/fs/cgroup/a/memory.max": "5000\n",
            "sys/fs/cgroup/a/memory.current": "5200\n",
        },
        0,
    ),
    # Version 1 in a container that sees its own group as the root.
    (
        {
            "proc/self/cgroup": "3:cpuset:/\n4:cpu,memory:/docker/1234\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "6000\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
            "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 10\n",
        },
        5010,
    ),
    ({"proc/self/cgroup": "nonsense\n", "proc/meminfo": "MemAvailable: none\n"}, None),
]


@pytest.mark.parametrize(("files", "expected"), CASES)
def test_the_smallest_limit_counts(files: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, files)) == expected


def test_a_system_that_reports_nothing(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_a_batch_that_exceeds_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million images that share one image's memory would have ended the process."""
    monkeypatch.setattr("segnets.memory.available_memory", lambda: 8_000_000_000)
    model = segnets.create_model("lraspp_mobilenet_v3_small", num_classes=5).eval()
    batch = torch.zeros(1, 64, 64, 3, dtype=torch.uint8).expand(1_000_000, 64, 64, 3)
    for preprocessing, size, needed in (
        (Preprocessing(resize="none"), "64x64 at the network's input", "131.1"),  # 3 + 5 channels
        (Preprocessing(resize="fixed", size=(8, 8)), "64x64 as given", "49.2"),
    ):
        expected = f"image: 1000000 images, {size}, take at least {needed} GB, but 8.0 GB are free; segment fewer"
        with pytest.raises(ImageError, match=expected):
            segnets.segment(model, batch, preprocessing)
    with pytest.raises(ImageError, match=r"64x64 at the network's input, take at least 49\.2 GB"):
        segnets.preprocess(batch, Preprocessing(resize="none"))
