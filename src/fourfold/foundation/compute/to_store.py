"""Measuring the way to the project's store: blobs there and back, and how long a small one takes.

What is measured is what a step meets: whole blobs through the project's own client, digests included. Each
blob holds other bytes, is deleted once it was read back, and is cited by nobody: one that a killed process
left is garbage, which `fourfold storage gc` removes after its grace.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from fourfold.core.compute import Figure, FigureName
from fourfold.core.decide.measured import summed
from fourfold.core.errors import FourfoldError
from fourfold.core.ports.blobs import BlobStore

SMALL_BYTES = 4096
TRIAL_BYTES = 256 << 10
"""The first blob, by which the size of the others is set."""
MOST_BYTES = 16 << 20
"""Of one blob; at most `MOST_REPEATS` of them are sent and fetched, one at a time."""
LEAST_REPEATS = 3
MOST_REPEATS = 8
SMALL_REPEATS = 20
BUDGET_S, QUICK_BUDGET_S = 4.0, 0.8
"""What all of it takes where the store answers in time; a slow one gets blobs that fit. One that does not
answer is given up when the project's own client gives it up."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where the project's blobs lie, as a measurement has to know it."""

    name: str
    """Its address."""
    is_afar: bool
    """Whether it is reached over a network; else it is a folder of this machine."""
    open: Callable[[], BlobStore]


def measure_store(store: Store, *, quick: bool, tell: Callable[[Figure], None]) -> tuple[str, ...]:
    """Tell the figures of the store; what cannot be measured is said in the notes that come back."""
    notes = () if store.is_afar else (f"the store is a folder of this machine, {store.name}: {_NEAR}",)
    try:
        _measure(store.open(), QUICK_BUDGET_S if quick else BUDGET_S, tell)
    except FourfoldError as error:
        return (*notes, f"the store {store.name} was not measured to the end: {error.message}")
    return notes


_NEAR = "its figures are the disk's and the digests', and what is read back may come from memory"


def _measure(blobs: BlobStore, budget_s: float, tell: Callable[[Figure], None]) -> None:
    _there_and_back(blobs, SMALL_BYTES)  # connects
    small = _repeat(blobs, SMALL_BYTES, budget_s / 4, most=SMALL_REPEATS)
    for name, times in zip((FigureName.store_put_4k, FigureName.store_get_4k), small, strict=True):
        tell(summed(name, "ms", [seconds * 1e3 for seconds in times]))
    rate = TRIAL_BYTES / sum(_there_and_back(blobs, TRIAL_BYTES))
    size = int(min(MOST_BYTES, max(TRIAL_BYTES, rate * budget_s / 4)))
    large = _repeat(blobs, size, budget_s * 3 / 4, most=MOST_REPEATS)
    for name, times in zip((FigureName.store_up, FigureName.store_down), large, strict=True):
        tell(summed(name, "MB/s", [size / seconds / 1e6 for seconds in times]))


def _repeat(blobs: BlobStore, size_bytes: int, budget_s: float, *, most: int) -> tuple[list[float], ...]:
    """Seconds of each way there, and of each way back."""
    deadline = time.perf_counter() + budget_s
    there: list[float] = []
    back: list[float] = []
    while len(there) < LEAST_REPEATS or (len(there) < most and time.perf_counter() < deadline):
        there_s, back_s = _there_and_back(blobs, size_bytes)
        there.append(there_s)
        back.append(back_s)
    return there, back


def _there_and_back(blobs: BlobStore, size_bytes: int) -> tuple[float, float]:
    """Seconds to store a blob that is not there yet, and to read it back; it is gone afterwards."""
    data = os.urandom(size_bytes)
    began = time.perf_counter()
    digest = blobs.put(data)
    try:
        there = time.perf_counter()
        blobs.get(digest)
        return there - began, time.perf_counter() - there
    finally:
        blobs.delete(digest)
