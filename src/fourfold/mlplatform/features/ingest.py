"""Events into the online store: each once, with a sequence number, to every view of the source at once.

One commit of the store holds everything that an event changes: its id and number in `seen`, the records
of its entities, the watermark, and the event itself in the buffer if it still has to reach its table.
So after a crash an event is in all of them or in none, and pushing it again is harmless.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from fourfold.core.decide.windows import oldest_event_us, oldest_tile_us
from fourfold.core.features import EXACT_HOP_US, Source
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.online import OnlineReader, OnlineStore, OnlineWriter, Space
from fourfold.core.wire import encode
from fourfold.mlplatform.features.columns import KeyCodes, encode_keys, ints, store_key
from fourfold.mlplatform.features.kernel import Ints, Truths
from fourfold.mlplatform.features.state import NEVER, Event, Program, State

CHUNK_EVENTS = 50_000
"""Events that a materialisation applies in one commit: it bounds how long a push waits for it."""

_WATERMARK = b"watermark"
_STAMP = b"stamp"
_READY = b"ready/"
_NUMBER = struct.Struct("<q")
_PLACE = struct.Struct(">Q")


@dataclass(slots=True)
class Counts:
    """What became of a source's events so far; kept in the store."""

    applied: int = 0
    duplicates: int = 0
    null_keys: int = 0
    too_late: int = 0
    newest: int = NEVER
    """The greatest event time that was not in the future when it came."""
    newest_known: int = NEVER
    buffered: int = 0
    format: int = 1


@dataclass(frozen=True, slots=True)
class Feed:
    """The views that a source's events go to, as known when the store's stamp was this."""

    source: Source
    programs: tuple[Program, ...]
    stamp: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How many events of a source were applied, and the watermark, at one moment."""

    applied: int
    watermark: int


class Batch:
    """Events ready to be applied: columns in their kinds' types, and the events' ids."""

    def __init__(self, source: Source, table: pa.Table, ids: list[bytes | None]) -> None:
        self.source = source
        self.table = table
        self.ids = ids
        self._values: dict[str, list[Any]] = {}

    def take(self, rows: Sequence[int]) -> Batch:
        return Batch(
            self.source, self.table.take(pa.array(rows, pa.int64())), [self.ids[row] for row in rows]
        )

    @functools.cached_property
    def times(self) -> Ints:
        return ints(self.table.column(self.source.time))

    @functools.cached_property
    def known(self) -> Ints:
        return ints(self.table.column(self.source.known))

    def values(self, column: str) -> list[Any]:
        """A column as a list, made once for all views that read it."""
        if column not in self._values:
            self._values[column] = self.table.column(column).to_pylist()
        return self._values[column]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one `apply` did. `fresh` are the rows that were new."""

    fresh: list[int]
    duplicates: int
    null_keys: int
    too_late: int
    watermark: int


def source_id(source: Source) -> bytes:
    """Six bytes that name a source by what identifies its events."""
    meaning = (source.table, source.time, source.known, source.event_id)
    return hashlib.sha256(encode(meaning)).digest()[:6]


def batch_of(source: Source, table: pa.Table) -> Batch:
    """Events from a table of the source's columns, in their normal types."""
    return Batch(source, table, encode_keys([table.column(column) for column in source.event_id]))


