"""Small durable appends: seen at once, flushed in bulk, set aside where they fit no more, never twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from tests.storage.conftest import DAY_2, rows

from fourfold.core.decide import flushing
from fourfold.core.errors import Corrupted, NotFound, OutOfSpace, Refused, TooMuch, Unavailable
from fourfold.core.ports.buffer import Addition, Entry, Receipt, Waiting
from fourfold.core.ports.tables import UNMARKED, Evolution, Mark, Snapshot
from fourfold.core.settings import BufferSettings
from fourfold.core.times import Instant
from fourfold.foundation.storage.buffered import KEYS_KEPT_S, Buffered
from fourfold.foundation.storage.flusher import Flusher
from fourfold.foundation.storage.tails import decode
from fourfold.foundation.storage.turns import Turns
from fourfold.testing.buffer import MemoryBuffer
from fourfold.testing.clock import START, MovableClock
from fourfold.testing.tables import MemoryTables


class Part:
    """A table store or a buffer of which some calls fail, as `failing` says by their names."""

    def __init__(self, inner: object, failing: dict[str, Exception]) -> None:
        self._inner, self._failing = inner, failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if name in self._failing:
                raise self._failing[name]
            return getattr(self._inner, name)(*arguments, **named)

        return call


class Place:
    """Stores that processes of a project share; each process has its own `Buffered` over them."""

    def __init__(self, clock: MovableClock) -> None:
        self.clock = clock
        self.buffer, self.tables = MemoryBuffer(most_bytes=20_000), MemoryTables()
        self.failing: dict[str, Exception] = {}
        self.dropped: set[str] = set()
        self.unfit: dict[tuple[str, int], tuple[Entry, str]] = {}
        self.told: list[tuple[str, int, list[int]]] = []
        self.opened: list[Buffered] = []
        self.tables.append("t", rows())

    def open(self, **bounds: Any) -> Buffered:
        def tell(name: str, snapshot: Snapshot, entries: Sequence[Entry]) -> None:
            self.told.append((name, snapshot.version, [entry.number for entry in entries]))

        buffered = Buffered(
            Part(self.buffer, self.failing),
            Part(self.tables, self.failing),
            self.clock,
            bounds=BufferSettings(**bounds),
            flushed=tell,
            unfit=lambda name, entry, why: self.unfit.update({(name, entry.number): (entry, why)}),
            is_dropped=lambda name: name in self.dropped,
        )
        self.opened.append(buffered)
        return buffered


@pytest.fixture
def place(clock: MovableClock) -> Any:
    place = Place(clock)
    yield place
    for buffered in place.opened:
        buffered.close()


def seen(buffered: Buffered, place: Place, name: str = "t") -> list[Any]:
    """The `n` of all rows that a reader of the newest version sees."""
    live = buffered.live(name)
    flushed = place.tables.scan(name, version=live.snapshot.version, columns=("n",)).read_all()
    return sorted([*flushed["n"].to_pylist(), *live.rows["n"].to_pylist()])


def insert(buffered: Buffered, *numbers: int, key: str = "", by: str = "") -> Receipt:
    return buffered.insert("t", rows(*numbers), Mark(key=key, at=START, by=by))


# Inserting and reading


def test_inserted_rows_are_seen_at_once_and_once_before_and_after_a_flush(place: Place) -> None:
    here, there = place.open(), place.open()
    assert insert(here, 1, 2).number == 0
    assert insert(there, 3).number == 1
    assert seen(here, place) == seen(there, place) == [1, 2, 3]
    assert here.flush("t") == 1
    assert seen(here, place) == seen(there, place) == [1, 2, 3]
    insert(there, 4)
    assert seen(here, place) == seen(there, place) == [1, 2, 3, 4]
    live = here.live("t")
    assert (live.snapshot.version, live.snapshot.watermark, len(live.rows)) == (1, 1, 1)
    assert here.flush("t") == 2
    assert here.flush("t") is None
    assert place.buffer.after("t") == ()


def test_a_reader_goes_on_from_a_flush_that_took_some_of_what_it_knows(place: Place) -> None:
    here = place.open()
    for number in (1, 2, 3):
        insert(here, number)
    assert seen(here, place) == [1, 2, 3]
    place.tables.append("t", rows(1), mark=Mark(watermark=0))
    for _ in range(2):
        assert here.live("t").rows["n"].to_pylist() == [2, 3]
    insert(here, 4)
    place.tables.append("t", rows(2, 3), mark=Mark(since=0, watermark=2))
    for _ in range(2):
        assert here.live("t").rows["n"].to_pylist() == [4]


def test_what_an_append_would_refuse_is_refused_at_the_door_in_the_same_words(place: Place) -> None:
    place.tables.append("by_day", pa.table({"word": ["a"], "n": [1]}), partition_by=("word",))
    here = place.open(most_rows=5)
    for name, data in (
        ("t", pa.table({"n": [1]})),
        ("t", pa.table({"n": ["one"], "day": [DAY_2]})),
        ("t", rows(1).append_column("extra", pa.array([1]))),
        ("by_day", pa.table({"word": [""], "n": [1]})),
    ):
        with pytest.raises(Refused) as appended:
            place.tables.append(name, data)
        with pytest.raises(Refused) as inserted:
            here.insert(name, data, UNMARKED)
        assert str(inserted.value) == str(appended.value)
    with pytest.raises(NotFound):
        here.insert("u", rows(1), UNMARKED)
    with pytest.raises(Refused, match="at most 5 rows, not 6"):
        insert(here, 1, 2, 3, 4, 5, 6)
    assert here.waiting() == ()


def test_a_second_attempts_insert_changes_nothing_before_and_after_a_flush(place: Place) -> None:
    here = place.open()
    first = insert(here, 1, key="step/0")
    assert insert(here, 1, key="step/0").number == first.number
    here.flush("t")
    assert insert(here, 1, key="step/0").number == first.number
    assert seen(here, place) == [1]


def test_keys_are_forgotten_long_after_the_last_retry(place: Place) -> None:
    here = place.open()
    insert(here, 1, key="k")
    here.flush("t")
    place.clock.advance(KEYS_KEPT_S)
    insert(here, 2)
    here.flush("t")
    assert insert(here, 1, key="k").number == 0
    place.clock.advance(1)
    insert(here, 3)
    here.flush("t")
    assert insert(here, 1, key="k").number == 3


def test_threads_that_insert_at_once_get_numbers_of_their_own(place: Place) -> None:
    here = place.open()
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda n: insert(here, n), range(64)))
    assert sorted(receipt.number for receipt in receipts) == list(range(64))
    assert seen(here, place) == list(range(64))


def test_threads_share_a_transaction_and_only_the_one_at_fault_is_refused() -> None:
    """While one addition is on its way to the disk, those that come queue up and go together."""
    inner, groups = MemoryBuffer(most_bytes=100), list[int]()
    entered, go_on = threading.Event(), threading.Event()

    class Slow:
        def add(self, additions: Sequence[Addition]) -> tuple[Receipt, ...]:
            groups.append(len(additions))
            if not entered.is_set():
                entered.set()
                assert go_on.wait(timeout=60)
            return inner.add(additions)

    class Announced:
        """A lock that tells when somebody comes to it."""

        def __init__(self) -> None:
            self.lock, self.came = threading.Lock(), threading.Semaphore(0)

        def __enter__(self) -> None:
            self.came.release()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    turns, turn = Turns(Slow()), Announced()  # type: ignore[arg-type]
    turns._turn = turn  # type: ignore[assignment]
    sizes = [1, 1, 101, 1]
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(turns.add, Addition("t", 1, b"x"))
        assert entered.wait(timeout=60)
        rest = [pool.submit(turns.add, Addition("t", 1, b"x" * size)) for size in sizes]
        assert all(turn.came.acquire(timeout=60) for _ in range(5))
        go_on.set()
        assert first.result(timeout=60).number == 0
        errors = [done.exception(timeout=60) for done in rest]
    assert sorted(str(type(error).__name__) for error in errors) == ["NoneType"] * 3 + ["TooMuch"]
    assert groups == [1, 4, 1, 1, 1, 1]
    assert [entry.number for entry in inner.after("t")] == [0, 1, 2, 3]


# Bounds


def test_at_the_bound_an_insert_flushes_first(place: Place) -> None:
    here = place.open()
    inserted = 0
    while place.tables.snapshot("t").version == 0:
        insert(here, *range(inserted * 100, inserted * 100 + 100))
        inserted += 1
    assert inserted > 5
    assert here.waiting()[0].size_bytes < 5_000
    assert seen(here, place) == list(range(inserted * 100))


def test_at_the_bound_an_insert_is_refused_where_nothing_can_be_flushed(place: Place) -> None:
    here = place.open()
    place.failing["append"] = OutOfSpace("the disk that holds table 't' is full")
    acknowledged = list[int]()

    def insert_until_full() -> None:
        while True:
            insert(here, len(acknowledged))
            acknowledged.append(len(acknowledged))

    with pytest.raises(TooMuch, match="they cannot be flushed now: the disk that holds table 't' is full"):
        insert_until_full()
    assert len(acknowledged) > 10
    assert seen(here, place) == acknowledged
    del place.failing["append"]
    insert(here, len(acknowledged))
    here.flush("t")
    assert seen(here, place) == [*acknowledged, len(acknowledged)]


# Flushing


def test_a_flush_is_told_with_its_entries_also_when_a_crash_came_between(place: Place) -> None:
    here = place.open()
    insert(here, 1)
    insert(here, 2)
    place.failing["forget"] = Unavailable("cut off")
    with pytest.raises(Unavailable):
        here.flush("t")
    del place.failing["forget"]
    again = place.open()
    assert seen(again, place) == [1, 2]
    insert(again, 3)
    again.flush("t")
    assert seen(again, place) == [1, 2, 3]
    assert place.told == [("t", 1, [0, 1]), ("t", 1, [0, 1]), ("t", 2, [2])]


def test_a_flush_says_who_inserted(place: Place) -> None:
    here = place.open()
    for by in ("bob", "ada", "bob"):
        insert(here, 1, by=by)
    here.flush("t")
    for by in ("a", "b", "c", "d"):
        insert(here, 1, by=by)
    here.flush("t")
    assert [commit.by for commit in place.tables.history("t")] == ["4 principals", "ada, bob", ""]


def test_rows_that_wait_while_a_column_is_added_are_null_there(place: Place) -> None:
    here, there = place.open(), place.open()
    insert(here, 1)
    assert seen(there, place) == [1]
    place.tables.evolve("t", Evolution(add=(pa.field("word", pa.string()),)))
    assert there.live("t").rows["word"].to_pylist() == [None]
    there.insert("t", rows(2).append_column("word", pa.array(["two"])), UNMARKED)
    assert here.live("t").rows["word"].to_pylist() == [None, "two"]
    version = here.flush("t")
    assert version is not None
    flushed = place.tables.scan("t", version=version).read_all().sort_by("n")
    assert flushed["word"].to_pylist() == [None, "two"]


def test_rows_that_fit_no_more_are_kept_aside_and_hold_nobody_up(place: Place) -> None:
    here = place.open()
    insert(here, 1)
    place.tables.overwrite("t", pa.table({"n": ["one"]}))
    assert len(here.live("t").rows) == 0
    here.insert("t", pa.table({"n": ["two"]}), UNMARKED)
    assert here.live("t").rows["n"].to_pylist() == ["two"]
    assert here.flush("t") == 2
    assert seen(here, place) == ["one", "two"]
    ((name, number), (kept, why)), *rest = place.unfit.items()
    assert (name, number, rest) == ("t", 0, [])
    assert decode("t", kept).equals(rows(1))
    assert "type differs: n is int64, the table has string" in why
    assert here.waiting() == ()


def test_rows_that_cannot_be_kept_aside_wait_on(place: Place) -> None:
    here = place.open()
    insert(here, 1)
    place.tables.overwrite("t", pa.table({"n": ["one"]}))

    def full(name: str, entry: Entry, why: str) -> None:
        raise OutOfSpace("the disk that holds the blobs is full")

    here._unfit = full
    with pytest.raises(OutOfSpace):
        here.flush("t")
    assert [waiting.rows for waiting in here.waiting()] == [1]
    place.open().flush("t")
    assert list(place.unfit) == [("t", 0)]


def test_when_no_row_fits_any_more_no_reader_sees_them_later(place: Place) -> None:
    here, reader = place.open(), place.open()
    insert(here, 1)
    assert seen(reader, place) == [1]
    place.tables.overwrite("t", pa.table({"m": [1]}))
    here.flush("t")
    place.tables.overwrite("t", rows(7))
    assert seen(reader, place) == seen(place.open(), place) == [7]


def test_rows_with_wrong_bytes_are_said_and_kept_aside(place: Place) -> None:
    here = place.open()
    insert(here, 1)
    place.buffer.add([Addition("t", 1, b"no arrow")])
    insert(here, 2)
    for _ in range(2):
        with pytest.raises(Corrupted, match="number 1"):
            here.live("t")
    here.flush("t")
    assert seen(here, place) == [1, 2]
    assert list(place.unfit) == [("t", 1)]


def test_a_buffer_that_was_lost_begins_above_the_tables_watermark(place: Place) -> None:
    here = place.open()
    insert(here, 1)
    insert(here, 2)
    here.flush("t")
    place.buffer = MemoryBuffer()
    anew = place.open()
    assert insert(anew, 3).number == 2
    assert seen(anew, place) == [1, 2, 3]
    anew.flush("t")
    assert seen(anew, place) == [1, 2, 3]


def test_rows_of_a_table_that_is_gone_wait_until_it_is_said_to_be_dropped(place: Place) -> None:
    here = place.open()
    insert(here, 1)
    place.tables.drop("t")
    with pytest.raises(NotFound):
        here.flush("t")
    place.clock.advance(60)
    assert here.look() == 60
    assert [w.rows for w in here.waiting()] == [1]
    place.dropped.add("t")
    assert here.look() is None
    assert here.waiting() == ()


# By size and by age


def test_rows_are_flushed_by_age_and_by_size_and_not_before(place: Place) -> None:
    here = place.open(flush_rows=3, flush_s=60)
    assert here.look() is None
    here.insert("t", rows(1), Mark(at=place.clock.now()))
    place.clock.advance(20)
    assert here.look() == 40
    here.insert("t", rows(2), Mark(at=place.clock.now()))
    assert here.look() == 40
    place.clock.advance(40)
    assert here.look() is None
    assert place.tables.snapshot("t").rows == 2
    here.insert("t", rows(3, 4, 5), Mark(at=place.clock.now()))
    assert here.look() is None
    assert place.tables.snapshot("t").rows == 5


def test_rows_that_another_process_left_behind_are_flushed_by_who_comes_next(place: Place) -> None:
    gone = place.open()
    insert(gone, 1)
    gone.close()
    place.clock.advance(100)
    threads = threading.active_count()
    reader, flushed = place.open(), threading.Event()
    reader._flushed = lambda name, snapshot, entries: flushed.set()
    assert seen(reader, place) == [1]
    assert flushed.wait(timeout=60)
    reader.close()
    assert seen(place.open(), place) == [1]
    assert threading.active_count() <= threads  # nothing waits now, so no thread began


def test_a_process_that_watches_looks_again_even_when_nothing_waits(place: Place) -> None:
    watching = place.open(flush_s=30)
    assert watching.look() is None
    watching.watch()
    assert watching.look() == 30
    insert(place.open(), 1)
    place.clock.advance(30)
    assert watching.look() == 30
    assert place.tables.snapshot("t").rows == 1


def test_a_table_that_cannot_be_flushed_holds_no_other_up_and_is_tried_again(place: Place) -> None:
    place.tables.append("u", rows())
    here = place.open(flush_s=10)
    insert(here, 1)
    here.insert("u", rows(2), Mark(at=START))
    place.tables.drop("t")
    place.clock.advance(10)
    assert here.look() == 10
    assert place.tables.snapshot("u").rows == 1


def test_a_clock_that_is_set_back_holds_no_row_up_for_longer_than_twice_the_age() -> None:
    bounds, now = BufferSettings(flush_s=60), Instant(1_000_000_000)
    for ahead_s, why in ((30, ""), (60, ""), (61, "ahead of the clock, which was set back")):
        oldest = Instant(now + ahead_s * 1_000_000)
        waiting = Waiting("t", rows=1, size_bytes=1, newest=0, oldest=oldest)
        assert why in flushing.due(waiting, now, bounds)
        assert bool(why) == bool(flushing.due(waiting, now, bounds))


def test_a_clock_that_jumps_back_loses_no_row(place: Place) -> None:
    here = place.open()
    for number in range(4):
        here.insert("t", rows(number), Mark(at=place.clock.now()))
        place.clock.advance(-3600)
        here.look()
        assert seen(here, place) == list(range(number + 1))
    assert here.look() is None
    assert place.tables.snapshot("t").rows == 4


def test_the_thread_flushes_when_enough_rows_wait_and_ends_with_the_project(place: Place) -> None:
    flushed = threading.Event()
    here = Buffered(
        place.buffer,
        place.tables,
        place.clock,
        bounds=BufferSettings(flush_rows=3),
        flushed=lambda name, snapshot, entries: flushed.set(),
        unfit=lambda name, entry, why: None,
        is_dropped=lambda name: False,
    )
    for number in range(3):
        insert(here, number)
    assert flushed.wait(timeout=60)
    here.close()
    here.close()
    assert not any(thread.name == "fourfold-flusher" for thread in threading.enumerate())
    assert place.tables.snapshot("t").rows == 3
    insert(here, 3)  # kept, and flushed by whoever comes next
    assert seen(place.open(), place) == [0, 1, 2, 3]


def test_a_defect_in_a_look_does_not_end_the_thread() -> None:
    looks = list[int]()
    looked = threading.Semaphore(0)

    def look() -> float | None:
        looks.append(1)
        looked.release()
        if len(looks) == 1:
            raise ZeroDivisionError
        return None

    flusher = Flusher(look)
    for _ in range(2):
        flusher.note(is_due=True)
        assert looked.acquire(timeout=60)
    flusher.close()
    assert len(looks) == 2


def test_what_the_buffer_cannot_do_is_said_and_nothing_is_acknowledged(place: Place) -> None:
    here = place.open()
    place.failing["add"] = OutOfSpace("the disk is full; nothing was added")
    with pytest.raises(OutOfSpace):
        insert(here, 1)
    del place.failing["add"]
    assert seen(here, place) == []
