"""Events into the online store: each once, with a sequence number, to every view of the source at once.

One commit of the store holds everything that an event changes: its id and number in `seen`, the records
of its entities, the watermark, and the event itself in the buffer if it still has to reach its table.
So after a crash an event is in all of them or in none, and pushing it again is harmless.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from fourfold.mlplatform.features.state import NEVER, Event, Program, State

CHUNK_EVENTS = 50_000
"""Events applied in one commit: it bounds how long a push waits for a materialisation."""

_WATERMARK = b"watermark"
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
class Batch:
    """Events ready to be applied: columns in the programs' order and kinds, and their ids."""

    source: Source
    table: pa.Table
    ids: list[bytes | None]

    def take(self, rows: Sequence[int]) -> Batch:
        return Batch(
            self.source, self.table.take(pa.array(rows, pa.int64())), [self.ids[row] for row in rows]
        )


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

    def push(self, batch: Batch, programs: Sequence[Program], record: pa.Table | None) -> Outcome:
        """Apply new events in one commit, and put these rows of `record` into the buffer with them."""
        with self._store.write() as writer:
            counts = self._counts(writer, batch.source)
            fed = self._fed(writer, programs, counts)
            outcome = self._apply(writer, batch, fed, counts, is_history=False)
            if record is not None and outcome.fresh:
                rows = record.take(pa.array(outcome.fresh, pa.int64()))
                first = outcome.watermark - len(outcome.fresh) + 1
                key = source_id(batch.source) + _PLACE.pack(first)
                writer.put(Space.buffer, key, _ipc(rows))
                counts.buffered += len(outcome.fresh)
            self._put_counts(writer, batch.source, counts)
        return outcome

    def load(
        self, batch: Batch, programs: Sequence[Program], *, progress: Callable[[int], None] = lambda _: None
    ) -> Iterator[Outcome]:
        """Apply a table's events, chunk by chunk: what an earlier, interrupted call applied is skipped."""
        newest = int(ints(batch.table.column(batch.source.time)).max(initial=NEVER))
        for start in range(0, len(batch.ids), CHUNK_EVENTS):
            part = Batch(
                batch.source,
                batch.table.slice(start, CHUNK_EVENTS),
                batch.ids[start : start + CHUNK_EVENTS],
            )
            with self._store.write() as writer:
                counts = self._counts(writer, batch.source)
                counts.newest = max(counts.newest, min(newest, self._clock.now()))
                fed = self._fed(writer, programs, counts)
                outcome = self._apply(writer, part, fed, counts, is_history=True)
                self._put_counts(writer, batch.source, counts)
            progress(start + len(part.ids))
            yield outcome

    def backfill(self, batch: Batch, program: Program, *, applied: int) -> bool:
        """Build a view that came after its events from all that were seen, in one commit; then it is fed.

        `applied` is how many events the source had when the caller began to read them: if others came
        since, nothing is done and the answer is `False`, because they may be missing from the batch.
        """
        with self._store.write() as writer:
            counts = self._counts(writer, batch.source)
            if counts.applied != applied:
                return False
            mine = source_id(batch.source)
            rows = [
                row
                for row, event in enumerate(batch.ids)
                if event is not None and writer.get(Space.seen, store_key(mine + event)) is not None
            ]
            watermark = self.watermark(writer)
            self._feed(writer, batch.take(rows), program, counts.newest, watermark, is_history=True)
            writer.put(Space.meta, _ready(program), b"1")
        return True

    def needs_backfill(self, reader: OnlineReader, source: Source, program: Program) -> bool:
        """Whether events were seen before this view was there."""
        return reader.get(Space.meta, _ready(program)) is None and self._counts(reader, source).applied > 0

    def watermark(self, reader: OnlineReader) -> int:
        """The sequence number of the last event applied; 0 before the first."""
        return _number(reader.get(Space.meta, _WATERMARK))

    def counts(self, source: Source) -> Counts:
        """What became of the source's events."""
        with self._store.read() as reader:
            return self._counts(reader, source)

    def sequences(self, source: Source, ids: Iterable[bytes | None]) -> list[int | None]:
        """The sequence number of each event; `None` for one that was not applied."""
        mine = source_id(source)
        with self._store.read() as reader:
            found = [None if e is None else reader.get(Space.seen, store_key(mine + e)) for e in ids]
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
        times, known = ints(part.table.column(part.source.time)), ints(part.table.column(part.source.known))
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
            key = store_key(mine + event)
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
    ) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
        """Apply events to one view; says which mattered, and which had no key."""
        keys = encode_keys([batch.table.column(key) for key in program.view.entity.keys])
        times = ints(batch.table.column(batch.source.time))
        known = ints(batch.table.column(batch.source.known))
        is_null = np.array([key is None for key in keys], bool)
        needed = ~is_null
        if is_history:
            needed &= _needed(program, batch, times, known, newest)
        rows = np.flatnonzero(needed)
        columns = [batch.table.column(column).take(pa.array(rows)).to_pylist() for column in program.columns]
        groups: dict[bytes, list[tuple[int, Event]]] = {key: [] for key in keys if key is not None}
        for row, values in zip(rows.tolist(), zip(*columns, strict=True), strict=True):
            event = program.lift(
                values, time=int(times[row]), known=int(known[row]), id=batch.ids[row] or b""
            )
            groups[keys[row] or b""].append((row, event))
        matters = np.zeros(len(keys), bool)
        now = self._clock.now()
        for key, found in groups.items():
            place = store_key(program.prefix + key)
            record = writer.get(Space.state, place)
            state = State(NEVER) if record is None else program.state(record)
            effects = program.apply(state, [event for _, event in found], newest=newest)
            for (row, _), effect in zip(found, effects, strict=True):
                matters[row] = effect
            writer.put(Space.state, place, program.pack(state, revision=revision, now=now))
        return matters, is_null

    def _fed(self, writer: OnlineWriter, programs: Sequence[Program], counts: Counts) -> list[Program]:
        """The views that have all earlier events, as one has that was there before the first event."""
        fed = []
        for program in programs:
            if writer.get(Space.meta, _ready(program)) is None:
                if counts.applied:
                    continue
                writer.put(Space.meta, _ready(program), b"1")
            fed.append(program)
        return fed

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
    times: np.ndarray[Any, np.dtype[np.int64]],
    known: np.ndarray[Any, np.dtype[np.int64]],
    newest: int,
) -> np.ndarray[Any, np.dtype[np.bool_]]:
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


def _ready(program: Program) -> bytes:
    return b"ready/" + program.prefix


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
