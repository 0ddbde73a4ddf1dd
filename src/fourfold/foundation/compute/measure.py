"""Measures the machine it runs on; started as a process of its own, once per number of threads.

`python -m fourfold.foundation.compute.measure '{"part": "arithmetic", "threads": 1, ...}'` writes one
line of JSON per figure as it comes, so the parent can show progress. It is a process of its own because the
number of a BLAS's threads is settled when it is loaded, and because arrays of gigabytes should not grow
the process of whoever asked.

What is counted. *Triad* (a = b + s·c): NumPy has no fused form, so it makes two passes, c·s into a, then
a + b into a; the program moves 16 and 24 bytes per element, 40 in all, and that is what we count. (The
processor may also fetch lines before it writes them; STREAM does not count that, nor do we.) *Arithmetic*:
2·n³ operations of a matrix product. *Disk*: through the file system in the project's folder, data forced
out by fsync, and read back after the cache was asked to forget it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fourfold.core import wire
from fourfold.core.compute import FigureName
from fourfold.core.decide.measured import summed

TRIAD_BYTES_PER_ELEMENT = 40


def main() -> None:
    request = json.loads(sys.argv[1])
    threads, budget_s = int(request["threads"]), float(request["budget_s"])
    if request["part"] == "arithmetic":
        suffix = "1_thread" if threads == 1 else "all_threads"
        triad(f"triad_{suffix}", threads, int(request["array_bytes"]), budget_s / 3)
        for name, kind in (("fp64", "float64"), ("fp32", "float32")):
            gemm(f"{name}_{suffix}", kind, int(request["matrix_side"]), budget_s / 3)
    else:
        disk(Path(request["folder"]), int(request["file_bytes"]), budget_s)


def triad(name: str, threads: int, array_bytes: int, budget_s: float) -> None:
    """Memory bandwidth in GB/s; each thread works on its own slice of the same three arrays."""
    import numpy as np

    count = array_bytes // 8
    a, b, c = np.zeros(count), np.full(count, 1.5), np.full(count, 2.5)
    bounds = [count * part // threads for part in range(threads + 1)]

    def pass_over(low: int, high: int) -> None:
        for start in range(low, high, 1 << 22):  # one call holds no lock, but never returns late either
            end = min(start + (1 << 22), high)
            np.multiply(c[start:end], 3.0, out=a[start:end])
        for start in range(low, high, 1 << 22):
            end = min(start + (1 << 22), high)
            np.add(a[start:end], b[start:end], out=a[start:end])

    def once() -> None:
        if threads == 1:
            pass_over(0, count)
            return
        workers = [
            threading.Thread(target=pass_over, args=(low, high)) for low, high in itertools.pairwise(bounds)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    times = repeat(once, budget_s)
    tell(name, "GB/s", [count * TRIAD_BYTES_PER_ELEMENT / seconds / 1e9 for seconds in times])


def gemm(name: str, kind: str, side: int, budget_s: float) -> None:
    """Arithmetic in GFLOP/s, by the product of two square matrices."""
    import numpy as np

    generator = np.random.default_rng(0)
    a = generator.random((side, side)).astype(kind)
    b = generator.random((side, side)).astype(kind)
    out = np.empty_like(a)
    times = repeat(lambda: np.matmul(a, b, out=out), budget_s)
    tell(name, "GFLOP/s", [2 * side**3 / seconds / 1e9 for seconds in times])


def disk(folder: Path, file_bytes: int, budget_s: float) -> None:
    """Write and fsync, small fsyncs, and read back."""
    block = os.urandom(1 << 20)  # random: a file system that compresses gains nothing
    deadline = time.perf_counter() + budget_s
    with tempfile.NamedTemporaryFile(dir=folder, prefix="bench-") as file:
        fd = file.fileno()

        def write() -> None:
            os.lseek(fd, 0, os.SEEK_SET)
            os.ftruncate(fd, 0)
            for _ in range(file_bytes >> 20):
                os.write(fd, block)
            os.fsync(fd)

        def read() -> None:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.lseek(fd, 0, os.SEEK_SET)
            while os.read(fd, 1 << 20):
                pass

        rates = repeat(write, budget_s * 0.5, warm_ups=0)
        tell("disk_write_fsync", "MB/s", [file_bytes / seconds / 1e6 for seconds in rates])
        rates = repeat(read, budget_s * 0.25, warm_ups=0)
        tell("disk_read", "MB/s", [file_bytes / seconds / 1e6 for seconds in rates])

        def small() -> None:
            os.lseek(fd, 0, os.SEEK_END)
            os.write(fd, block[:4096])
            os.fsync(fd)

        left_s = max(0.05, deadline - time.perf_counter())
        times = repeat(small, left_s, least=20, most=500, warm_ups=2)
        tell("fsync_4k", "ms", [seconds * 1e3 for seconds in times])


def repeat(
    once: Callable[[], Any], budget_s: float, *, least: int = 3, most: int = 15, warm_ups: int = 1
) -> list[float]:
    """Seconds of each of `least` to `most` repeats, as many as the budget allows."""
    for _ in range(warm_ups):
        once()
    deadline = time.perf_counter() + budget_s
    times: list[float] = []
    while len(times) < least or (len(times) < most and time.perf_counter() < deadline):
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return times


def tell(name: str, dimension: str, values: list[float]) -> None:
    """Write one figure."""
    sys.stdout.write(wire.encode(summed(FigureName(name), dimension, values)).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
