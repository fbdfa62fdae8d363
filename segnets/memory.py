"""Memory that is available to this process, in the system and in its container."""

from __future__ import annotations

from pathlib import Path

from segnets.errors import ImageError

_ROOT = Path("/")
# Smaller batches are not checked: reading the system's files takes longer than the smallest network.
_CHECKED_FROM = 1 << 30


def check_batch_fits(count: int, height: int, width: int, channels: int, where: str = "at the network's input") -> None:
    """Check that a batch's float32 feature maps fit into memory. Otherwise, the system might kill the process.

    Args:
        count: Number of images.
        height: Height of the feature maps.
        width: Width of the feature maps.
        channels: Number of channels of all feature maps that are held at once.
        where: Place of the feature maps, for the message.

    Raises:
        ImageError: If they don't fit.
    """
    needed = 4 * count * channels * height * width
    if needed < _CHECKED_FROM:
        return
    free = available_memory()
    if free is not None and needed > free:
        raise ImageError(
            f"image: {count} images, {height}x{width} {where}, take at least {needed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free; segment fewer or smaller images at a time"
        )


def available_memory(root: Path = _ROOT) -> int | None:
    """Return the bytes that are available without swapping, or None if the system does not report them.

    In a container, its control groups (version 1 or 2) limit the result. Pages of files that were read long ago count
    as available.

    Args:
        root: Folder that holds `proc` and `sys`.
    """
    known = [_in_system(root), *_in_groups(root)]
    return min((each for each in known if each is not None), default=None)


def _in_system(root: Path) -> int | None:
    return _field(root / "proc/meminfo", "MemAvailable:", 1024)


def _in_groups(root: Path) -> list[int | None]:
    """Return the memory that each control group of the process leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left: list[int | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            left += _left(root / "sys/fs/cgroup", path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left += _left(root / "sys/fs/cgroup/memory", path, names)
    return left


def _left(mount: Path, path: str, names: tuple[str, str, str]) -> list[int | None]:
    """Return the memory left under the limits of a cgroup and its parents. In a container, `path` may be the host's."""
    limit_name, usage_name, inactive = names
    left: list[int | None] = []
    group = mount / path.strip("/")
    while True:
        limit, usage = _number(group / limit_name), _number(group / usage_name)
        if limit is not None and usage is not None:
            left.append(max(0, limit - usage + (_field(group / "memory.stat", inactive, 1) or 0)))
        if group == mount:
            return left
        group = group.parent


def _number(path: Path) -> int | None:
    """Return the number in a file; None for "max", which is no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str, unit: int) -> int | None:
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] == [name]:
                return int(words[1]) * unit
    except (OSError, ValueError, IndexError):
        pass
    return None
