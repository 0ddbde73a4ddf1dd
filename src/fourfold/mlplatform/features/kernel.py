"""Aggregations and latest values at many times at once: numpy in, numpy out.

Events are sorted once by (key, time, available, id). A window is then a range of events, and the latest
event the end of a range. Two facts make the answers right as well as quick:

- A float is never subtracted (a prefix sum would lose small values behind large ones, and NaN would
  stick). Ranges are answered by a *disjoint sparse table*: for each power of two, running totals from
  the middle of each block outwards, so that any range is the merge of two of them.
- An event counts only if it was *known* (`available_at <= t`, or `sequence <= watermark`). Of the events
  before t, the long prefix that was certainly known is one range. The rest, a short tail, is cut into
  blocks of powers of two, each sorted by when it became known, with running totals in that order.

The road not taken: a range join in DuckDB (its cost grows with events × windows: `benchmarks/features.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]

Merge = Literal["add", "least", "greatest"]


@dataclass(frozen=True, slots=True)
class Events:
    """Events of one source for one entity, sorted by (key, time, available, id).

    `known` is when each became known, in whatever measure the queries bound it (time or sequence).
    """

    keys: Ints
    times: Ints
    known: Ints


@dataclass(frozen=True, slots=True)
class Queries:
    """Where to look: a key (-1: no such key), a time, and how much was known."""

    keys: Ints
    times: Ints
    known: Ints


@dataclass(frozen=True, slots=True)
class Pieces:
    """Blocks of 2**level events of which only the first few that became known count."""

    level: int
    rows: Ints
    """The queries that these blocks belong to."""
    blocks: Ints
    known: Ints
    """How many of the block's events count, in the order in which they became known; at least one."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """For each query, the events `[start, stop)`, all of which count, and pieces of those after them."""

    start: Ints
    stop: Ints
    pieces: tuple[Pieces, ...]


