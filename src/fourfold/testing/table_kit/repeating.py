"""Write keys: a write that is repeated is done once. Watermarks: a flush is, too."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from fourfold.core.errors import NotFound
from fourfold.core.ports.tables import Ability, Commit, Evolution, Mark, TableStore
from fourfold.core.times import Instant
from fourfold.testing.raising import raising
from fourfold.testing.table_kit.given import can, held, numbers, rows, words

Write = Callable[[TableStore, Mark], Commit | None]

CHANGES: tuple[tuple[Ability, Write], ...] = (
    (Ability.write_keys, lambda store, mark: store.append("t", words((3, "c")), mark=mark)),
    (Ability.write_keys, lambda store, mark: store.overwrite("t", words((4, "d")), mark=mark)),
    (Ability.upsert, lambda store, mark: store.upsert("t", words((1, "A")), key=("id",), mark=mark)),
    (Ability.delete, lambda store, mark: store.delete("t", where=(("id", "==", 1),), mark=mark)),
    (Ability.restore, lambda store, mark: store.restore("t", version=0, mark=mark)),
    (Ability.compact, lambda store, mark: store.compact("t", mark=mark)),
    (
        Ability.evolve,
        lambda store, mark: store.evolve("t", Evolution(add=(pa.field("x", pa.int64()),)), mark=mark),
    ),
)
"""One of each write, to a table with versions 0 and 1."""


class Repeating:
    """A store that has seen a key answers as it did then."""

    def test_a_write_key_seen_before_changes_nothing_and_answers_as_first(self, store: TableStore) -> None:
        if not can(store, Ability.write_keys):
            return
        mark = Mark(key="step-1/0", at=Instant(5_000_000), by="ada", step="step:run/build@1")
        first = store.append("t", rows(1), mark=mark)
        assert (first.at, first.by, first.step, first.key) == (5_000_000, "ada", mark.step, mark.key)
        store.append("t", rows(2))
        again = store.append("t", rows(1), mark=Mark(key="step-1/0", at=Instant(9_000_000)))
        assert (again.version, again.at, again.by) == (0, 5_000_000, "ada")
        over = store.overwrite("t", rows(3), mark=Mark(key="step-2/0"))
        store.append("t", rows(4))
        assert store.overwrite("t", rows(3), mark=Mark(key="step-2/0")).version == over.version
        assert numbers(store) == [3, 4]

    def test_every_kind_of_write_is_done_once(self, store: TableStore) -> None:
        if not can(store, Ability.write_keys):
            return
        for index, (ability, write) in enumerate(CHANGES):
            if not can(store, ability):
                continue
            store.drop("t")
            store.append("t", words((1, "a")))
            store.append("t", words((2, "b")))
            mark = Mark(key=f"it's {index}/0", at=Instant(7_000_000), by="ada", step="s")
            first = write(store, mark)
            assert first is not None
            assert (first.key, first.at, first.by, first.step) == (mark.key, mark.at, "ada", "s")
            then = held(store)
            assert write(store, Mark(key=mark.key, at=Instant(8_000_000))) == first, first.operation
            store.overwrite("t", words((9, "z")))
            assert write(store, mark) == first, first.operation
            assert held(store) == [(9, "z")]
            assert held(store, version=first.version) == then
            assert store.snapshot("t").version == 3

    def test_a_branch_is_begun_and_published_once(self, store: TableStore) -> None:
        if not can(store, Ability.write_keys, Ability.branch):
            return
        store.append("t", rows(1), mark=Mark(key="a"))
        first = store.fork("t", "dev", version=0, mark=Mark(key="f"))
        assert store.fork("t", "dev", version=0, mark=Mark(key="f")) == first
        assert store.append("t@dev", rows(2), mark=Mark(key="a")).version == 1  # a branch's keys are its own
        published = store.publish("t", "dev", mark=Mark(key="p"))
        assert store.publish("t", "dev", mark=Mark(key="p")) == published
        assert store.append("t", rows(1), mark=Mark(key="a")).version == 0
        assert numbers(store) == [1, 2]

    def test_a_watermark_never_goes_back(self, store: TableStore) -> None:
        store.append("t", rows(1))
        assert store.snapshot("t").watermark == -1
        store.append("t", rows(2), mark=Mark(watermark=5))
        store.overwrite("t", rows(3))
        store.append("t", rows(4), mark=Mark(watermark=9, since=5))
        if can(store, Ability.restore):
            store.restore("t", version=0)
            store.append("t", rows(5))
        assert [store.snapshot("t", version=version).watermark for version in range(4)] == [-1, 5, 5, 9]
        assert store.snapshot("t").watermark == 9
        if can(store, Ability.branch):
            store.fork("t", "dev", version=1)
            assert store.snapshot("t@dev").watermark == 5

    def test_a_flush_that_does_not_go_on_from_the_watermark_changes_nothing(self, store: TableStore) -> None:
        store.append("t", rows(1), mark=Mark(watermark=5))
        done = store.append("t", rows(2), mark=Mark(watermark=10, since=5))
        for since, watermark in ((5, 12), (5, 10), (-1, 3), (11, 12)):
            answer = store.append("t", rows(99), mark=Mark(watermark=watermark, since=since))
            assert answer.version == done.version
        assert numbers(store) == [1, 2]
        assert store.append("t", rows(3), mark=Mark(watermark=12, since=10)).version == 2
        store.drop("t")
        with raising(NotFound):
            store.append("t", rows(4), mark=Mark(watermark=13, since=12))
        assert store.names() == ()
