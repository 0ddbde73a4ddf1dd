"""Whatever is inserted, flushed, compacted, cut off and restarted, in whatever order, at whatever step:
each acknowledged row is read exactly once, from its acknowledgement on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from tests.storage.conftest import rows

from fourfold.core.errors import TooMuch
from fourfold.core.ports.buffer import Entry
from fourfold.core.ports.tables import Evolution, Mark
from fourfold.core.settings import BufferSettings
from fourfold.foundation.storage.buffered import Buffered
from fourfold.testing.buffer import MemoryBuffer
from fourfold.testing.clock import MovableClock
from fourfold.testing.tables import MemoryTables


class Cut(BaseException):
    """The process ends here."""


class Steps:
    """Counts the calls of a process to its stores, each when it begins and when it has ended."""

    def __init__(self) -> None:
        self.left = -1
        self.then: Callable[[], None] = lambda: None

    def at(self, step: int, then: Callable[[], None]) -> None:
        self.left, self.then = step, then

    def count(self) -> None:
        self.left -= 1
        if self.left == -1:
            self.then()


class Stepping:
    """A store whose calls are counted."""

    def __init__(self, inner: object, steps: Steps) -> None:
        self._inner, self._steps = inner, steps

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self._steps.count()
            answer = getattr(self._inner, name)(*arguments, **named)
            self._steps.count()
            return answer

        return call


def misfit(name: str, entry: Entry, why: str) -> None:
    raise AssertionError(f"a row that fits was kept aside: {why}")


class Process:
    """One process of the project, over stores that all share."""

    def __init__(self, machine: Inserts) -> None:
        self.steps = Steps()
        self.tables = Stepping(machine.tables, self.steps)
        self.buffered = Buffered(
            Stepping(machine.buffer, self.steps),
            self.tables,
            machine.clock,
            bounds=BufferSettings(flush_rows=6),
            flushed=lambda name, snapshot, entries: None,
            unfit=misfit,
            is_dropped=lambda name: False,
        )
        # Flushes by size and age are done here, in the machine's order, and not by a thread.
        self.buffered._flusher.note = lambda *, is_due: None  # type: ignore[method-assign]

    def read(self) -> Counter[int]:
        live = self.buffered.live("t")
        flushed = self.tables.scan("t", version=live.snapshot.version, columns=("n",)).read_all()
        return Counter([*flushed["n"].to_pylist(), *live.rows["n"].to_pylist()])


which = st.integers(0, 1)


class Inserts(RuleBasedStateMachine):
    keys = Bundle("keys")

    @initialize()
    def begin(self) -> None:
        self.clock, self.buffer, self.tables = MovableClock(), MemoryBuffer(most_bytes=12_000), MemoryTables()
        self.tables.append("t", rows())
        self.processes = [Process(self), Process(self)]
        self.acknowledged: Counter[int] = Counter()
        self.in_doubt: Counter[int] = Counter()
        self.next = 0
        self.keyed: dict[str, int] = {}

    # What a process does

    def insert(self, process: Process, key: str = "") -> None:
        if key in self.keyed:
            number = self.keyed[key]
        else:
            self.next += 1
            number = self.next
            if key:
                self.keyed[key] = number
        data = rows(number)
        for field in self.tables.snapshot("t").schema:
            if field.name not in data.schema.names:
                data = data.append_column(field, pa.nulls(1, field.type))
        self.in_doubt[number] = 1
        try:
            process.buffered.insert("t", data, Mark(key=key, at=self.clock.now()))
        except TooMuch:
            return
        del self.in_doubt[number]
        self.acknowledged[number] = 1

    def flush(self, process: Process) -> None:
        before = self.acknowledged.copy()
        version = process.buffered.flush("t")
        if version is not None:
            flushed = self.tables.scan("t", version=version, columns=("n",)).read_all()
            assert not before - Counter(flushed["n"].to_pylist())

    def read(self, process: Process) -> None:
        """All that was acknowledged before is read, and besides it only what is in doubt or came later."""
        before = self.acknowledged.copy()
        found = process.read()
        assert set(found.values()) <= {1}, "a row was read twice"
        assert not before - found, "an acknowledged row was not read"
        assert not found - self.acknowledged - self.in_doubt, "a row was read that nobody inserted"

    @rule(one=which)
    def a_row_is_inserted(self, one: int) -> None:
        self.insert(self.processes[one])

    @rule(target=keys, one=which, name=st.sampled_from("abc"))
    def a_row_is_inserted_with_a_key(self, one: int, name: str) -> str:
        self.insert(self.processes[one], name)
        return name

    @rule(one=which, key=keys)
    def an_insert_is_repeated(self, one: int, key: str) -> None:
        self.insert(self.processes[one], key)

    @rule(one=which)
    def the_buffer_is_flushed(self, one: int) -> None:
        self.flush(self.processes[one])

    @rule(one=which, seconds=st.sampled_from([-3600.0, -1.0, 30.0, 61.0]))
    def time_passes_and_a_process_looks(self, one: int, seconds: float) -> None:
        self.clock.advance(seconds)
        self.processes[one].buffered.look()

    @rule()
    def the_table_is_compacted(self) -> None:
        self.tables.compact("t")

    @rule()
    def a_column_is_added(self) -> None:
        count = len(self.tables.snapshot("t").schema)
        if count < 5:
            self.tables.evolve("t", Evolution(add=(pa.field(f"c{count}", pa.int64()),)))

    # What happens in the midst of it: often enough to meet each step

    def killed(self, one: int, at: int, doing: Callable[[Process], None]) -> None:
        def kill() -> None:
            raise Cut

        self.processes[one].steps.at(at, kill)
        try:
            doing(self.processes[one])
        except Cut:
            self.processes[one] = Process(self)
        self.processes[one].steps.at(-1, lambda: None)

    def meanwhile(
        self, one: int, at: int, doing: Callable[[Process], None], *others: Callable[[Process], None]
    ) -> None:
        def come_in() -> None:
            for other in others:
                other(self.processes[1 - one])

        self.processes[one].steps.at(at, come_in)
        doing(self.processes[one])
        self.processes[one].steps.at(-1, lambda: None)

    @rule(one=which, at=st.integers(0, 3), key=st.sampled_from(["", "a", "b"]))
    def a_process_is_killed_at_a_step_of_an_insert(self, one: int, at: int, key: str) -> None:
        self.killed(one, at, lambda process: self.insert(process, key))

    @rule(one=which, at=st.integers(0, 9), comes=st.booleans())
    def a_process_is_killed_at_a_step_of_a_flush(self, one: int, at: int, comes: bool) -> None:
        self.insert(self.processes[one])
        self.killed(one, at, self.flush)
        if comes:
            self.insert(self.processes[one])
            self.flush(self.processes[one])

    @rule(one=which, at=st.integers(0, 3))
    def rows_are_flushed_at_a_step_of_a_read(self, one: int, at: int) -> None:
        self.insert(self.processes[1 - one])
        self.meanwhile(one, at, self.read, self.flush)

    @rule(one=which, at=st.integers(0, 9))
    def rows_come_and_are_flushed_at_a_step_of_a_flush(self, one: int, at: int) -> None:
        self.insert(self.processes[one])
        self.meanwhile(one, at, self.flush, self.insert, self.flush, self.insert)

    @rule(one=which, at=st.integers(0, 9))
    def a_process_is_killed_while_another_stands_at_a_step_of_a_flush(self, one: int, at: int) -> None:
        self.insert(self.processes[one])
        self.meanwhile(one, at, self.flush, self.insert, lambda _: self.killed(1 - one, 6, self.flush))

    @rule(one=which)
    def a_process_reads(self, one: int) -> None:
        self.read(self.processes[one])

    @invariant()
    def who_comes_now_reads_each_row_once(self) -> None:
        self.read(Process(self))


TestInserts = Inserts.TestCase
TestInserts.settings = settings(stateful_step_count=30)
TestInserts.pytestmark = pytest.mark.property  # type: ignore[attr-defined]