class Timeline:
    """Sorted events, ready to be asked."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.count = len(events.keys)
        self._times = np.unique(events.times)
        self._stride = len(self._times) + 1
        self._places = events.keys * self._stride + np.searchsorted(self._times, events.times)
        order = np.argsort(events.known, kind="stable")
        self._known_sorted = events.known[order]
        self._known_rank = np.empty(self.count, np.int64)
        self._known_rank[order] = np.arange(self.count)
        self._known_until = _running_greatest(events.keys, self._known_rank)
        self._levels: dict[int, tuple[Ints, Ints]] = {}

    def first_at_or_after(self, keys: Ints, times: Ints) -> Ints:
        """The index of the first event of each key at or after each time."""
        return np.searchsorted(self._places, keys * self._stride + np.searchsorted(self._times, times))

    def ranges(self, queries: Queries, starts: Ints, stops: Ints) -> Ranges:
        """The events of each query's key with `starts <= time < stops`."""
        start = self.first_at_or_after(queries.keys, starts)
        stop = np.maximum(start, self.first_at_or_after(queries.keys, stops))
        rank = np.searchsorted(self._known_sorted, queries.known, side="right")
        first = np.searchsorted(self._places, queries.keys * self._stride)
        tail = first + self._known_prefix(queries.keys, rank, first)
        tail = np.clip(tail, start, stop)
        return Ranges(start, tail, tuple(self._pieces(tail, stop, rank)))

    def _known_prefix(self, keys: Ints, rank: Ints, first: Ints) -> Ints:
        """How many of the key's first events were all known by `rank`."""
        place = keys * (self.count + 1) + rank
        return np.searchsorted(self._known_until, place) - first

    def _pieces(self, start: Ints, stop: Ints, rank: Ints) -> Iterator[Pieces]:
        """Cut each `[start, stop)` into blocks of powers of two, from both ends inwards."""
        rows = np.flatnonzero(start < stop)
        low, high, rank = start[rows], stop[rows], rank[rows]
        level = 0
        while len(rows):
            left = np.flatnonzero(low & 1)
            right = np.flatnonzero(high & 1 & (high > low + (low & 1)))
            blocks = np.concatenate((low[left], high[right] - 1))
            if len(blocks):
                chosen = np.concatenate((left, right))
                _, places = self._by_known(level)
                known = np.searchsorted(places, blocks * (self.count + 1) + rank[chosen]) - (blocks << level)
                some = np.flatnonzero(known > 0)
                if len(some):
                    yield Pieces(level, rows[chosen[some]], blocks[some], known[some])
            low, high = (low + 1) >> 1, high >> 1
            on = np.flatnonzero(low < high)
            rows, low, high, rank = rows[on], low[on], high[on], rank[on]
            level += 1

    def _by_known(self, level: int) -> tuple[Ints, Ints]:
        """The events by (block of 2**level, when known), and `block * (n + 1) + rank` in that order."""
        if level not in self._levels:
            block = np.arange(self.count) >> level
            place = block * (self.count + 1) + self._known_rank
            order = np.argsort(place)
            self._levels[level] = order, place[order]
        return self._levels[level]

    def latest(self, queries: Queries) -> Ints:
        """The index of each query's newest known event at or before its time; -1 where there is none."""
        first = np.searchsorted(self._places, queries.keys * self._stride)
        stop = self.first_at_or_after(queries.keys, queries.times + 1)
        rank = np.searchsorted(self._known_sorted, queries.known, side="right")
        found = _last_below(self._known_rank, rank, stop)
        return np.where((found >= first) & (queries.keys >= 0), found, -1)

    def fold(self, values: Numbers, merge: Merge, ranges: Ranges) -> Numbers:
        """The values of each range merged; the merge's zero where a range is empty."""
        answer = np.full(len(ranges.start), _zero(merge, values.dtype), values.dtype)
        _fold_ranges(values, merge, ranges.start, ranges.stop, answer)
        self._fold_pieces(values, merge, ranges, answer)
        return answer

    def _fold_pieces(self, values: Numbers, merge: Merge, ranges: Ranges, answer: Numbers) -> None:
        rule = _rule(merge)
        with np.errstate(invalid="ignore", over="ignore"):
            for piece in ranges.pieces:
                order, _ = self._by_known(piece.level)
                running = _running_totals(values[order], merge, 1 << piece.level)
                found = running[(piece.blocks << piece.level) + piece.known - 1]
                # `at`, because a query may have two blocks of one size: one from either end.
                rule.at(answer, piece.rows, found)

    def count_true(self, flags: Truths, ranges: Ranges) -> Ints:
        """How many flags of each range are set. Integers may be subtracted, so prefix sums do."""
        before = np.concatenate(([0], np.cumsum(flags, dtype=np.int64)))
        answer = before[ranges.stop] - before[ranges.start]
        self._fold_pieces(flags.astype(np.int64), "add", ranges, answer)
        return answer

    def sum_wide(self, values: Ints, ranges: Ranges) -> tuple[Ints, Ints]:
        """Exact sums of integers as `high * 2**32 + low`: 64 bits could overflow on the way."""
        high, low = values >> 32, values & 0xFFFFFFFF
        return self._sum_ints(high, ranges), self._sum_ints(low, ranges)

    def _sum_ints(self, values: Ints, ranges: Ranges) -> Ints:
        before = np.concatenate(([0], np.cumsum(values)))
        answer = before[ranges.stop] - before[ranges.start]
        self._fold_pieces(values, "add", ranges, answer)
        return answer


def sort_order(keys: Ints, times: Ints, available: Ints, ids: Callable[[], Sequence[Numbers]]) -> Ints:
    """The order by (key, time, available, id); ids are asked for only where the rest is equal."""
    order = np.lexsort((available, times, keys))
    k, t, a = keys[order], times[order], available[order]
    if np.any((k[1:] == k[:-1]) & (t[1:] == t[:-1]) & (a[1:] == a[:-1])):
        order = np.lexsort((*reversed(ids()), available, times, keys))
    return order


def _zero(merge: Merge, kind: np.dtype[Any]) -> Any:
    """What changes nothing when merged. A least value starts at NaN, which every number replaces."""
    if merge == "add":
        return 0
    if kind.kind == "f":
        return np.nan if merge == "least" else -np.inf
    limits = np.iinfo(kind)
    return limits.max if merge == "least" else limits.min


