"""Units are found as we may use them, and measured with what was counted."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path

import pytest

from fourfold.core.compute import Cache, Figure, FigureName
from fourfold.core.decide.measured import OF_A_GPU, OF_THE_STORE
from fourfold.core.errors import OutOfSpace
from fourfold.foundation.compute import bench, measure
from fourfold.foundation.compute.units import find_unit
from fourfold.testing.clock import MovableClock


def machine(root: Path, files: dict[str, str]) -> Path:
    basis = {
        "proc/cpuinfo": "processor: 0\nmodel name\t: Big Chip 9\n"
        + "".join(f"processor: {i}\n" for i in range(1, 8)),
        "proc/meminfo": "MemTotal:       33554432 kB\n",
        "sys/devices/system/cpu/cpu0/cache/index0/level": "1",
        "sys/devices/system/cpu/cpu0/cache/index0/size": "32K",
        "sys/devices/system/cpu/cpu0/cache/index0/type": "Data",
        "sys/devices/system/cpu/cpu0/cache/index3/level": "3",
        "sys/devices/system/cpu/cpu0/cache/index3/size": "16M",
        "sys/devices/system/cpu/cpu0/cache/index3/type": "Unified",
    }
    for name, text in {**basis, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_plain_machine_is_found_whole(tmp_path: Path) -> None:
    unit = find_unit(root=machine(tmp_path, {}))
    assert (unit.cores, unit.memory_bytes, unit.cpu_model) == (8, 32 << 30, "Big Chip 9")
    assert unit.last_level_cache_bytes == 16 << 20
    assert unit.limited_by == ()


def test_caches_are_found_by_level_and_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    cache = "sys/devices/system/cpu/cpu0/cache"
    files = {
        f"{cache}/index1/level": "1",
        f"{cache}/index1/size": "64K",
        f"{cache}/index1/type": "Instruction",
        f"{cache}/index2/level": "2",
        f"{cache}/index2/size": "unknown",
        f"{cache}/index2/type": "Unified",
    }
    unit = find_unit(root=machine(tmp_path, files))
    assert unit.caches == (
        Cache(1, "Data", 32 << 10),
        Cache(1, "Instruction", 64 << 10),
        Cache(3, "Unified", 16 << 20),
    )
    assert unit.last_level_cache_bytes == 16 << 20


def test_limits_of_cgroup_version_2_count_and_the_tightest_wins(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/team/job\n",
        "sys/fs/cgroup/team/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/team/job/cpu.max": "max 100000\n",
        "sys/fs/cgroup/team/memory.max": "max\n",
        "sys/fs/cgroup/team/job/memory.max": str(4 << 30),
    }
    unit = find_unit(root=machine(tmp_path, files))
    assert (unit.cores, unit.memory_bytes) == (1.5, 4 << 30)
    assert unit.limited_by == (
        "1.5 of 8 cores by the cgroup's quota",
        "4.0 GiB of 32.0 GiB by the cgroup's memory limit",
    )


def test_limits_of_cgroup_version_1_count_also_where_only_the_mount_is_seen(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 << 30),
        "sys/fs/cgroup/memory/docker/memory.limit_in_bytes": "9223372036854771712",
    }
    unit = find_unit(root=machine(tmp_path, files))
    assert (unit.cores, unit.memory_bytes) == (2, 2 << 30)


def test_equal_hardware_has_one_fingerprint_and_a_limit_changes_it(tmp_path: Path) -> None:
    plain = find_unit("a", root=machine(tmp_path / "a", {}))
    same = find_unit("b", root=machine(tmp_path / "b", {}))
    less = find_unit(
        "c",
        root=machine(
            tmp_path / "c", {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000"}
        ),
    )
    assert plain.fingerprint == same.fingerprint != less.fingerprint


def test_this_machine_is_found() -> None:
    unit = find_unit()
    assert unit.cores >= 0.1
    assert unit.memory_bytes > 64 << 20
    assert unit.architecture


@pytest.mark.slow
def test_a_quick_measurement_gives_every_figure(tmp_path: Path) -> None:
    seen: list[Figure] = []
    unit = find_unit()
    measured = bench.measure_unit(
        unit, folder=tmp_path, clock=MovableClock(), quick=True, progress=seen.append
    )
    assert {figure.name for figure in measured.figures} == set(FigureName) - OF_THE_STORE - OF_A_GPU
    assert {figure.name for figure in seen} <= set(FigureName)
    for figure in measured.figures:
        assert figure.value > 0
        assert figure.low <= figure.value <= figure.high
        assert figure.repeat_count >= 3
    assert measured.fingerprint == unit.fingerprint
    assert {"python", "numpy", "blas", "kernel"} <= set(measured.versions)
    assert measured.other_cores_busy >= 0
    assert list(tmp_path.iterdir()) == []  # nothing is left on the disk


def test_a_disk_without_room_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1 << 20

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(OutOfSpace, match=r"needs 64\.0 MiB free"):
        bench.measure_unit(find_unit(), folder=tmp_path, clock=MovableClock(), quick=True)


def test_repeats_are_bounded_below_and_above(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    assert len(measure.repeat(lambda: None, 0.0, least=3)) == 3
    assert len(measure.repeat(lambda: None, 1e9, most=7)) == 7
