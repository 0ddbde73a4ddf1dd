"""Measuring a unit: starts the measuring processes, watches who else was busy, and sums up."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from fourfold.catalog.ids import new_id
from fourfold.core import wire
from fourfold.core.compute import Figure, FigureName, Measurement, Unit
from fourfold.core.errors import OutOfSpace, TimedOut, Unavailable
from fourfold.core.ports.clock import Clock
from fourfold.core.quantities import bytes_text
from fourfold.foundation.compute.apart import Bystanders, lines_of, versions_here
from fourfold.foundation.compute.to_store import Store, measure_store

PATIENCE_S = 60.0
"""A part that takes longer is ended: the machine is stuck, or far too busy to be measured."""
MOST_ARRAY_BYTES = 1 << 30

Progress = Callable[[Figure], None]


def measure_unit(
    unit: Unit,
    *,
    folder: Path,
    clock: Clock,
    quick: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure this machine, its disk in `folder` and its way to the `store`. About 20 s, 4 s when `quick`.

    `progress` is called with each figure as it comes.
    """
    threads = max(1, int(unit.cores))
    array_bytes, notes = _array_bytes(unit, quick=quick)
    file_bytes = (32 if quick else 128) << 20
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 2 * file_bytes:
        raise OutOfSpace(f"measuring the disk needs {bytes_text(2 * file_bytes)} free in {folder}")
    arithmetic: dict[str, object] = {
        "part": "arithmetic",
        "array_bytes": array_bytes,
        "matrix_side": 768 if quick else 1536,
        "budget_s": 0.25 if quick else 4.0,
    }
    disk: dict[str, object] = {
        "part": "disk",
        "threads": 1,
        "folder": str(folder),
        "file_bytes": file_bytes,
        "budget_s": 0.3 if quick else 3.0,
    }
    parts = [{**arithmetic, "threads": 1}]
    if threads > 1:
        parts.append({**arithmetic, "threads": threads})
    parts.append(disk)

    at, bystanders = clock.now(), Bystanders()
    figures: list[Figure] = []

    def tell(figure: Figure) -> None:
        figures.append(figure)
        if progress is not None:
            progress(figure)

    for part in parts:
        for figure in _run(part):
            tell(figure)
    if unit.gpus:
        notes += _measure_gpu(unit, quick=quick, tell=tell)
    if store is not None:
        with bystanders.this_process_measures():
            notes += measure_store(store, quick=quick, tell=tell)
    if threads == 1:
        figures += [_same_for_all(figure) for figure in figures if figure.name.endswith("_1_thread")]
    return Measurement(
        id=new_id("bench"),
        unit=unit.name,
        fingerprint=unit.fingerprint,
        at=at,
        duration_s=bystanders.duration_s,
        is_quick=quick,
        figures=tuple(sorted(figures, key=lambda figure: list(FigureName).index(figure.name))),
        versions={**versions_here(unit.machine), **({"store": store.name} if store else {})},
        other_cores_busy=bystanders.cores_busy(),
        notes=notes,
    )


def _measure_gpu(unit: Unit, *, quick: bool, tell: Progress) -> tuple[str, ...]:
    """Tell the figures of the first GPU, where PyTorch is installed; else say so."""
    if importlib.util.find_spec("torch") is None:
        return ("the GPU was not measured: PyTorch is not installed here",)
    part: dict[str, object] = {
        "device": "cuda",
        "array_bytes": min(1 << 30, unit.gpus[0].memory_bytes // 8),
        "matrix_side": 2048 if quick else 8192,
        "budget_s": 1.0 if quick else 5.0,
    }
    try:
        for line in lines_of("measure_gpu", part, threads=1, patience_s=PATIENCE_S):
            tell(wire.decode(line, Figure, what="a measured figure"))
    except (Unavailable, TimedOut) as error:
        return (f"the GPU was not measured to the end: {error.message}",)
    return ("the GPU's figures are those of the first",) if len(unit.gpus) > 1 else ()


def _array_bytes(unit: Unit, *, quick: bool) -> tuple[int, tuple[str, ...]]:
    """The size of each of three arrays: four times the last cache, if memory allows."""
    wanted = max(4 * unit.last_level_cache_bytes, 64 << 20)
    allowed = min(_available_bytes(unit) // 8, MOST_ARRAY_BYTES, (128 << 20) if quick else MOST_ARRAY_BYTES)
    if allowed >= wanted:
        return wanted, ()
    short = f"arrays of {bytes_text(allowed)}, less than four times the last cache"
    return allowed, (f"memory bandwidth may be flattered: {short}",)


def _available_bytes(unit: Unit) -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = unit.memory_bytes // 2
    return min(free, unit.memory_bytes)


def _run(part: dict[str, object]) -> Iterator[Figure]:
    threads = int(str(part["threads"]))
    for line in lines_of("measure", part, threads=threads, patience_s=PATIENCE_S):
        yield wire.decode(line, Figure, what="a measured figure")


def _same_for_all(figure: Figure) -> Figure:
    return replace(figure, name=FigureName(figure.name.replace("_1_thread", "_all_threads")))
