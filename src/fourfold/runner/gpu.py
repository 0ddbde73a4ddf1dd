"""What a job uses of GPUs, by NVML where `nvidia-ml-py` is installed (extra `gpu`) and a driver is there."""

from __future__ import annotations

import contextlib
import importlib.util
from typing import Any

_nvml: Any = None
_is_looked_for = False


def nvml() -> Any:
    """NVML, opened once per process; `None` where it cannot be."""
    global _nvml, _is_looked_for
    if not _is_looked_for:
        _is_looked_for = True
        if importlib.util.find_spec("pynvml") is not None:
            import pynvml

            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                _nvml = pynvml
    return _nvml


class Gpus:
    """The use of one attempt over its looks."""

    def __init__(self) -> None:
        self.busy_s: float | None = None
        self.memory_peak_bytes: int | None = None
        self._until_s = 0.0
        self._devices: list[Any] = []
        library = nvml()
        if library is not None:
            with contextlib.suppress(library.NVMLError):
                count = library.nvmlDeviceGetCount()
                self._devices = [library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]

    def look(self, age_s: float, pids: set[int]) -> None:
        """Add what these processes hold, and how busy the GPUs that they are on were since the last look.

        A GPU shared with others counts as busy whoever keeps it so: NVML's rate is the device's.
        """
        library = nvml()
        if library is None or not self._devices:
            return
        held, rate = 0, 0.0
        for device in self._devices:
            with contextlib.suppress(library.NVMLError):
                ours = [
                    process
                    for process in library.nvmlDeviceGetComputeRunningProcesses(device)
                    if process.pid in pids
                ]
                if ours:
                    held += sum(process.usedGpuMemory or 0 for process in ours)
                    rate += library.nvmlDeviceGetUtilizationRates(device).gpu / 100
        self.busy_s = (self.busy_s or 0.0) + rate * max(0.0, age_s - self._until_s)
        self._until_s = age_s
        self.memory_peak_bytes = max(self.memory_peak_bytes or 0, held)
