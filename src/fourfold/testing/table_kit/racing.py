"""Several writers at once: as if each had waited for the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from fourfold.core.errors import Conflict, Refused
from fourfold.core.ports.tables import Ability, Commit, Evolution, Mark, TableStore
from fourfold.testing.table_kit.given import can, held, numbers, rows, words


def _at_once(*calls: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


class Racing:
    """What threads do at the same time is all there, in some order."""

    def test_attempts_of_one_write_that_race_are_done_once(self, store: TableStore) -> None:
        if not can(store, Ability.write_keys):
            return
        with ThreadPoolExecutor(4) as pool:
            commits = list(pool.map(lambda _: store.append("t", rows(1), mark=Mark(key="k")), range(4)))
        assert {commit.version for commit in commits} == {0}
        assert numbers(store) == [1]
        if can(store, Ability.upsert):
            with ThreadPoolExecutor(4) as pool:
                upserts = [
                    pool.submit(store.upsert, "t", rows(2), key=("n",), mark=Mark(key="u")) for _ in range(4)
                ]
            assert {each.result().version for each in upserts} == {1}

    def test_flushes_of_the_same_rows_that_race_are_done_once(self, store: TableStore) -> None:
        store.append("t", rows(1), mark=Mark(watermark=0))
        marks = [Mark(watermark=upto, since=0) for upto in (1, 2, 3)]
        flushes = [partial(store.append, "t", rows(*range(2, 2 + m.watermark)), mark=m) for m in marks]
        _at_once(*flushes)
        assert store.snapshot("t").version == 1
        assert numbers(store) == list(range(1, 2 + store.snapshot("t").watermark))

    def test_appends_at_once_are_all_there(self, store: TableStore) -> None:
        with ThreadPoolExecutor(4) as pool:
            commits = list(pool.map(lambda n: store.append("t", rows(n)), range(12)))
        assert sorted(commit.version for commit in commits) == list(range(12))
        assert numbers(store) == list(range(12))
        _told_in_order(store.history("t"))

    def test_overwrites_at_once_leave_the_rows_of_one(self, store: TableStore) -> None:
        if not can(store, Ability.overwrite_part):
            return
        store.append("t", rows(), partition_by=("day",))
        where = {"day": "2013-01-01"}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: store.overwrite("t", rows(n), where=where), range(6)))
        assert len(numbers(store)) == 1
        assert store.snapshot("t").version == 6

    def test_upserts_at_once_leave_one_row_of_each_key(self, store: TableStore) -> None:
        if not can(store, Ability.upsert):
            return
        store.append("t", words((0, "first")))
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(
                    lambda n: store.upsert(
                        "t", words((0, str(n)), (1, str(n)), (10 + n, "own")), key=("id",)
                    ),
                    range(6),
                )
            )
        found = {row[0]: row[1] for row in held(store)}
        assert len(held(store)) == len(found) == 8
        assert found[0] == found[1]
        _told_in_order(store.history("t"))

    def test_the_first_upserts_at_once_create_one_table(self, store: TableStore) -> None:
        if not can(store, Ability.upsert):
            return
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: store.upsert("t", words((1, str(n))), key=("id",)), range(4)))
        assert len(held(store)) == 1
        assert store.snapshot("t").version == 3

    def test_deletes_and_appends_at_once_lose_nothing_else(self, store: TableStore) -> None:
        if not can(store, Ability.delete):
            return
        store.append("t", rows(-100, 0))
        calls: list[Callable[[], object]] = [partial(store.append, "t", rows(n, -n)) for n in range(1, 5)]
        calls += [lambda: store.delete("t", where=(("n", "<", 0),))] * 3
        _at_once(*calls)
        assert [n for n in numbers(store) if n >= 0] == [0, 1, 2, 3, 4]
        assert -100 not in numbers(store)
        assert store.snapshot("t").version == 7
        _told_in_order(store.history("t"))

    def test_a_compaction_takes_nothing_from_those_who_write(self, store: TableStore) -> None:
        if not can(store, Ability.compact):
            return
        for number in range(4):
            store.append("t", rows(number))

        def compact() -> Commit | None:
            try:
                return store.compact("t")
            except Conflict:
                return None  # others were quicker each time: it may give up, for nothing depends on it

        calls: list[Callable[[], object]] = [partial(store.append, "t", rows(n)) for n in range(4, 8)]
        _at_once(*calls, compact, compact)
        assert numbers(store) == list(range(8))
        _told_in_order(store.history("t"))

    def test_new_columns_and_appends_at_once_agree(self, store: TableStore) -> None:
        if not can(store, Ability.evolve):
            return
        store.append("t", words((0, "a")))

        def append(n: int) -> bool:
            try:
                store.append("t", words((n, "b")))
            except Refused:
                return False  # the column was there first, and the data lacks it
            return True

        calls: list[Callable[[], object]] = [partial(append, n) for n in range(1, 4)]
        evolve = Evolution(add=(pa.field("x", pa.int64()),))
        done = _at_once(lambda: store.evolve("t", evolve), *calls)[1:]
        assert held(store) == [(0, "a", None)] + [(n, "b", None) for n in range(1, 4) if done[n - 1]]

    def test_a_branch_published_while_others_append_brings_all(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(0))
        store.fork("t", "dev", version=0)
        store.append("t@dev", rows(100))
        calls: list[Callable[[], object]] = [partial(store.append, "t", rows(n)) for n in range(1, 4)]
        _at_once(lambda: store.publish("t", "dev"), *calls)
        assert numbers(store) == [0, 1, 2, 3, 100]
        _told_in_order(store.history("t"))

    def test_a_branch_is_begun_by_one(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(0))

        def fork() -> bool:
            try:
                store.fork("t", "dev", version=0)
            except Refused:
                return False
            return True

        assert sorted(map(bool, _at_once(*[fork] * 4))) == [False, False, False, True]


def _told_in_order(history: Sequence[Commit]) -> None:
    """Versions without gaps, each with the rows before it, plus what it brought, less what it took."""
    commits = list(reversed(history))
    assert [commit.version for commit in commits] == list(range(len(commits)))
    total = 0
    for commit in commits:
        total += commit.rows_added - commit.rows_removed
        assert commit.rows == total, commit
