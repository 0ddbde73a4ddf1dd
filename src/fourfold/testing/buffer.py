"""A row buffer in memory, and what every row buffer promises, as checks that run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from fourfold.core.errors import TooMuch
from fourfold.core.ports.buffer import NEVER, Addition, Entry, Receipt, RowBuffer, Waiting
from fourfold.core.ports.tables import Mark
from fourfold.core.times import Instant
from fourfold.testing.raising import raising


@dataclass
class _Table:
    newest: int = -1
    entries: list[Entry] = field(default_factory=list)
    keys: dict[str, tuple[int, int, Instant]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.entries)

    @property
    def bytes(self) -> int:
        return sum(len(entry.data) for entry in self.entries)


class MemoryBuffer:
    """A buffer in dictionaries."""

    def __init__(self, *, most_bytes: int = 64 * 2**20) -> None:
        self._tables: dict[str, _Table] = {}
        self._most_bytes = most_bytes
        self._lock = threading.RLock()

    def add(self, additions: Sequence[Addition]) -> tuple[Receipt, ...]:
        with self._lock:
            fresh = [a for a in additions if a.mark.key not in self._table(a.name).keys]
            total = sum(table.bytes for table in self._tables.values())
            if fresh and total + sum(len(a.data) for a in fresh) > self._most_bytes:
                raise TooMuch(f"{total} bytes of rows wait in the buffer; nothing was added")
            return tuple([self._add(addition) for addition in additions])

    def _add(self, addition: Addition) -> Receipt:
        table, mark = self._table(addition.name), addition.mark
        if mark.key in table.keys:
            number, rows, _ = table.keys[mark.key]
            return Receipt(number, rows, table.rows, table.bytes)
        table.newest = max(table.newest, addition.above) + 1
        table.entries.append(Entry(table.newest, addition.rows, addition.data, mark))
        if mark.key:
            table.keys[mark.key] = (table.newest, addition.rows, mark.at)
        return Receipt(table.newest, addition.rows, table.rows, table.bytes)

    def after(self, name: str, number: int = -1) -> tuple[Entry, ...]:
        with self._lock:
            return tuple(entry for entry in self._table(name).entries if entry.number > number)

    def waiting(self) -> tuple[Waiting, ...]:
        with self._lock:
            return tuple(
                Waiting(
                    name,
                    table.rows,
                    table.bytes,
                    table.newest,
                    table.entries[0].mark.at if table.entries else None,
                )
                for name, table in sorted(self._tables.items())
                if table.newest >= 0
            )

    def forget(self, name: str, *, upto: int, keys_before: Instant = NEVER) -> int:
        with self._lock:
            table = self._table(name)
            gone = [entry for entry in table.entries if entry.number <= upto]
            table.entries = [entry for entry in table.entries if entry not in gone]
            table.keys = {
                key: (number, rows, at)
                for key, (number, rows, at) in table.keys.items()
                if number > upto or at >= keys_before
            }
            return sum(entry.rows for entry in gone)

    @contextmanager
    def still(self) -> Iterator[None]:
        with self._lock:
            yield

    def scrub(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def _table(self, name: str) -> _Table:
        return self._tables.setdefault(name, _Table())


BOUND = 10_000
"""The most bytes of the buffers that the kit opens."""


def addition(text: str = "row", *, name: str = "t", key: str = "", at: int = 0, above: int = -1) -> Addition:
    """One row."""
    mark = Mark(key=key, at=Instant(at), by="ada", step="step:run/build@1")
    return Addition(name, 1, text.encode(), mark, above)


def texts(buffer: RowBuffer, name: str = "t", number: int = -1) -> list[str]:
    """What waits, in order."""
    return [entry.data.decode() for entry in buffer.after(name, number)]


class RowBufferKit:
    """Subclass it, give a fixture `open_buffer` that opens the same, at first empty, buffer each time, with
    `BOUND` as its most bytes, and let pytest run it."""

    def test_while_it_is_held_still_nothing_is_added(self, open_buffer: Callable[[], RowBuffer]) -> None:
        buffer = open_buffer()
        buffer.add([addition("before")])
        with ThreadPoolExecutor(1) as pool:
            with buffer.still():
                adding = pool.submit(buffer.add, [addition("after")])
                assert wait([adding], timeout=0.2).not_done == {adding}
                assert texts(buffer) == ["before"]
            adding.result(timeout=60)
        assert texts(buffer) == ["before", "after"]

    def test_what_was_added_waits_in_order_with_its_mark(self, open_buffer: Callable[[], RowBuffer]) -> None:
        buffer = open_buffer()
        assert (buffer.after("t"), buffer.waiting()) == ((), ())
        first = buffer.add([addition("a", at=5)])
        rest = buffer.add([addition("bc", at=6), addition("d", name="other"), addition("e", at=7)])
        assert [(r.number, r.rows) for r in (*first, *rest)] == [(0, 1), (1, 1), (0, 1), (2, 1)]
        assert rest[-1] == Receipt(2, 1, waiting_rows=3, waiting_bytes=4)
        assert [(e.number, e.rows, e.data) for e in buffer.after("t")] == [
            (0, 1, b"a"),
            (1, 1, b"bc"),
            (2, 1, b"e"),
        ]
        assert buffer.after("t")[0].mark == Mark(at=Instant(5), by="ada", step="step:run/build@1")
        assert texts(buffer, number=1) == ["e"]
        assert buffer.waiting() == (
            Waiting("other", 1, 1, 0, Instant(0)),
            Waiting("t", 3, 4, 2, Instant(5)),
        )
        assert texts(open_buffer()) == ["a", "bc", "e"]

    def test_what_is_forgotten_is_gone_and_numbers_go_on(self, open_buffer: Callable[[], RowBuffer]) -> None:
        buffer = open_buffer()
        assert buffer.forget("t", upto=5) == 0
        buffer.add([addition(text) for text in "abc"])
        assert buffer.forget("t", upto=1) == 2
        assert buffer.forget("t", upto=1) == 0
        assert texts(buffer) == ["c"]
        assert buffer.waiting() == (Waiting("t", 1, 1, 2, Instant(0)),)
        assert buffer.forget("t", upto=100) == 1
        assert buffer.waiting() == (Waiting("t", 0, 0, 2, None),)
        assert buffer.add([addition("d")])[0].number == 3
        buffer.close()
        assert open_buffer().add([addition("e")])[0].number == 4

    def test_scrubbing_leaves_what_waits(self, open_buffer: Callable[[], RowBuffer]) -> None:
        buffer = open_buffer()
        assert buffer.scrub(), "of a buffer that was never written to, too"
        buffer.add([addition("a"), addition("b"), addition("c", name="u")])
        buffer.forget("t", upto=0)
        assert open_buffer().scrub()
        assert texts(buffer) == ["b"]
        assert texts(buffer, "u") == ["c"]
        assert buffer.add([addition("d")])[0].number == 2

    def test_a_number_is_above_what_is_said(self, open_buffer: Callable[[], RowBuffer]) -> None:
        buffer = open_buffer()
        numbers = [buffer.add([addition("x", above=above)])[0].number for above in (7, 7, 20, 3)]
        assert numbers == [8, 9, 21, 22]

    def test_a_repeated_key_is_done_once_and_answers_as_the_first(
        self, open_buffer: Callable[[], RowBuffer]
    ) -> None:
        buffer = open_buffer()
        first, again = buffer.add([addition("a", key="k", at=10), addition("b", key="k", at=20)])
        assert (first.number, again.number, again.waiting_rows) == (0, 0, 1)
        assert buffer.add([addition("a", key="k", name="other")])[0].number == 0
        buffer.add([addition("c")])
        buffer.forget("t", upto=1)
        assert buffer.add([addition("a", key="k", at=30)])[0] == Receipt(0, 1, 0, 0)
        assert texts(buffer) == []
        assert texts(buffer, "other") == ["a"]
        buffer.forget("t", upto=1, keys_before=Instant(10))
        assert buffer.add([addition("a", key="k", at=40)])[0].number == 0
        buffer.forget("t", upto=1, keys_before=Instant(11))
        assert buffer.add([addition("a", key="k", at=50)])[0].number == 2

    def test_what_would_pass_the_bound_is_refused_whole(self, open_buffer: Callable[[], RowBuffer]) -> None:
        buffer = open_buffer()
        buffer.add([addition("x" * (BOUND - 1), key="k")])
        with raising(TooMuch, naming="nothing was added"):
            buffer.add([addition("a"), addition("b")])
        with raising(TooMuch):
            buffer.add([addition("bc", name="other")])
        assert len(buffer.after("t")) == 1
        assert buffer.add([addition("x" * (BOUND - 1), key="k")])[0].number == 0  # a repeat needs no room
        buffer.add([addition("a")])
        buffer.forget("t", upto=0)
        buffer.add([addition("y" * (BOUND - 1))])

    def test_a_reader_who_reads_on_misses_nothing(self, open_buffer: Callable[[], RowBuffer]) -> None:
        buffers = [open_buffer() for _ in range(4)]
        reader, seen = open_buffer(), list[str]()

        def add(index: int) -> None:
            for number in range(10):
                names = ["t", "other"] if index % 2 else ["other", "t"]
                buffers[index].add([addition(f"{index}.{number}", name=name) for name in names])

        def read_on() -> None:
            newest = -1
            while len(seen) < 40:
                for entry in reader.after("t", newest):
                    assert entry.number == newest + 1
                    newest = entry.number
                    seen.append(entry.data.decode())

        with ThreadPoolExecutor(5) as pool:
            reading = pool.submit(read_on)
            list(pool.map(add, range(4)))
            reading.result(timeout=60)
        assert sorted(seen) == sorted(f"{index}.{number}" for index in range(4) for number in range(10))
        for index in range(4):
            assert [text for text in seen if text.startswith(f"{index}.")] == [
                f"{index}.{n}" for n in range(10)
            ]
        for buffer in (*buffers, reader):
            buffer.close()
            buffer.close()