def zero(merge: Merge, values: Numbers) -> Any:
    """The value that an event which does not count must bring to `fold`."""
    return _zero(merge, values.dtype)


def _rule(merge: Merge) -> Any:
    # fmin passes over NaN and maximum keeps it: NaN is the greatest value, as in DuckDB.
    return {"add": np.add, "least": np.fmin, "greatest": np.maximum}[merge]


def _running_greatest(keys: Ints, ranks: Ints) -> Ints:
    """`key * (n + 1) + the greatest rank so far within the key`: ascending, so it can be searched."""
    place = keys * (len(keys) + 1) + ranks
    # Keys ascend, so the running maximum over everything never carries over from one key to the next.
    return np.maximum.accumulate(place) if len(place) else place


def _fold_ranges(values: Numbers, merge: Merge, start: Ints, stop: Ints, answer: Numbers) -> None:
    """Merge each `[start, stop)` into `answer` by disjoint sparse tables, one level at a time."""
    rule = _rule(merge)
    with np.errstate(invalid="ignore", over="ignore"):
        single = np.flatnonzero(stop - start == 1)
        answer[single] = rule(answer[single], values[start[single]])
        many = np.flatnonzero(stop - start > 1)
        if not len(many):
            return
        first, last = start[many], stop[many] - 1
        level = np.frexp((first ^ last).astype(np.float64))[1] - 1  # the highest bit in which they differ
        by_level = np.argsort(level, kind="stable")
        bounds = np.searchsorted(level[by_level], np.arange(level.max() + 2))
        for k in range(level.max() + 1):
            chosen = by_level[bounds[k] : bounds[k + 1]]
            if len(chosen):
                table = _outward_totals(values, merge, k)
                merged = rule(table[first[chosen]], table[last[chosen]])
                answer[many[chosen]] = rule(answer[many[chosen]], merged)


def _outward_totals(values: Numbers, merge: Merge, level: int) -> Numbers:
    """In each block of 2**(level+1), running totals from its middle to the left and to the right."""
    half = 1 << level
    blocks = -(-len(values) // (2 * half))
    padded = np.full(blocks * 2 * half, _zero(merge, values.dtype), values.dtype)
    padded[: len(values)] = values
    table = padded.reshape(blocks, 2, half)
    rule = _rule(merge)
    table[:, 0, ::-1] = rule.accumulate(table[:, 0, ::-1], axis=1)
    table[:, 1] = rule.accumulate(table[:, 1], axis=1)
    return padded


def _running_totals(values: Numbers, merge: Merge, size: int) -> Numbers:
    """Running totals that start anew at each block of `size` values."""
    blocks = -(-len(values) // size)
    padded = np.full(blocks * size, _zero(merge, values.dtype), values.dtype)
    padded[: len(values)] = values
    totals: Numbers = _rule(merge).accumulate(padded.reshape(blocks, size), axis=1).ravel()
    return totals


def _last_below(ranks: Ints, bound: Ints, stop: Ints) -> Ints:
    """For each query the greatest index below `stop` whose rank is below `bound`; -1 where none is.

    A tree of least ranks: climb from `stop` leftwards until a block holds one, then descend into it.
    """
    levels = [ranks]
    while len(levels[-1]) > 1:
        level = levels[-1]
        if len(level) % 2:
            level = np.append(level, np.iinfo(np.int64).max)
        levels.append(np.minimum(level[0::2], level[1::2]))
    found = np.full(len(stop), -1, np.int64)
    depth = np.full(len(stop), -1, np.int64)
    position = stop.copy()
    for k, level in enumerate(levels):
        asking = np.flatnonzero((depth < 0) & ((position >> k) & 1 == 1))
        block = (position[asking] >> k) - 1
        holds = level[block] < bound[asking]
        hit = asking[holds]
        found[hit], depth[hit] = block[holds], k
        position[asking[~holds]] -= 1 << k
    for k in range(len(levels) - 1, 0, -1):
        inside = np.flatnonzero(depth >= k)
        right = found[inside] * 2 + 1
        below = levels[k - 1]
        has_right = right < len(below)
        is_right = has_right & (below[np.where(has_right, right, 0)] < bound[inside])
        found[inside] = np.where(is_right, right, right - 1)
    return found
