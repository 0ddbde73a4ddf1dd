"""What the online store keeps of one entity for one view, and how it answers at a time t.

A state holds raw events from the *horizon* on (and a little before, to whole tiles), sorted by (time,
available, id), and tiles of partial aggregates before it, one list for each hop. The horizon is the
newest event's time minus the view's lag: a read at t >= horizon is exact, whatever the order in which
events came; an earlier one is refused as too old. Since no such read looks inside a closed tile, a tile
never leaks an event at or after t.

A record is the state as bytes behind a *head*: the feature values of the next moment and how long they
hold. Most reads need only the head.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from fourfold.core.decide.windows import closed_until_us, oldest_event_us, oldest_tile_us, start_us
from fourfold.core.features import EXACT_HOP_US, Kind, Scalar, Status, View, Window
from fourfold.mlplatform.features.expressions import Evaluate, compile_row, parse
from fourfold.mlplatform.features.offline import feature_kinds, input_kinds

FOREVER = (1 << 63) - 1
NEVER = -(1 << 63)
_MOST = 1 << 63


class Event(NamedTuple):
    """One event as a view sees it; the first three order it."""

    time: int
    known: int
    id: bytes
    inputs: tuple[Any, ...]
    """What each window input gains from it; `None` for nothing."""
    latest: tuple[Any, ...]


class Partial(NamedTuple):
    """What some values of one input come to: the intermediate form of all five aggregates."""

    n: int
    total: Any
    least: Any
    greatest: Any


Tiles = list[dict[int, list[Partial | None]]]
"""By hop: a tile's start to a partial per input."""


@dataclass(slots=True)
class State:
    """One entity's raw events and tiles."""

    horizon: int
    events: list[Event] = field(default_factory=list)
    tiles: Tiles = field(default_factory=list)


class Reading(NamedTuple):
    """A view's values at a time, and the first later time at which they may differ if nothing comes."""

    values: tuple[Scalar, ...]
    statuses: tuple[Status, ...] | None
    """`None` when all are present."""
    until: int


