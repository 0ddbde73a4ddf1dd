"""An imitation of NVIDIA's library, compiled from C: it answers about GPUs that are not there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = r"""
#include <string.h>
typedef struct { const char *name, *uuid; unsigned long long bytes; int major, minor, error, divided, rate;
                 int first, count; } Gpu;  /* first, count: its instances */
typedef struct { int device; unsigned pid; unsigned long long bytes; int rate; } Process;
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } Info;
typedef struct { unsigned pid; unsigned long long at; unsigned sm, mem, enc, dec; } Sample;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Rates;
@TABLES@
static Gpu *of(void *h) { return (Gpu *)h; }
int nvmlInit_v2(void) { return INIT; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = WHOLE; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) {
    if (i >= WHOLE) return 2;
    if (gpus[i].error) return gpus[i].error;
    *h = &gpus[i]; return 0; }
int nvmlDeviceGetName(void *h, char *out, unsigned n) { strncpy(out, of(h)->name, n); return 0; }
int nvmlDeviceGetUUID(void *h, char *out, unsigned n) { strncpy(out, of(h)->uuid, n); return 0; }
int nvmlDeviceGetMemoryInfo(void *h, Memory *m) { m->total = of(h)->bytes; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *h, int *a, int *b) {
    *a = of(h)->major; *b = of(h)->minor; return 0; }
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *later) {
    if (of(h)->divided < 0) return 3;
    *now = *later = of(h)->divided; return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *n) { (void)h; *n = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned i, void **out) {
    if ((int)i >= of(h)->count) return 6;
    *out = &gpus[of(h)->first + i]; return 0; }
int nvmlDeviceGetUtilizationRates(void *h, Rates *r) {
    if (of(h)->rate < 0) return 3;
    r->gpu = of(h)->rate; return 0; }
static int count_of(void *h) {
    int n = 0;
    for (int i = 0; i < PROCESSES; i++) n += &gpus[processes[i].device] == of(h);
    return n; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n, Info *out) {
    unsigned there = count_of(h), room = *n;
    *n = there;
    if (!there) return 0;
    if (room < there) return 7;
    for (int i = 0, k = 0; i < PROCESSES; i++) if (&gpus[processes[i].device] == of(h)) {
        out[k].pid = processes[i].pid; out[k++].memory = processes[i].bytes; }
    return 0; }
int nvmlDeviceGetProcessUtilization(void *h, Sample *out, unsigned *n, unsigned long long since) {
    unsigned there = count_of(h), room = *n;
    if (!SAMPLES) return 3;
    *n = there;
    if (!there) return 6;
    if (room < there) return 7;
    for (int i = 0, k = 0; i < PROCESSES; i++) if (&gpus[processes[i].device] == of(h)) {
        out[k].pid = processes[i].pid; out[k].at = since + 1000; out[k++].sm = processes[i].rate; }
    return 0; }
const char *nvmlErrorString(int code) { return code == 4 ? "Insufficient Permissions"
    : code == 9 ? "Driver Not Loaded" : code == 3 ? "Not Supported" : "Unknown Error"; }
"""


@dataclass(frozen=True)
class FakeGpu:
    name: str = "NVIDIA A100-SXM4-40GB"
    uuid: str = "GPU-0"
    memory_bytes: int = 40 << 30
    capability: tuple[int, int] = (8, 0)
    error: int = 0
    rate: int = 50
    """Percent; below zero it is not told."""
    instances: Sequence[FakeGpu] | None = None
    """Of a GPU in MIG mode."""


@dataclass(frozen=True)
class FakeProcess:
    uuid: str
    """Of the device that it is on."""
    pid: int
    memory_bytes: int
    rate: int = 0


@dataclass(frozen=True)
class FakeDriver:
    gpus: Sequence[FakeGpu] = ()
    processes: Sequence[FakeProcess] = ()
    init_error: int = 0
    tells_by_process: bool = True

    def library(self, folder: Path) -> str:
        """Compile it as `libnvidia-ml.so.1` in a folder; skips where there is no compiler."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("an imitation of NVML takes a C compiler: gcc or cc")
        folder.mkdir(parents=True, exist_ok=True)
        source, library = folder / "nvml.c", folder / "libnvidia-ml.so.1"
        source.write_text(SOURCE.replace("@TABLES@", self._tables()))
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        return str(library)

    def _tables(self) -> str:
        rows, flat = [], [*self.gpus]
        for gpu in self.gpus:
            instances = list(gpu.instances or ())
            rows.append(_row(gpu, len(flat), len(instances), -1 if gpu.instances is None else 1))
            flat += instances
        rows += [_row(each, 0, 0, 0) for each in flat[len(self.gpus) :]]
        at = {gpu.uuid: index for index, gpu in enumerate(flat)}
        processes = [
            f"{{{at[each.uuid]}, {each.pid}, {each.memory_bytes}ull, {each.rate}}}" for each in self.processes
        ]
        return "\n".join(
            (
                f"#define INIT {self.init_error}",
                f"#define WHOLE {len(self.gpus)}",
                f"#define PROCESSES {len(processes)}",
                f"#define SAMPLES {int(self.tells_by_process)}",
                f"static Gpu gpus[] = {{{', '.join(rows) or '{0}'}}};",
                f"static Process processes[] = {{{', '.join(processes) or '{0}'}}};",
            )
        )


def _row(gpu: FakeGpu, first: int, count: int, divided: int) -> str:
    major, minor = gpu.capability
    return (
        f'{{"{gpu.name}", "{gpu.uuid}", {gpu.memory_bytes}ull, {major}, {minor}, {gpu.error}, {divided}, '
        f"{gpu.rate}, {first}, {count}}}"
    )
