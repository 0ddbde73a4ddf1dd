"""The GPUs that a process may use: NVML's, no more than `CUDA_VISIBLE_DEVICES` names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fourfold.core.compute import Gpu
from fourfold.foundation.compute.nvml import LIBRARY, Device, Nvml, NvmlError, open_nvml

VISIBLE = "CUDA_VISIBLE_DEVICES"


def find_gpus(
    environ: Mapping[str, str], *, root: Path = Path("/"), library: str = LIBRARY
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The GPUs, or instances of divided ones, and in words why there are fewer than the machine has."""
    files = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in root.glob("dev/nvidia*"))
    nvml = open_nvml(library)
    if isinstance(nvml, str):
        return (), (f"none of {_gpus(files)} in /dev: NVML does not open ({nvml})",) if files else ()
    found, why = list_devices(nvml)
    seen = len({device.index for device in found}) + len(why)
    if files > seen:
        why = (*why, f"{seen} of {_gpus(files)} in /dev: the driver does not show the rest")
    usable = visible(found, environ.get(VISIBLE))
    if len(usable) < len(found):
        why = (*why, f"{len(usable)} of {_gpus(len(found))} by {VISIBLE}")
    return (
        tuple(Gpu(each.name, each.memory_bytes, each.uuid, each.capability) for each in usable),
        why,
    )


def list_devices(nvml: Nvml) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """All devices that answer, and of those that do not, what NVML says."""
    found: list[Device] = []
    why: list[str] = []
    try:
        count = nvml.count()
    except NvmlError as error:
        return (), (f"NVML does not count GPUs: {error}",)
    for index in range(count):
        try:
            found += list(nvml.devices(index))
        except NvmlError as error:
            why.append(f"GPU {index} does not answer: {error}")
    return tuple(found), tuple(why)


def visible(devices: Sequence[Device], named: str | None) -> tuple[Device, ...]:
    """The devices that CUDA would let a process use, in its order.

    As CUDA reads it: indices, or UUIDs that may be cut short; what follows a name that fits no device, or
    more than one, is not looked at, and one that is named twice spoils them all. An index of a divided GPU is
    its first instance. Indices are the bus's, as with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    """
    if named is None:
        return tuple(devices)
    chosen: list[Device] = []
    for word in (each.strip() for each in named.split(",")):
        if word.isascii() and word.isdecimal():
            fitting = [each for each in devices if each.index == int(word)][:1]
        else:
            fitting = [each for each in devices if word and each.uuid.startswith(word)]
        if len(fitting) != 1:
            break
        chosen += fitting
    return tuple(chosen) if len({each.uuid for each in chosen}) == len(chosen) else ()


def _gpus(count: int) -> str:
    return f"{count} {'GPU' if count == 1 else 'GPUs'}"
