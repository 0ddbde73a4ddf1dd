"""What a job asks for, read from its words at any door: `@step`, a command, HTTP. One reader for all."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fourfold.core import words
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.figures import Speed
from fourfold.core.jobs import Resources, Spot
from fourfold.core.quantities import Range
from fourfold.core.times import duration_s

WORDS: Mapping[str, str] = {
    "cpu": "Cores: 2, 2-8, 2+.",
    "memory": "Memory: 4GiB, 4GiB-16GiB; the high end is a limit.",
    "gpu": 'GPUs: 2, a100:2:40GiB, "a100:2, capability>=8.0, bandwidth>=1.5TB/s, bf16>=300TFLOP/s".',
    "disk": 'Free room where its files are: 100GiB, "100GiB, write>=500MB/s".',
    "bandwidth": "Memory bandwidth of the whole unit, by triad: 50GB/s.",
    "flops": 'What the processors of the whole unit do: 500GFLOP/s (FP32), "fp64>=200GFLOP/s".',
    "arch": "Architecture: x86_64, aarch64.",
    "location": "Labels of places, any of which will do: eu-central-1, on-prem.",
    "spot": "Units that can be taken away: true (too), false (never), only.",
    "max_price": "Most that a whole unit may cost, in US dollars an hour: 2.50.",
    "time_limit": "The longest it may run: 30s, 10m, 2h.",
}
"""The words by name, each with what it means. A step calls the last one `timeout`."""


def read(given: Mapping[str, Any], *, who: str = "") -> Resources:
    """The request that these words make. A word that is `None` or empty is as if it were not there.

    >>> read({"cpu": "2-8", "memory": "16GiB", "gpu": "a100", "time_limit": "2h"}).cpu
    Range(low=2.0, high=8.0)
    >>> read({"memroy": "4GiB"}, who="service 'web'")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: service 'web' asks for 'memroy', which is not a word for resources
      did you mean 'memory'?
      words: arch, bandwidth, cpu, disk, flops, gpu, location, max_price, memory, spot, time_limit
    """
    for name in given:
        if name not in WORDS:
            raise Refused(
                f"{who} asks for '{name}', which is not a word for resources".strip(),
                ways_on=did_you_mean(name, WORDS, what="words"),
            )
    said = {name: value for name, value in given.items() if value is not None and value != ""}
    gpus = words.GpuWord.parse(said.get("gpu", 0))
    disk = words.DiskWord.parse(said.get("disk", 0))
    demands = (
        *words.bandwidth(said.get("bandwidth", 0)),
        *words.flops(said.get("flops", 0)),
        *disk.speeds,
        *gpus.speeds,
    )
    limit = said.get("time_limit")
    if limit is not None and not isinstance(limit, timedelta):
        limit = words.amount_of(limit, "time_limit", "write for example 30s, 10m, 2h")
    cores = words.amount_of(said.get("cpu", 1), "cpu", "write for example 2, 2-8 or 2+")
    memory = words.amount_of(said.get("memory", 0), "memory", "write for example 4GiB or 4GiB-16GiB")
    return Resources(
        cpu=Range.parse(cores, what="cpu"),
        memory_bytes=Range.parse(memory, what="memory", memory=True),
        gpu=gpus.count,
        gpu_name=gpus.name,
        time_limit_s=None if limit is None else duration_s(limit),
        max_price_usd_per_hour=words.price_usd_per_hour(said.get("max_price")),
        gpu_memory_bytes=gpus.memory_bytes,
        arch=words.architecture(said.get("arch", "")),
        disk_bytes=disk.size_bytes,
        speeds=demands,
        locations=words.locations(said.get("location", "")),
        spot=words.spot(said.get("spot")),
    )


def written(asked: Resources) -> dict[str, str]:
    """The words of a request, as `read` takes them: those that ask for something.

    >>> written(read({"cpu": 2, "disk": "1GiB, write>=1GB/s", "spot": True}))
    {'cpu': '2', 'disk': '1073741824B, write>=1000MB/s', 'spot': 'allowed'}
    """
    gpus = words.GpuWord(
        asked.gpu,
        asked.gpu_name,
        asked.gpu_memory_bytes,
        tuple(each for each in asked.speeds if each.speed.is_of_gpu),
    )
    disk = words.DiskWord(asked.disk_bytes, asked.speeds)
    nothing = Resources()
    price, limit_s = asked.max_price_usd_per_hour, asked.time_limit_s
    found = {
        "cpu": asked.cpu.text() if asked.cpu != nothing.cpu else "",
        "memory": asked.memory_bytes.text("B") if asked.memory_bytes != nothing.memory_bytes else "",
        "gpu": str(gpus) if gpus != words.GpuWord() else "",
        "disk": str(disk) if str(disk) != str(words.DiskWord()) else "",
        "bandwidth": next(
            (words.speed_text(each) for each in asked.speeds if each.speed is Speed.bandwidth), ""
        ),
        "flops": words.flops_text(asked.speeds),
        "arch": asked.arch,
        "location": ", ".join(asked.locations),
        "spot": asked.spot.value if asked.spot is not Spot.unsaid else "",
        "max_price": "" if price is None else repr(price),
        "time_limit": "" if limit_s is None else f"{limit_s!r}s",
    }
    return {name: text for name, text in found.items() if text}
