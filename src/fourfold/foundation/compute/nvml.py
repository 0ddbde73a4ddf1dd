"""NVIDIA's management library, as little of it as we need, by ctypes.

The library comes with the driver, so where there is a GPU it is there, in whatever environment a step runs:
nothing has to be installed beside it. Standard library only; opened once per process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import Structure, byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
TEXT_BYTES = 96
ROOM = 5
"""More processes than were counted a moment ago."""
_NOT_FOUND, _INSUFFICIENT_SIZE = 6, 7
_NOT_AVAILABLE = 2**64 - 1

Handle = c_void_p


class NvmlError(Exception):
    """A call that NVML refused, in its own words."""


class _Memory(Structure):
    _fields_ = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class _Rates(Structure):
    _fields_ = [("gpu", c_uint), ("memory", c_uint)]


class _Process(Structure):
    _fields_ = [
        ("pid", c_uint),
        ("memory", c_ulonglong),
        ("gpu_instance", c_uint),
        ("compute_instance", c_uint),
    ]


class _Sample(Structure):
    _fields_ = [
        ("pid", c_uint),
        ("at_us", c_ulonglong),
        ("multiprocessors", c_uint),
        ("memory", c_uint),
        ("encoder", c_uint),
        ("decoder", c_uint),
    ]


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or an instance of one that is in MIG mode: what one process can be given."""

    index: int
    """Of the whole GPU, in the order of the bus."""
    handle: Handle
    name: str
    uuid: str
    memory_bytes: int
    capability: str
    """CUDA's compute capability, as `9.0`."""
    whole_uuid: str = ""
    """Of the GPU that an instance is a part of; else empty."""


class Nvml:
    """An open library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._call("nvmlInit_v2")

    def count(self) -> int:
        """How many whole GPUs the driver lets us see."""
        found = c_uint()
        self._call("nvmlDeviceGetCount_v2", byref(found))
        return found.value

    def devices(self, index: int) -> Iterator[Device]:
        """A GPU by its index or, where it is in MIG mode, its instances."""
        handle = Handle()
        self._call("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(handle))
        if not self._is_divided(handle):
            yield self._described(index, handle, handle)
            return
        most, whole = c_uint(), self._text("nvmlDeviceGetUUID", handle)
        self._call("nvmlDeviceGetMaxMigDeviceCount", handle, byref(most))
        for number in range(most.value):
            instance = Handle()
            try:
                self._call("nvmlDeviceGetMigDeviceHandleByIndex", handle, c_uint(number), byref(instance))
            except NvmlError:
                continue  # so many there may be, and not all are made
            yield self._described(index, instance, handle, whole_uuid=whole)

    def memory_by_process(self, device: Device) -> dict[int, int]:
        """Bytes that each process holds of it; 0 where that is not told."""
        count = c_uint(0)
        code = self._code("nvmlDeviceGetComputeRunningProcesses_v3", device.handle, byref(count), None)
        if code != _INSUFFICIENT_SIZE:
            self._check(code)
            return {}
        count.value += ROOM
        found = (_Process * count.value)()
        self._call("nvmlDeviceGetComputeRunningProcesses_v3", device.handle, byref(count), found)
        return {
            each.pid: 0 if each.memory == _NOT_AVAILABLE else each.memory for each in found[: count.value]
        }

    def rate(self, device: Device) -> float:
        """The share of the last moment in which any kernel ran on it, whoever's."""
        rates = _Rates()
        self._call("nvmlDeviceGetUtilizationRates", device.handle, byref(rates))
        return float(rates.gpu) / 100

    def rates_by_process(self, device: Device, since_us: int) -> tuple[dict[int, float], int]:
        """The mean share of its multiprocessors by process after a time, and the time of the last sample."""
        count, since = c_uint(0), c_ulonglong(since_us)
        name = "nvmlDeviceGetProcessUtilization"
        code = self._code(name, device.handle, None, byref(count), since)
        if code != _INSUFFICIENT_SIZE:
            if code != _NOT_FOUND:  # no sample since then
                self._check(code)
            return {}, since_us
        found = (_Sample * count.value)()
        self._call(name, device.handle, found, byref(count), since)
        told: dict[int, list[int]] = {}
        for sample in found[: count.value]:
            if sample.pid and sample.at_us > since_us:
                told.setdefault(sample.pid, []).append(sample.multiprocessors)
        last = max([since_us, *(sample.at_us for sample in found[: count.value])])
        return {pid: sum(each) / len(each) / 100 for pid, each in told.items()}, last

    # How.

    def _described(self, index: int, handle: Handle, whole: Handle, whole_uuid: str = "") -> Device:
        memory, major, minor = _Memory(), c_int(), c_int()
        self._call("nvmlDeviceGetMemoryInfo", handle, byref(memory))
        self._call("nvmlDeviceGetCudaComputeCapability", whole, byref(major), byref(minor))
        return Device(
            index,
            handle,
            name=self._text("nvmlDeviceGetName", handle),
            uuid=self._text("nvmlDeviceGetUUID", handle),
            memory_bytes=memory.total,
            capability=f"{major.value}.{minor.value}",
            whole_uuid=whole_uuid,
        )

    def _is_divided(self, handle: Handle) -> bool:
        current, after_reset = c_uint(), c_uint()
        try:
            self._call("nvmlDeviceGetMigMode", handle, byref(current), byref(after_reset))
        except NvmlError:  # most GPUs know no such mode
            return False
        return current.value == 1

    def _text(self, name: str, handle: Handle) -> str:
        buffer = ctypes.create_string_buffer(TEXT_BYTES)
        self._call(name, handle, buffer, c_uint(TEXT_BYTES))
        return buffer.value.decode(errors="replace")

    def _call(self, name: str, *arguments: object) -> None:
        self._check(self._code(name, *arguments))

    def _code(self, name: str, *arguments: object) -> int:
        try:
            function = getattr(self._library, name)
        except AttributeError:  # an older driver
            raise NvmlError(f"{name} is not there") from None
        return int(function(*arguments))

    def _check(self, code: int) -> None:
        if code == 0:
            return
        try:
            words = self._library.nvmlErrorString
            words.restype = c_char_p
            raise NvmlError(words(c_int(code)).decode(errors="replace"))
        except AttributeError:
            raise NvmlError(f"error {code}") from None


_opened: dict[str, Nvml | str] = {}


def open_nvml(path: str = LIBRARY) -> Nvml | str:
    """NVML, opened once per process, or in words why it cannot be."""
    if path not in _opened:
        try:
            _opened[path] = Nvml(ctypes.CDLL(path))
        except (OSError, NvmlError) as error:
            _opened[path] = str(error)
    return _opened[path]
