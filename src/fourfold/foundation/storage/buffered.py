"""Small durable appends: rows are acknowledged by the buffer, seen by readers at once, flushed in bulk.

A row has a number in the buffer, and a version of a table says up to which number it holds the buffer's rows
(its watermark). Who reads pins a version and adds the rows above its watermark, so that each row is seen
once, wherever a crash came between the parts of a flush: the commit, and the forgetting.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pyarrow as pa

from fourfold.core.decide import flushing, partitions, schemas
from fourfold.core.errors import Conflict, Corrupted, FourfoldError, NotFound, Refused, TooMuch
from fourfold.core.ports.buffer import Addition, Entry, Receipt, RowBuffer, Waiting
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Mark, Snapshot, TableStore
from fourfold.core.settings import BufferSettings
from fourfold.core.times import after, seconds_between
from fourfold.foundation.storage.flusher import Flusher
from fourfold.foundation.storage.tails import Tail, decode, encode, fit_later
from fourfold.foundation.storage.turns import Turns

logger = logging.getLogger("fourfold.storage")

FLUSH_TRIES = 10
"""How often a flush looks again after another one, or a change of columns, came first."""
MOST_AUTHORS = 3
"""Principals whose names a flush's commit gives; of more it gives the count."""
TAILS_KEPT = 16
"""Tables whose waiting rows this process keeps decoded."""
KEYS_KEPT_S = 30 * 86400.0
"""How long a write key is remembered: long after the last retry of the step that gave it."""


@dataclass(frozen=True, slots=True)
class Live:
    """A table with its newest rows: a version, and what waits above it, in the version's columns."""

    snapshot: Snapshot
    rows: pa.Table


Told = Callable[[str, Snapshot, Sequence[Entry]], None]
"""Hears of entries of a table that are in its version, before they are forgotten."""