class Ingest:
    """The writing side of the online store."""

    def __init__(self, store: OnlineStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def apply(
        self, batch: Batch, feed: Feed, *, record: pa.Table | None = None, history_until: int | None = None
    ) -> Outcome | None:
        """Apply new events in one commit, and put these rows of `record` into the buffer with them.

        `None`, and nothing done, if other views are to be fed than `feed` says. With `history_until` the
        events are part of a table whose newest event happened then: those that no view needs after it are
        passed over and do not count as late.
        """
        source = batch.source
        with self._store.write() as writer:
            if self.stamp(writer) != feed.stamp:
                return None
            counts = self._counts(writer, source)
            fed = self._fed(writer, feed, counts)
            is_history = history_until is not None
            if history_until is not None:
                counts.newest = max(counts.newest, min(history_until, self._clock.now()))
            outcome = self._apply(writer, batch, fed, counts, is_history=is_history)
            if record is not None and outcome.fresh:
                rows = record.take(pa.array(outcome.fresh, pa.int64()))
                first = outcome.watermark - len(outcome.fresh) + 1
                writer.put(Space.buffer, source_id(source) + _PLACE.pack(first), _ipc(rows))
                counts.buffered += len(outcome.fresh)
            self._put_counts(writer, source, counts)
        return outcome

    def backfill(
        self, batch: Batch, program: Program, *, since: Progress, prepare: Callable[[pa.Table], Batch]
    ) -> bool:
        """Build a view that came after its events from all that were seen, in one commit; then it is fed.

        `since` is the source's progress before the caller read the batch from its table. Events that came
        since are taken from the buffer; if one is not there (it was pushed without being recorded, or has
        moved on), nothing is done and the answer is `False`.
        """
        source = batch.source
        mine = source_id(source)
        with self._store.write() as writer:
            parts = [batch, *(prepare(_read_ipc(value)) for _, value in writer.scan(Space.buffer, mine))]
            chosen: dict[bytes, None] = {}
            came_since = 0
            taken = []
            for part in parts:
                rows = []
                for row, event in enumerate(part.ids):
                    found = None if event is None else writer.get(Space.seen, mine + store_key(event))
                    if event is None or found is None or event in chosen:
                        continue
                    chosen[event] = None
                    came_since += _number(found) > since.watermark
                    rows.append(row)
                taken.append(part.take(rows))
            counts = self._counts(writer, source)
            if came_since != counts.applied - since.applied:
                return False
            whole = Batch(
                source,
                pa.concat_tables(part.table for part in taken),
                [event for part in taken for event in part.ids],
            )
            for key in [key for key, _ in writer.scan(Space.state, program.prefix)]:
                writer.delete(Space.state, key)
            self._feed(writer, whole, program, counts.newest, self.watermark(writer), is_history=True)
            writer.put(Space.meta, _ready(source, program), b"1")
            self._bump(writer)
        return True

    def needs_backfill(self, reader: OnlineReader, program: Program) -> bool:
        """Whether events were seen that this view has not been fed."""
        source = program.view.source
        is_ready = reader.get(Space.meta, _ready(source, program)) is not None
        return not is_ready and self._counts(reader, source).applied > 0

    def stamp(self, reader: OnlineReader) -> int:
        """A number that changes whenever definitions, or the views that are fed, may have changed."""
        return _number(reader.get(Space.meta, _STAMP))

    def redefine(self, gone: Iterable[Source] = ()) -> None:
        """Tell every process that definitions changed. Views of sources that are gone are fed no more."""
        with self._store.write() as writer:
            for source in gone:
                for key in [key for key, _ in writer.scan(Space.meta, _READY + source_id(source))]:
                    writer.delete(Space.meta, key)
            self._bump(writer)

    def forget(self, feed: Feed) -> None:
        """Drop what was applied of a source, as if no event had come yet; sequence numbers go on.

        Its buffer has to be flushed before: what is only there would never come again.
        """
        mine = source_id(feed.source)
        with self._store.write() as writer:
            for space, prefix in (
                (Space.seen, mine),
                (Space.meta, _READY + mine),
                *((Space.state, program.prefix) for program in feed.programs),
            ):
                for key in [key for key, _ in writer.scan(space, prefix)]:
                    writer.delete(space, key)
            buffered = self._counts(writer, feed.source).buffered
            self._put_counts(writer, feed.source, Counts(buffered=buffered))
            self._bump(writer)

    def watermark(self, reader: OnlineReader) -> int:
        """The sequence number of the last event applied; 0 before the first."""
        return _number(reader.get(Space.meta, _WATERMARK))

    def counts(self, source: Source) -> Counts:
        """What became of the source's events."""
        with self._store.read() as reader:
            return self._counts(reader, source)

    def progress(self, source: Source) -> Progress:
        """How far the source is now."""
        with self._store.read() as reader:
            return Progress(self._counts(reader, source).applied, self.watermark(reader))

    def sequences(self, source: Source, ids: Iterable[bytes | None]) -> list[int | None]:
        """The sequence number of each event; `None` for one that was not applied."""
        mine = source_id(source)
        with self._store.read() as reader:
            found = [None if e is None else reader.get(Space.seen, mine + store_key(e)) for e in ids]
            return [None if value is None else _number(value) for value in found]

    def flush(self, source: Source, append: Callable[[pa.Table, str], object]) -> int:
        """Move buffered events to the table by `append(rows, key)`; returns how many.

        The range to move is written down first: after a crash the same rows are appended under the same
        key, which the table store recognises.
        """
        mine = source_id(source)
        moved = 0
        while True:
            with self._store.write() as writer:
                planned = writer.get(Space.meta, _flushing(mine))
                if planned is None:
                    keys = [key for key, _ in writer.scan(Space.buffer, mine)]
                    if not keys:
                        return moved
                    planned = keys[-1]
                    writer.put(Space.meta, _flushing(mine), planned)
                last = bytes(planned)
            with self._store.read() as reader:
                parts = [(key, value) for key, value in reader.scan(Space.buffer, mine) if key <= last]
            tables = [_read_ipc(value) for _, value in parts]
            if tables:
                rows = pa.concat_tables(tables, promote_options="default")
                append(rows, f"features/{mine.hex()}/{parts[0][0].hex()}-{last.hex()}")
                moved += len(rows)
            with self._store.write() as writer:
                gone = sum(writer.delete(Space.buffer, key) for key, _ in parts)
                counts = self._counts(writer, source)
                if gone:
                    counts.buffered -= sum(len(table) for table in tables)
                self._put_counts(writer, source, counts)
                if bytes(writer.get(Space.meta, _flushing(mine)) or b"") == last:  # else it is another's plan
                    writer.delete(Space.meta, _flushing(mine))

    # -- inside one commit

    def _apply(
        self,
        writer: OnlineWriter,
        batch: Batch,
        programs: Sequence[Program],
        counts: Counts,
        *,
        is_history: bool,
    ) -> Outcome:
        watermark = self.watermark(writer)
        fresh, duplicates, incomplete = self._number(writer, batch, watermark)
        part = batch if len(fresh) == len(batch.ids) else batch.take(fresh)
        times, known = part.times, part.known
        now = self._clock.now()
        counts.newest = max(counts.newest, int(times[times <= now].max(initial=NEVER)))
        counts.newest_known = max(counts.newest_known, int(known.max(initial=NEVER)))
        watermark += len(fresh)
        writer.put(Space.meta, _WATERMARK, _NUMBER.pack(watermark))
        matters = np.zeros(len(fresh), bool) if programs else np.ones(len(fresh), bool)
        is_null = np.zeros(len(fresh), bool)
        for program in programs:
            effects, nulls = self._feed(
                writer, part, program, counts.newest, watermark, is_history=is_history
            )
            matters |= effects
            is_null |= nulls
        null_keys = incomplete + int(is_null.sum())
        too_late = 0 if is_history else int((~matters & ~is_null).sum())
        counts.applied += len(fresh)
        counts.duplicates += duplicates
        counts.null_keys += null_keys
        counts.too_late += too_late
        return Outcome(fresh, duplicates, null_keys, too_late, watermark)

    def _number(self, writer: OnlineWriter, batch: Batch, watermark: int) -> tuple[list[int], int, int]:
        """Give each new event the next sequence number; the rows of these, repeats, and events without id."""
        mine = source_id(batch.source)
        complete = _complete(batch)
        fresh: list[int] = []
        duplicates = incomplete = 0
        for row, event in enumerate(batch.ids):
            if event is None or not complete[row]:
                incomplete += 1
                continue
            key = mine + store_key(event)
            if writer.get(Space.seen, key) is not None:
                duplicates += 1
                continue
            fresh.append(row)
            writer.put(Space.seen, key, _NUMBER.pack(watermark + len(fresh)))
        return fresh, duplicates, incomplete

    def _feed(
        self,
        writer: OnlineWriter,
        batch: Batch,
        program: Program,
        newest: int,
        revision: int,
        *,
        is_history: bool,
    ) -> tuple[Truths, Truths]:
        """Apply events to one view; says which mattered, and which had no key."""
        keys = encode_keys([batch.table.column(key) for key in program.view.entity.keys])
        times, known = batch.times, batch.known
        rows = list(range(len(keys)))
        columns = [batch.values(column) for column in program.columns] if not is_history else []
        if is_history:
            needed = np.array([key is not None for key in keys], bool)
            needed &= _needed(program, batch, times, known, newest)
            rows = np.flatnonzero(needed).tolist()
            chosen = pa.array(rows, pa.int64())
            columns = [batch.table.column(column).take(chosen).to_pylist() for column in program.columns]
        # Keys whose events are all passed over count, too: their states learn that time has gone on.
        groups: dict[bytes, list[tuple[int, Event]]] = {key: [] for key in keys if key is not None}
        for row, values in zip(rows, zip(*columns, strict=True), strict=True):
            key = keys[row]
            if key is not None:
                event = program.lift(
                    values, time=int(times[row]), known=int(known[row]), id=batch.ids[row] or b""
                )
                groups[key].append((row, event))
        matters = np.zeros(len(keys), bool)
        now = self._clock.now()
        for key, found in groups.items():
            place = program.prefix + store_key(key)
            record = writer.get(Space.state, place)
            state = State(NEVER) if record is None else program.state(record)
            effects = program.apply(state, [event for _, event in found], newest=newest)
            for (row, _), effect in zip(found, effects, strict=True):
                matters[row] = effect
            writer.put(Space.state, place, program.pack(state, revision=revision, now=now))
        return matters, np.array([key is None for key in keys], bool)

    def _fed(self, writer: OnlineWriter, feed: Feed, counts: Counts) -> list[Program]:
        """The views that have all earlier events; a view that is ready has had every event of its source.

        Before the first event all views are ready. One that is ready but no longer among those to feed is
        so no more: should it come back, it is built anew.
        """
        wanted = {_ready(feed.source, program): program for program in feed.programs}
        ready = {key for key, _ in writer.scan(Space.meta, _READY + source_id(feed.source))}
        fed = wanted.keys() if not counts.applied else wanted.keys() & ready
        for key in fed - ready:
            writer.put(Space.meta, key, b"1")
        for key in ready - fed:
            writer.delete(Space.meta, key)
        if fed != ready:
            self._bump(writer)
        return [program for key, program in wanted.items() if key in fed]

    def _bump(self, writer: OnlineWriter) -> None:
        writer.put(Space.meta, _STAMP, _NUMBER.pack(self.stamp(writer) + 1))

    def _counts(self, reader: OnlineReader, source: Source) -> Counts:
        found = reader.get(Space.meta, b"counts/" + source_id(source))
        return Counts() if found is None else msgspec.msgpack.decode(found, type=Counts)

    def _put_counts(self, writer: OnlineWriter, source: Source, counts: Counts) -> None:
        writer.put(Space.meta, b"counts/" + source_id(source), msgspec.msgpack.encode(counts))


def _complete(batch: Batch) -> list[bool]:
    source = batch.source
    time, known = batch.table.column(source.time), batch.table.column(source.known)
    if not time.null_count and not known.null_count:
        return [True] * len(batch.ids)
    return [a and b for a, b in zip(time.is_valid().to_pylist(), known.is_valid().to_pylist(), strict=True)]


def _needed(
    program: Program,
    batch: Batch,
    times: Ints,
    known: Ints,
    newest: int,
) -> Truths:
    """Of a history, the events that a read at the horizon or later can still see."""
    view = program.view
    horizon = newest - view.lag_us
    hops = {window.hop_us for window in view.windows if window.hop_us != EXACT_HOP_US}
    oldest = min(
        [
            oldest_event_us(horizon, view.windows),
            *(oldest_tile_us(horizon, view.windows, hop) for hop in hops),
        ]
    )
    needed = times >= oldest
    if view.latest:
        # The newest event of each key at the horizon, ties and all: the state sorts them out.
        codes = KeyCodes([batch.table.column(key) for key in view.entity.keys]).codes
        past = np.flatnonzero((times <= horizon) & (codes >= 0))
        order = past[np.lexsort((known[past], times[past], codes[past]))]
        last = np.append(codes[order][1:] != codes[order][:-1], True) if len(order) else np.zeros(0, bool)
        newest_of = {int(codes[row]): (int(times[row]), int(known[row])) for row in order[last]}
        tied = [
            row for row in past.tolist() if newest_of[int(codes[row])] == (int(times[row]), int(known[row]))
        ]
        needed[tied] = True
    return needed


def _ready(source: Source, program: Program) -> bytes:
    return _READY + source_id(source) + program.prefix


def _flushing(mine: bytes) -> bytes:
    return b"flushing/" + mine


def _number(value: bytes | memoryview | None) -> int:
    return 0 if value is None else int(_NUMBER.unpack(value)[0])


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _read_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
