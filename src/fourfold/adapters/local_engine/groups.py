"""Control groups of jobs, where any can be made: memory held by the kernel, and every process known.

Version 1 needs a memory hierarchy that may be written (root, as a rule), version 2 a subtree that was
delegated with its memory controller. Where neither is, jobs go without, and their memory is polled.
Standard library only: keepers use it too.
"""

from __future__ import annotations

import contextlib
import os
from binascii import crc32
from collections.abc import Mapping

PROBE = "fourfold-probe"


def find_place(
    own: str = "/proc/self/cgroup", mountinfo: str = "/proc/self/mountinfo"
) -> dict[str, str] | None:
    """The folders in which groups of jobs can be made, by hierarchy; `None` where there are none.

    `memory` and `cpuacct` of version 1, or `both` of version 2.
    """
    mounts = _mounts(mountinfo)
    paths = _own_paths(own)
    memory = _folder(mounts.get("memory"), paths.get("memory"))
    if memory and _can_make(memory, "memory.limit_in_bytes"):
        cpuacct = _folder(mounts.get("cpuacct"), paths.get("cpuacct"))
        usable = cpuacct and _can_make(cpuacct, "cpuacct.usage")
        return {"memory": memory, **({"cpuacct": cpuacct} if usable else {})}
    own_folder = _folder(mounts.get(""), paths.get(""))
    for folder in filter(None, (own_folder, os.path.dirname(own_folder))):
        if not _read(f"{folder}/cgroup.controllers").split().count("memory"):
            continue
        # Refused by the kernel while processes live in the folder itself: then its parent is tried.
        with contextlib.suppress(OSError):
            _write(f"{folder}/cgroup.subtree_control", "+memory")
        if _can_make(folder, "memory.max"):
            return {"both": folder}
    return None


class Group:
    """The group of one job, or of one of its nodes."""

    def __init__(self, place: Mapping[str, str], name: str) -> None:
        self._memory = f"{place.get('memory') or place['both']}/{name}"
        self._cpu = f"{place.get('cpuacct') or place.get('both') or ''}/{name}"
        self._is_v2 = "both" in place
        self.folders = [self._memory] + ([self._cpu] if "cpuacct" in place else [])
        self._has_cpu = self._is_v2 or "cpuacct" in place

    def make(self, memory_limit: float | None) -> None:
        """Make it, and hold its memory. Raises `OSError` where the kernel refuses."""
        for folder in self.folders:
            with contextlib.suppress(FileExistsError):  # left by one who was killed: it is empty by now
                os.mkdir(folder)
        if memory_limit is None:
            return
        limit = str(int(memory_limit))
        if self._is_v2:
            _write(f"{self._memory}/memory.max", limit)
            for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                with contextlib.suppress(OSError):
                    _write(f"{self._memory}/{file}", value)
        else:
            _write(f"{self._memory}/memory.limit_in_bytes", limit)
            with contextlib.suppress(OSError):  # a kernel without swap accounting
                _write(f"{self._memory}/memory.memsw.limit_in_bytes", limit)

    def join(self) -> None:
        """Move the calling process in; what it starts stays in."""
        for folder in self.folders:
            _write(f"{folder}/cgroup.procs", "0")

    def pids(self) -> list[int]:
        """Every process in it, also one that forked away and wiped its environment."""
        return [int(word) for word in _read(f"{self._memory}/cgroup.procs").split()]

    def memory_bytes(self) -> int:
        """Its resident memory: its own pages and the mapped files that it brought in, each counted once."""
        names = ("anon", "file_mapped") if self._is_v2 else ("total_rss", "total_mapped_file")
        lines = _read(f"{self._memory}/memory.stat").splitlines()
        return sum(int(value) for name, _, value in (line.partition(" ") for line in lines) if name in names)

    def cpu_s(self) -> float | None:
        """Time of its processors so far, also that of children for whom nobody waited."""
        if not self._has_cpu:
            return None
        if self._is_v2:
            for line in _read(f"{self._memory}/cpu.stat").splitlines():
                if line.startswith("usage_usec "):
                    return int(line.split()[1]) / 1e6
            return None
        text = _read(f"{self._cpu}/cpuacct.usage")
        return int(text) / 1e9 if text else None

    def oom_kills(self) -> int:
        """How many of its processes the kernel ended for want of memory."""
        file = "memory.events" if self._is_v2 else "memory.oom_control"
        for line in _read(f"{self._memory}/{file}").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def disk_wait_s(self) -> float | None:
        """How long some of its processes waited for the disk; version 2 tells it, where it is switched on."""
        if self._is_v2:
            for line in _read(f"{self._memory}/io.pressure").splitlines():
                if line.startswith("some "):
                    return int(line.rpartition("=")[2]) / 1e6
        return None

    def remove(self) -> None:
        """Remove it; one that still holds a process stays."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    @property
    def is_gone(self) -> bool:
        """Whether it has been removed."""
        return not any(os.path.isdir(folder) for folder in self.folders)


def name_of(folder: str) -> str:
    """A job's name among all groups of this machine, from its folder."""
    parent, name = os.path.split(folder)
    return f"{crc32(parent.encode(errors='surrogateescape')):08x}-{name}"


def of_job(place: Mapping[str, str] | None, name: str, nodes: int) -> list[Group]:
    """The groups of a job, one for each of its nodes; none where none can be made."""
    return [] if place is None else [Group(place, f"fourfold-{name}-{rank}") for rank in range(nodes)]


def left_by(place: Mapping[str, str] | None, name: str) -> list[Group]:
    """The groups of a job that are still there, whoever made them."""
    if place is None:
        return []
    folder, start = place.get("memory") or place["both"], f"fourfold-{name}-"
    try:
        found = [entry for entry in os.listdir(folder) if entry.startswith(start)]
    except OSError:
        return []
    return [Group(place, entry) for entry in sorted(found)]


def _own_paths(file: str) -> dict[str, str]:
    """Our place in each hierarchy, by controller; version 2's under ''."""
    found = {}
    for line in _read(file).splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _mounts(file: str) -> dict[str, tuple[str, str]]:
    """Where each hierarchy is mounted, and which of its folders that is; version 2's under ''."""
    found: dict[str, tuple[str, str]] = {}
    for line in _read(file).splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("", (point, root))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, (point, root))
    return found


def _folder(mount: tuple[str, str] | None, path: str | None) -> str:
    """Our own folder in a hierarchy. In a container the path may be the host's, and only the mount ours."""
    if mount is None or path is None:
        return ""
    point, root = mount
    relative = os.path.relpath(path, root) if path.startswith(root) else "."
    folder = os.path.normpath(os.path.join(point, relative))
    return folder if os.path.isdir(folder) else point


def _can_make(folder: str, needed: str) -> bool:
    probe = f"{folder}/{PROBE}-{os.getpid()}"
    try:
        os.mkdir(probe)
    except OSError:
        return False
    can = os.access(f"{probe}/{needed}", os.R_OK)
    with contextlib.suppress(OSError):
        os.rmdir(probe)
    return can


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
