"""Finding what this machine lets us use: cores, memory, caches, graphics processors.

A container or a cgroup often gives less than the machine has; what counts is what we may use.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from fourfold.core.compute import Cache, Unit
from fourfold.core.quantities import bytes_text
from fourfold.foundation.compute.gpus import find_gpus

_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 for "no limit"


def find_unit(name: str = "local", *, root: Path = Path("/")) -> Unit:
    """The unit that this process runs on. `root` stands for `/` in tests.

    >>> unit = find_unit()
    >>> unit.cores > 0 and unit.memory_bytes > 0
    True
    """
    limited_by: list[str] = []
    cores = float(len(os.sched_getaffinity(0))) if root == Path("/") else float(_cpu_count(root))
    built_in = _cpu_count(root)
    if cores < built_in:
        limited_by.append(f"{cores:g} of {built_in} cores by the affinity mask")
    quota = _cpu_quota(root)
    if quota is not None and quota < cores:
        limited_by.append(f"{quota:g} of {cores:g} cores by the cgroup's quota")
        cores = quota
    memory = _memory_total(root)
    limit = _memory_limit(root)
    if limit is not None and limit < memory:
        limited_by.append(f"{bytes_text(limit)} of {bytes_text(memory)} by the cgroup's memory limit")
        memory = limit
    caches = _caches(root)
    gpus, fewer = find_gpus(os.environ) if root == Path("/") else ((), ())
    limited_by += fewer
    return Unit(
        name=name,
        cores=cores,
        memory_bytes=memory,
        cpu_model=_cpu_model(root),
        architecture=platform.machine(),
        last_level_cache_bytes=next(
            (cache.size_bytes for cache in reversed(caches) if cache.kind != "Instruction"), 0
        ),
        gpus=gpus,
        limited_by=tuple(limited_by),
        caches=caches,
        machine=platform.node(),
    )


def _cpu_count(root: Path) -> int:
    lines = _read(root / "proc/cpuinfo").splitlines()
    return sum(line.startswith("processor") for line in lines) or os.cpu_count() or 1


def _cpu_model(root: Path) -> str:
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor()


def _memory_total(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _caches(root: Path) -> tuple[Cache, ...]:
    """The caches of the first core, by level. A virtual machine tells what its host lets it see."""
    found = []
    for index in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        size = re.fullmatch(r"(\d+)([KMG]?)", _read(index / "size").strip())
        level = _read(index / "level").strip()
        if size is not None and level.isdigit():
            count = int(size[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[size[2]]
            found.append(Cache(int(level), _read(index / "type").strip(), count))
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.kind)))


def _cpu_quota(root: Path) -> float | None:
    """Cores by the tightest cgroup quota above us; `None` without one."""
    quotas = []
    for folder in _cgroup_folders(root, "cpu"):
        words = _read(folder / "cpu.max").split()  # v2: "150000 100000" or "max 100000"
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")  # v1
        if quota and period and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory_limit(root: Path) -> int | None:
    """Bytes by the tightest cgroup limit above us; `None` without one."""
    limits = []
    for folder in _cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit() and int(text) < _UNLIMITED:
                limits.append(int(text))
    return min(limits, default=None)


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Our cgroup and all above it, of version 2 and of this controller in version 1."""
    folders = []
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            bases = [mounts / controllers, mounts / controller]
        else:
            continue
        for base in bases:
            here = base / path.lstrip("/")
            # Inside a container the path may be the host's and not exist here: the mount itself is ours.
            folders += [folder for folder in (here, *here.parents) if folder.is_relative_to(base)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