class Program:
    """A view compiled for the online side: lift events, apply them, evaluate at t, pack and unpack."""

    def __init__(self, view: View, kinds: dict[str, Kind]) -> None:
        self.view = view
        self.columns = tuple(sorted(kinds))
        self.kinds = feature_kinds(view, kinds)
        self.key_kinds = tuple(kinds[key] for key in view.entity.keys)
        self.prefix = bytes.fromhex(view.version)
        self._inputs = list(dict.fromkeys((w.column, w.where) for w in view.windows))
        self._lifts = [self._lift(column, where, kinds) for column, where in self._inputs]
        self._latest = [self.columns.index(latest.column) for latest in view.latest]
        self._hops = sorted({w.hop_us for w in view.windows if w.hop_us != EXACT_HOP_US})
        self._spans = list(dict.fromkeys((w.length_us, w.hop_us) for w in view.windows))
        self._finals = [
            (
                self._spans.index((w.length_us, w.hop_us)),
                self._inputs.index((w.column, w.where)),
                _final(w, self.kinds[w.name]),
            )
            for w in view.windows
        ]
        features = list(input_kinds(view, kinds))
        self._expressions: list[Evaluate] = [compile_row(parse(e.sql), features) for e in view.expressions]
        self._names = view.feature_names
        self.unknown = self._unknown()
        self.null_key = self._all_null(Status.missing)

    # -- events in

    def lift(self, row: Sequence[Any], *, time: int, known: int, id: bytes) -> Event:  # noqa: A002
        """An event from a source row (values in the order of `columns`)."""
        return Event(
            time, known, id, tuple([lift(row) for lift in self._lifts]), tuple([row[i] for i in self._latest])
        )

    def apply(self, state: State, events: Sequence[Event], *, newest: int) -> list[bool]:
        """Put events into the state and move its horizon; says of each whether it can matter to any read."""
        if not state.tiles:
            state.tiles = [{} for _ in self._hops]
        effects = [self._insert(state, event) for event in events]
        self._advance(state, newest - self.view.lag_us)
        return effects

    def _insert(self, state: State, event: Event) -> bool:
        matters = False
        for hop, tiles in zip(self._hops, state.tiles, strict=True):
            if event.time < closed_until_us(state.horizon, hop):
                tile = event.time - event.time % hop
                if tile >= oldest_tile_us(state.horizon, self.view.windows, hop):
                    _add(tiles, tile, event.inputs)
                    matters = True
        if self._is_kept(state, event):
            insort(state.events, event, key=_order)
            matters = True
        return matters

    def _is_kept(self, state: State, event: Event) -> bool:
        if event.time >= oldest_event_us(state.horizon, self.view.windows):
            return True
        if not self._latest:
            return False
        base = bisect_right(state.events, state.horizon, key=_time)
        return base == 0 or _order(event) > _order(state.events[base - 1])

    def _advance(self, state: State, horizon: int) -> None:
        if horizon <= state.horizon:
            return
        for hop, tiles in zip(self._hops, state.tiles, strict=True):
            first = bisect_left(state.events, closed_until_us(state.horizon, hop), key=_time)
            last = bisect_left(state.events, closed_until_us(horizon, hop), key=_time)
            for event in state.events[first:last]:
                _add(tiles, event.time - event.time % hop, event.inputs)
            oldest = oldest_tile_us(horizon, self.view.windows, hop)
            for start in [start for start in tiles if start < oldest]:
                del tiles[start]
        state.horizon = horizon
        keep = bisect_left(state.events, oldest_event_us(horizon, self.view.windows), key=_time)
        if self._latest:  # the newest event at the horizon stays: reads at the horizon need it
            keep = min(keep, max(bisect_right(state.events, horizon, key=_time) - 1, 0))
        del state.events[:keep]

    # -- values out

    def evaluate(self, state: State, t: int) -> Reading:
        """The features at t over everything in the state."""
        if t < state.horizon:
            return self._all_null(Status.too_old)
        values: list[Any] = []
        statuses: list[Status] = []
        until = self._next_event(state, t)
        if self._latest:
            until = min(until, self._read_latest(state, t, values, statuses))
        spans = []
        for length, hop in self._spans:
            partials, oldest = self._merge(state, t, length, hop)
            spans.append(partials)
            if oldest is not None:
                until = min(until, oldest + length + (hop or 1))
        for span, place, final in self._finals:
            value, status = final(spans[span][place])
            values.append(value)
            statuses.append(status)
        self._finish(values, statuses)
        return Reading(tuple(values), _statuses(statuses), until)

    def _next_event(self, state: State, t: int) -> int:
        """When the next event changes something: one at t itself enters windows a microsecond later."""
        place = bisect_left(state.events, t, key=_time)
        if place == len(state.events):
            return FOREVER
        return max(state.events[place].time, t + 1)

    def _read_latest(self, state: State, t: int, values: list[Any], statuses: list[Status]) -> int:
        place = bisect_right(state.events, t, key=_time)
        if place == 0:
            values.extend([None] * len(self._latest))
            statuses.extend([Status.missing] * len(self._latest))
            return FOREVER
        newest = state.events[place - 1]
        ttl_us = self.view.ttl_us
        if ttl_us and t - newest.time > ttl_us:
            values.extend([None] * len(self._latest))
            statuses.extend([Status.expired] * len(self._latest))
            return FOREVER
        values.extend(newest.latest)
        statuses.extend([Status.present] * len(self._latest))
        return newest.time + ttl_us + 1 if ttl_us else FOREVER

    def _merge(self, state: State, t: int, length: int, hop: int) -> tuple[list[Partial | None], int | None]:
        """Each input over `[start, t)`, and the start of the oldest thing in it (to whole hops)."""
        start = start_us(t, Window("", "count", "", length, hop))
        parts: list[list[Partial | None]] = []
        oldest: int | None = None
        if hop == EXACT_HOP_US:
            first = bisect_left(state.events, start, key=_time)
        else:
            closed = closed_until_us(state.horizon, hop)
            if start < closed and state.tiles:
                inside = [
                    (tile, p) for tile, p in state.tiles[self._hops.index(hop)].items() if tile >= start
                ]
                parts = [partials for _, partials in inside]
                oldest = min((tile for tile, _ in inside), default=None)
            first = bisect_left(state.events, max(start, closed), key=_time)
        last = bisect_left(state.events, t, key=_time)
        lifted = [event.inputs for event in state.events[first:last]]
        merged = [
            _merge_all([p for partials in parts if (p := partials[i]) is not None], [x[i] for x in lifted])
            for i in range(len(self._inputs))
        ]
        if oldest is None and first < last:
            oldest = state.events[first].time
            oldest -= oldest % hop if hop else 0
        return merged, oldest

    def _finish(self, values: list[Any], statuses: list[Status]) -> None:
        inputs = list(values)
        for evaluate in self._expressions:
            value = evaluate(inputs)
            values.append(value)
            statuses.append(Status.missing if value is None else Status.present)

    def _unknown(self) -> Reading:
        """What is said of an entity without any event: counts are 0."""
        reading = self.evaluate(State(NEVER, [], [{} for _ in self._hops]), 0)
        return Reading(reading.values, (Status.missing,) * len(self._names), FOREVER)

    def _all_null(self, status: Status) -> Reading:
        values: list[Any] = [None] * (len(self._names) - len(self._expressions))
        self._finish(values, [])
        if status is Status.too_old:
            values = [None] * len(self._names)
        return Reading(tuple(values), (status,) * len(self._names), FOREVER)

    # -- bytes

    def pack(self, state: State, *, revision: int, now: int) -> bytes:
        """The record: four bytes of the head's length, the head, the state."""
        past = bisect_right(state.events, now, key=_time)
        start = max(state.events[past - 1].time + 1 if past else NEVER, state.horizon)
        reading = self.evaluate(state, start)
        codes = None if reading.statuses is None else bytes(_CODES[s] for s in reading.statuses)
        head = _HEAD.encode((revision, start, reading.until, reading.values, codes))
        tiles, is_wide = _packed_tiles(state.tiles)
        body = _BODY.encode((state.horizon, state.events, tiles, is_wide))
        return len(head).to_bytes(4, "little") + head + body

    def head(self, record: bytes | memoryview) -> tuple[int, int, int, tuple[Scalar, ...], bytes | None]:
        """The record's revision, and the values that hold from (included) until (excluded)."""
        size = int.from_bytes(record[:4], "little")
        return _READ_HEAD.decode(record[4 : 4 + size])

    def state(self, record: bytes | memoryview) -> State:
        """The state of a record."""
        size = int.from_bytes(record[:4], "little")
        horizon, events, tiles, is_wide = _READ_BODY.decode(record[4 + size :])
        return State(horizon, events, _unpacked_tiles(tiles) if is_wide else tiles)

    # -- compiling

    def _lift(self, column: str, where: str, kinds: dict[str, Kind]) -> Callable[[Sequence[Any]], Any]:
        holds = compile_row(parse(where), self.columns) if where else None
        is_number = not column or kinds[column] is not Kind.string
        index = self.columns.index(column) if column else None

        def lift(row: Sequence[Any]) -> Any:
            if holds is not None and holds(row) is not True:
                return None
            if index is None:
                return 1
            value = row[index]
            if value is None:
                return None
            if value is True or value is False:
                return int(value)
            return value if is_number else 1  # texts are only counted

        return lift


