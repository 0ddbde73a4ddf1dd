"""A control group around each container, which outlives it and so still tells what it used.

podman removes a container's own group at its end. This needs podman's manager `cgroupfs` and the right to
make groups; elsewhere use is not known.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PARENT = "fourfold-containers"
VERSION_1 = ("cpuacct", "memory")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a container has used; `None` where the kernel does not tell."""

    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    oom_kills: int | None = None
    """Only version 2 counts those of groups below."""


def made(name: str, root: Path = ROOT) -> str:
    """Make a container's group; its path for `--cgroup-parent`, or "" where none can be made."""
    folders = _folders(name, root)
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove(name, root)
        return ""
    return f"/{PARENT}/{name}" if folders else ""


def reading(name: str, root: Path = ROOT) -> Reading:
    """What its group tells, also after its end."""
    if (root / "cgroup.controllers").exists():
        folder = root / PARENT / name
        used, kills = _field(folder / "cpu.stat", "usage_usec"), _field(folder / "memory.events", "oom_kill")
        return Reading(None if used is None else used / 1e6, _number(folder / "memory.peak"), kills)
    used = _number(root / "cpuacct" / PARENT / name / "cpuacct.usage")
    peak = _number(root / "memory" / PARENT / name / "memory.max_usage_in_bytes")
    return Reading(None if used is None else used / 1e9, peak)


def remove(name: str, root: Path = ROOT) -> None:
    """Remove a group in which nothing runs; podman may have put it under controllers that we do not read."""
    one = (root / "cgroup.controllers").exists()
    bases = [root] if one else [each for each in root.glob("*") if each.is_dir() and not each.is_symlink()]
    for base in bases:
        with contextlib.suppress(OSError):
            (base / PARENT / name).rmdir()


def _folders(name: str, root: Path) -> list[Path]:
    if (root / "cgroup.controllers").exists():
        return [root / PARENT / name]
    if all((root / each).is_dir() for each in VERSION_1):
        return [root / each / PARENT / name for each in VERSION_1]
    return []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str) -> int | None:
    try:
        return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
