"""Branches: begun without a copy, written by themselves, published or dropped."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.ports.tables import Ability, Evolution, Mark, TableStore
from fourfold.testing.raising import raising
from fourfold.testing.table_kit.given import can, held, numbers, rows, words


class Branching:
    """A branch is a table of its own until it is published."""

    def test_a_branch_begins_as_a_version_and_goes_its_own_way(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(1))
        store.append("t", rows(2))
        begun = store.fork("t", "dev/try-1", version=0, mark=Mark(by="ada"))
        assert (begun.version, begun.operation, begun.rows, begun.rows_added) == (0, "branch", 1, 0)
        assert begun.by == "ada"
        branch = "t@dev/try-1"
        assert store.append(branch, rows(7)).version == 1
        store.append("t", rows(3))
        assert numbers(store, name=branch) == [1, 7]
        assert numbers(store, name=branch, version=0) == [1]
        assert numbers(store) == [1, 2, 3]
        assert [commit.operation for commit in store.history(branch)] == ["append", "branch"]
        assert store.snapshot(branch).rows == 2
        assert store.branches("t") == ("dev/try-1",)
        assert store.names() == ("t",)
        assert store.difference(branch, before=0, after=1).added.read_all()["n"].to_pylist() == [7]

    def test_all_that_a_table_can_do_a_branch_can_do(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", words((1, "a"), (2, "b")))
        store.fork("t", "dev", version=0)
        if can(store, Ability.upsert):
            store.upsert("t@dev", words((2, "B")), key=("id",))
        if can(store, Ability.delete):
            store.delete("t@dev", where=(("id", "==", 1),))
        if can(store, Ability.evolve):
            store.evolve("t@dev", Evolution(add=(pa.field("x", pa.int64()),)))
        if can(store, Ability.restore):
            store.restore("t@dev", version=0)
        store.append("t@dev", words((3, "c")))
        if can(store, Ability.compact):
            assert store.compact("t@dev") is not None
        store.overwrite("t@dev", words((4, "d")))
        assert held(store, name="t@dev") == [(4, "d")]
        assert held(store) == [(1, "a"), (2, "b")]

    def test_a_table_that_stood_still_becomes_what_the_branch_is(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(1, 2))
        store.fork("t", "dev", version=0)
        store.overwrite("t@dev", words((1, "a")))
        store.append("t@dev", words((2, "b")))
        commit = store.publish("t", "dev", mark=Mark(by="ada"))
        assert (commit.version, commit.operation, commit.rows, commit.by) == (1, "publish", 2, "ada")
        assert commit.rows == 2 + commit.rows_added - commit.rows_removed
        assert held(store) == [(1, "a"), (2, "b")]
        assert numbers(store, version=0) == [1, 2]
        assert store.branches("t") == ("dev",)
        store.append("t@dev", words((3, "c")))
        store.publish("t", "dev")
        assert held(store) == [(1, "a"), (2, "b"), (3, "c")]
        store.drop("t@dev")
        assert held(store) == [(1, "a"), (2, "b"), (3, "c")]
        store.append("t", words((4, "d")))
        assert len(held(store)) == 4

    def test_rows_added_on_both_sides_are_all_there(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(1))
        store.fork("t", "dev", version=0)
        store.fork("t", "other", version=0)
        store.append("t", rows(2))
        store.append("t@dev", rows(3))
        if can(store, Ability.compact):
            store.compact("t@dev")
        store.append("t@dev", rows(4))
        commit = store.publish("t", "dev")
        assert (commit.version, commit.rows, commit.rows_added, commit.rows_removed) == (2, 4, 2, 0)
        assert numbers(store) == [1, 2, 3, 4]
        store.append("t@other", rows(5))
        store.publish("t", "other")
        assert numbers(store) == [1, 2, 3, 4, 5]
        store.append("t@dev", rows(6))  # the branch never had 2 and 5, and does not take them away
        store.publish("t", "dev")
        assert numbers(store) == [1, 2, 3, 4, 5, 6]
        assert numbers(store, name="t@dev") == [1, 3, 4, 6]

    def test_a_branch_that_would_undo_others_work_is_a_conflict(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(1))
        for branch in ("replaced", "added", "both"):
            store.fork("t", branch, version=0)
        store.append("t@added", rows(2))
        store.append("t@both", rows(2))
        store.overwrite("t@replaced", rows(9))
        store.append("t", rows(3))
        with raising(Conflict, naming="overwrite"):
            store.publish("t", "replaced")
        store.publish("t", "both")
        store.overwrite("t@both", rows(8))  # level no more: the table has 3, the branch has not
        with raising(Conflict, naming="t@both"):
            store.publish("t", "both")
        store.overwrite("t", rows(4))
        with raising(Conflict, naming="table 't' changed"):
            store.publish("t", "added")
        assert numbers(store) == [4]
        assert store.snapshot("t").version == 3
        assert numbers(store, name="t@replaced") == [9]

    def test_a_branch_is_published_onto_the_version_that_was_named_or_not_at_all(
        self, store: TableStore
    ) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(1))
        store.fork("t", "dev", version=0)
        store.append("t@dev", rows(2))
        store.append("t", rows(3))
        with raising(Conflict, naming="version 1, not at 0"):
            store.publish("t", "dev", onto=0)
        with raising(Conflict, naming="looked at together"):
            store.publish("t", "dev", becoming=True)
        assert numbers(store) == [1, 3]
        assert store.publish("t", "dev", onto=1).version == 2
        assert numbers(store) == [1, 2, 3]

    def test_columns_that_changed_on_one_side_keep_added_rows_out(self, store: TableStore) -> None:
        if not can(store, Ability.branch, Ability.evolve):
            return
        store.append("t", words((1, "a")))
        store.fork("t", "dev", version=0)
        store.append("t@dev", words((2, "b")))
        store.evolve("t", Evolution(add=(pa.field("x", pa.int64()),)))
        with raising(Conflict, naming="evolve"):
            store.publish("t", "dev")
        assert held(store) == [(1, "a", None)]

    def test_what_makes_no_sense_of_a_branch_is_refused(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(1))
        store.fork("t", "dev", version=0)
        with raising(Refused, naming="'dev' already"):
            store.fork("t", "dev", version=0)
        with raising(NotFound, naming="no version 7"):
            store.fork("t", "other", version=7)
        with raising(Refused, naming="nothing that is not published"):
            store.publish("t", "dev")
        with raising(Refused, naming="itself"):
            store.fork("t", "main", version=0)
        with raising(Refused, naming="itself"):
            store.publish("t", "main")
        calls: tuple[Callable[[], object], ...] = (
            lambda: store.fork("t@dev", "deeper", version=0),
            lambda: store.publish("t@dev", "dev"),
            lambda: store.branches("t@dev"),
        )
        for call in calls:
            with raising(Refused, naming="is a branch"):
                call()
        unknown: tuple[Callable[[], object], ...] = (
            lambda: store.append("t@absent", rows(1)),
            lambda: store.snapshot("t@absent"),
            lambda: store.history("t@absent"),
            lambda: store.publish("t", "absent"),
            lambda: store.append("u@dev", rows(1)),
            lambda: store.fork("u", "dev", version=0),
            lambda: store.branches("u"),
        )
        for call in unknown:
            with raising(NotFound):
                call()
        assert store.names() == ("t",)
        assert store.branches("t") == ("dev",)

    def test_a_dropped_branch_is_gone_and_its_table_is_not(self, store: TableStore) -> None:
        if not can(store, Ability.branch):
            return
        store.append("t", rows(1))
        store.fork("t", "dev", version=0)
        store.append("t@dev", rows(2))
        store.drop("t@dev")
        store.drop("t@dev")
        assert store.branches("t") == ()
        with raising(NotFound):
            store.snapshot("t@dev")
        assert numbers(store) == [1]
        store.fork("t", "dev", version=0)
        assert numbers(store, name="t@dev") == [1]
