"""What a job uses of GPUs, by NVML, where a driver is there."""

from __future__ import annotations

import os
import time

from fourfold.foundation.compute.gpus import list_devices
from fourfold.foundation.compute.nvml import Device, Nvml, NvmlError, open_nvml


class Gpus:
    """The use of one attempt over its looks. What NVML does not tell of it is `None`."""

    def __init__(self, nvml: Nvml | str | None = None) -> None:
        opened = open_nvml() if nvml is None else nvml
        self._nvml = None if isinstance(opened, str) else opened
        self._devices = () if self._nvml is None else list_devices(self._nvml)[0]
        self._since_us: dict[str, int] = {}
        self._until_s = 0.0
        self._busy_s, self._memory_peak_bytes = 0.0, 0
        self._knows_us, self._knows_rates = True, True
        self.memory_bytes = 0
        """Held at the last look."""

    @property
    def is_there(self) -> bool:
        """Whether there is any GPU to look at."""
        return bool(self._devices)

    @property
    def busy_s(self) -> float | None:
        """Seconds of work of all GPUs together; unknown of an instance of a divided GPU."""
        return self._busy_s if self.is_there and self._knows_us and self._knows_rates else None

    @property
    def memory_peak_bytes(self) -> int | None:
        """The most that was held at a look."""
        return self._memory_peak_bytes if self.is_there and self._knows_us else None

    def look(self, age_s: float, pids: set[int]) -> None:
        """Add what these processes hold, and how busy they kept their GPUs since the last look.

        A driver that does not tell that by process tells it of the device: then one that is shared counts as
        busy whoever keeps it so. Processes that we cannot see (we are in a container, and NVML counts outside
        of it) may be ours: then nothing is known.
        """
        if self._nvml is None:
            return
        self.memory_bytes, took_s = 0, max(0.0, age_s - self._until_s)
        self._until_s = age_s
        for device in self._devices:
            try:
                held = self._nvml.memory_by_process(device)
            except NvmlError:
                self._knows_us = False
                continue
            ours = pids & held.keys()
            if not ours:
                self._knows_us &= all(os.path.exists(f"/proc/{pid}") for pid in held)
                continue
            self.memory_bytes += sum(held[pid] for pid in ours)
            try:
                self._busy_s += took_s * self._rate(self._nvml, device, ours, took_s)
            except NvmlError:
                self._knows_rates = False
        self._memory_peak_bytes = max(self._memory_peak_bytes, self.memory_bytes)

    def _rate(self, nvml: Nvml, device: Device, pids: set[int], took_s: float) -> float:
        since_us = self._since_us.get(device.uuid, int((time.time() - took_s) * 1e6))
        try:
            rates, self._since_us[device.uuid] = nvml.rates_by_process(device, since_us)
        except NvmlError:
            return nvml.rate(device)
        return min(1.0, sum(rate for pid, rate in rates.items() if pid in pids))