STATUSES = tuple(Status)
_CODES = {status: code for code, status in enumerate(STATUSES)}
_HEAD = msgspec.msgpack.Encoder()
_BODY = msgspec.msgpack.Encoder()
_READ_HEAD = msgspec.msgpack.Decoder(tuple[int, int, int, tuple[Any, ...], bytes | None])
_READ_BODY = msgspec.msgpack.Decoder(
    tuple[int, list[Event], list[dict[int, list[Partial | None]]], bool],
)


def decode_statuses(codes: bytes | None, count: int) -> tuple[Status, ...]:
    """The statuses behind a head."""
    return (Status.present,) * count if codes is None else tuple([STATUSES[code] for code in codes])


def _time(event: Event) -> int:
    return event.time


def _order(event: Event) -> tuple[int, int, bytes]:
    return event.time, event.known, event.id


def _packed_tiles(tiles: Tiles) -> tuple[Tiles, bool]:
    """Tiles as msgpack can hold them (sums beyond 64 bits as text), and whether there is such a sum."""
    is_wide = any(
        type(p.total) is int and not -_MOST <= p.total < _MOST
        for level in tiles
        for partials in level.values()
        for p in partials
        if p is not None
    )
    return (_with_totals(tiles, int, str) if is_wide else tiles), is_wide