class Buffered:
    """Tables with a buffer before them. May be used from several threads and processes at once.

    `flushed` hears of every entry that reached its table; `unfit` keeps one, with the reason, that fits the
    table's columns no more, before it is forgotten: both hear perhaps twice after a crash. `is_dropped` says
    of a table that is not there whether it was dropped: then its rows go too.
    """

    def __init__(
        self,
        buffer: RowBuffer,
        tables: TableStore,
        clock: Clock,
        *,
        bounds: BufferSettings,
        flushed: Told,
        unfit: Callable[[str, Entry, str], None],
        is_dropped: Callable[[str], bool],
    ) -> None:
        self._buffer = buffer
        self._tables = tables
        self._clock = clock
        self._bounds = bounds
        self._flushed = flushed
        self._unfit = unfit
        self._is_dropped = is_dropped
        self._turns = Turns(buffer)
        self._flusher = Flusher(self.look)
        self._is_watching = self._has_looked = False
        self._tails: OrderedDict[str, Tail] = OrderedDict()
        self._flushing: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the thread that flushes; rows that wait are safe where they are."""
        self._flusher.close()

    # Inserting

    def insert(self, name: str, data: pa.Table, mark: Mark) -> Receipt:
        """Keep rows durably, after the checks that an append of them would make. The table must be there."""
        if len(data) > self._bounds.most_rows:
            raise Refused(
                f"an insert takes at most {self._bounds.most_rows} rows, not {len(data)}",
                ways_on=["append them: one append of many rows is as quick", "or raise buffer.most_rows"],
                table=name,
            )
        snapshot = self._tables.snapshot(name)
        fitted = schemas.fit(name, data, snapshot.schema)
        partitions.check(name, fitted, snapshot.partition_by, {})
        addition = Addition(name, len(fitted), encode(fitted), mark, snapshot.watermark)
        try:
            receipt = self._turns.add(addition)
        except TooMuch as full:
            self._make_room(full)
            receipt = self._turns.add(addition)
        is_due = (
            receipt.waiting_rows >= self._bounds.flush_rows
            or receipt.waiting_bytes >= self._bounds.flush_bytes
        )
        self._flusher.note(is_due=is_due)
        return receipt

    def _make_room(self, full: TooMuch) -> None:
        """Flush all that waits, the most first; where nothing could be, say so."""
        freed, problem = 0, None
        for each in sorted(self.waiting(), key=lambda w: (-w.size_bytes, w.name)):
            try:
                freed += self.flush(each.name) is not None
            except FourfoldError as error:
                problem = error
        if problem is not None and not freed:
            raise TooMuch(
                full.message,
                ways_on=[f"they cannot be flushed now: {problem.message}", *problem.ways_on],
                **full.facts,
            ) from problem

    # Reading

    def live(self, name: str) -> Live:
        """The newest version and the rows above it."""
        self._look_once()
        tail = self._tail(name)
        with tail.lock:
            while True:
                # First the buffer, then the version: a row that is flushed between the two is in both, and
                # the watermark says so. The other way round it might be in neither.
                tail.read_on(self._buffer)
                snapshot = self._tables.snapshot(name)
                if tail.schema.equals(snapshot.schema):
                    return Live(snapshot, tail.rows_above(snapshot.watermark))
                tail.begin_anew(snapshot.schema)

    def _look_once(self) -> None:
        """Rows that a process left behind are flushed by who comes next; where none wait no thread begins."""
        if not self._has_looked:
            self._has_looked = True
            if self.waiting():
                self._flusher.note(is_due=False)

    def _tail(self, name: str) -> Tail:
        with self._lock:
            tail = self._tails.setdefault(name, Tail(name))
            self._tails.move_to_end(name)
            while len(self._tails) > TAILS_KEPT:
                self._tails.popitem(last=False)
            return tail

    # Flushing

    def flush(self, name: str) -> int | None:
        """Bring all rows acknowledged before the call into the table; a version that has them.

        `None` when none waited. What fits the table's columns no more is kept aside.
        """
        with self._flushing_of(name):
            target: int | None = None
            problem: FourfoldError | None = None
            for _ in range(FLUSH_TRIES):
                entries = self._buffer.after(name)  # before the version, as readers do
                if not entries:
                    return None if target is None else self._tables.snapshot(name).version
                if target is None:
                    target = entries[-1].number
                snapshot = self._tables.snapshot(name)
                there = [entry for entry in entries if entry.number <= snapshot.watermark]
                if there:
                    self._forget(name, snapshot, there)
                if target <= snapshot.watermark:
                    return snapshot.version
                try:
                    self._append(name, snapshot, entries[len(there) :])
                except Refused as error:  # the columns changed since we looked
                    problem = error
        raise problem or Conflict(
            f"table '{name}' was changed by others {FLUSH_TRIES} times while its rows were flushed",
            ways_on=["try again"],
            table=name,
        )

    def _append(self, name: str, snapshot: Snapshot, entries: Sequence[Entry]) -> None:
        """Commit entries as the next ones above the watermark; nothing happens if others were quicker."""
        pieces = [snapshot.schema.empty_table()]
        for entry in entries:
            try:
                pieces.append(fit_later(name, decode(name, entry), snapshot.schema))
            except (Refused, Corrupted) as error:
                logger.warning("%d inserted rows are kept aside: %s", entry.rows, error)
                self._unfit(name, entry, str(error))
        authors = sorted({entry.mark.by for entry in entries})
        steps = {entry.mark.step for entry in entries}
        mark = Mark(
            at=self._clock.now(),
            by=", ".join(authors) if len(authors) <= MOST_AUTHORS else f"{len(authors)} principals",
            step=steps.pop() if len(steps) == 1 else "",
            since=snapshot.watermark,
            watermark=entries[-1].number,
        )
        self._tables.append(name, pa.concat_tables(pieces), mark=mark)

    def _forget(self, name: str, snapshot: Snapshot, entries: Sequence[Entry]) -> None:
        self._flushed(name, snapshot, entries)
        old = after(self._clock.now(), -KEYS_KEPT_S)
        self._buffer.forget(name, upto=entries[-1].number, keys_before=old)

    @contextmanager
    def _flushing_of(self, name: str) -> Iterator[None]:
        """One flush of a table at a time in this process; those of others it takes as they come."""
        with self._lock:
            lock = self._flushing.setdefault(name, threading.Lock())
        with lock:
            yield

    def drop(self, name: str) -> None:
        """Forget what waits of a table that is gone; its numbers go on."""
        self._buffer.forget(name, upto=2**62)
        with self._lock:
            self._tails.pop(name, None)

    def scrub(self) -> bool:
        """Leave no bytes of flushed rows in the buffer; false when somebody keeps them for the moment."""
        return self._buffer.scrub()

    # What waits

    def waiting(self) -> tuple[Waiting, ...]:
        """What waits, by the name of its table; tables of which nothing waits are left out."""
        return tuple(waiting for waiting in self._buffer.waiting() if waiting.oldest is not None)

    def still(self) -> AbstractContextManager[None]:
        """Within the block nothing is added to the buffer, and nothing leaves it."""
        return self._buffer.still()

    def above(self, versions: Mapping[str, int]) -> Iterator[tuple[str, Entry]]:
        """What waits of these tables that is not in these versions of them."""
        for waiting in self.waiting():
            if waiting.name in versions:
                version = versions[waiting.name]
                watermark = self._tables.snapshot(waiting.name, version=version).watermark
                for entry in self._buffer.after(waiting.name, watermark):
                    yield waiting.name, entry

    def watch(self) -> None:
        """Look for rows of other processes too, from now on, as often as rows get old."""
        self._is_watching = True
        self._flusher.note(is_due=True)

    def look(self) -> float | None:
        """Flush what is due; after how many seconds there will be more, `None` when nothing waits."""
        failed = {waiting.name for waiting in self._buffer.waiting() if not self._looked_after(waiting)}
        now, delays = self._clock.now(), [self._bounds.flush_s] if self._is_watching or failed else []
        for waiting in self._buffer.waiting():
            due_at = flushing.due_at(waiting, self._bounds)
            if due_at is not None and waiting.name not in failed:
                delays.append(min(max(0.0, seconds_between(now, due_at)), self._bounds.flush_s))
        return min(delays, default=None)

    def _looked_after(self, waiting: Waiting) -> bool:
        """Flush the rows of a table if they are due; false when they could not be."""
        why = flushing.due(waiting, self._clock.now(), self._bounds)
        if not why:
            return True
        try:
            self.flush(waiting.name)
        except NotFound as error:
            if self._is_dropped(waiting.name):  # and a crash came before its rows were
                self.drop(waiting.name)
                return True
            logger.warning(
                "table '%s' is gone, and %d rows wait for it: %s", waiting.name, waiting.rows, error
            )
            return False
        except FourfoldError as error:
            logger.warning("table '%s' cannot be flushed, and its rows wait: %s", waiting.name, error)
            return False
        logger.debug("table '%s' was flushed: %s", waiting.name, why)
        return True