def _unpacked_tiles(tiles: Tiles) -> Tiles:
    return _with_totals(tiles, str, int)


def _with_totals(tiles: Tiles, kind: type, to: Callable[[Any], Any]) -> Tiles:
    """The tiles with every total of this type turned into another."""
    return [
        {
            start: [
                p._replace(total=to(p.total)) if p is not None and type(p.total) is kind else p
                for p in partials
            ]
            for start, partials in level.items()
        }
        for level in tiles
    ]


def _statuses(statuses: list[Status]) -> tuple[Status, ...] | None:
    return None if all(status is Status.present for status in statuses) else tuple(statuses)


# -- the algebra: zero is None, then lift, merge, finalise ------------------------------------------------


def _add(tiles: dict[int, list[Partial | None]], tile: int, inputs: tuple[Any, ...]) -> None:
    before = tiles.get(tile) or [None] * len(inputs)
    tiles[tile] = [_grow(partial, x) for partial, x in zip(before, inputs, strict=True)]


def _grow(partial: Partial | None, x: Any) -> Partial | None:
    if x is None:
        return partial
    if partial is None:
        return Partial(1, x, x, x)
    n, total, least, greatest = partial
    return Partial(n + 1, total + x, _least(least, x), _greatest(greatest, x))


def _merge_two(a: Partial | None, b: Partial | None) -> Partial | None:
    if a is None or b is None:
        return a or b
    return Partial(a.n + b.n, a.total + b.total, _least(a.least, b.least), _greatest(a.greatest, b.greatest))


def _merge_all(partials: list[Partial], values: list[Any]) -> Partial | None:
    """Tiles and raw values merged; nulls are passed over."""
    xs = [x for x in values if x is not None]
    if not partials and not xs:
        return None
    total = sum(xs) if not partials else sum([p.total for p in partials], sum(xs))
    if total != total:  # a NaN somewhere, or infinities of both signs: one by one, minding NaN's order
        merged = functools.reduce(_merge_two, partials, None)
        return functools.reduce(_grow, xs, merged)
    return Partial(
        len(xs) + sum([p.n for p in partials]),
        total,
        min([*xs, *[p.least for p in partials]]),
        max([*xs, *[p.greatest for p in partials]]),
    )


def _least(a: Any, b: Any) -> Any:
    """NaN is greater than any number, so it is the least only of itself."""
    return b if b < a or a != a else a


def _greatest(a: Any, b: Any) -> Any:
    return b if b > a or b != b else a


def _final(window: Window, kind: Kind) -> Callable[[Partial | None], tuple[Any, Status]]:
    """From a partial to the value and its status."""
    present, missing = Status.present, Status.missing
    match window.function:
        case "count":
            return lambda p: (0 if p is None else p.n, present)
        case "sum":
            return _final_sum
        case "mean":
            return lambda p: (None, missing) if p is None else (p.total / p.n, present)
        case "min":
            return lambda p: (None, missing) if p is None else (_extreme(p.least, kind), present)
        case "max":
            return lambda p: (None, missing) if p is None else (_extreme(p.greatest, kind), present)


def _final_sum(partial: Partial | None) -> tuple[Any, Status]:
    if partial is None:
        return None, Status.missing
    total = partial.total
    if type(total) is int and not -_MOST <= total < _MOST:
        return None, Status.overflow
    return total, Status.present


def _extreme(value: Any, kind: Kind) -> Any:
    return bool(value) if kind is Kind.bool else value
