"""Old versions' files are removed, and nothing that anybody may still want."""

from __future__ import annotations

from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.tables import Ability, Mark, TableStore
from fourfold.core.times import Instant
from fourfold.testing.raising import raising
from fourfold.testing.table_kit.given import can, numbers, rows


def _overwritten(store: TableStore, *, times: int = 5) -> None:
    """Version v holds the number v, written at second v+1, and no two share a file."""
    for version in range(times):
        store.overwrite("t", rows(version), mark=Mark(at=Instant((version + 1) * 1_000_000)))


class Vacuuming:
    """A version is old once it was replaced; what is kept stays readable."""

    def test_old_versions_can_no_longer_be_read(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum):
            return
        _overwritten(store)
        told = store.vacuum("t", keep=(), before=Instant(3_500_000))  # 2 was current until second 4
        assert told.versions == (0, 1)
        assert told.file_count == 2
        assert told.size_bytes > 0
        for version in (0, 1):
            with raising(NotFound, naming="vacuumed"):
                store.scan("t", version=version).read_all()
        assert [numbers(store, version=version) for version in (2, 3, 4)] == [[2], [3], [4]]
        assert [commit.version for commit in store.history("t")] == [4, 3, 2, 1, 0]
        assert store.snapshot("t", version=0).rows == 1
        again = store.vacuum("t", keep=(), before=Instant(3_500_000))
        assert (again.file_count, again.size_bytes, again.versions) == (0, 0, ())

    def test_a_vacuumed_version_is_not_to_be_had_in_any_way(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum):
            return
        _overwritten(store)
        store.vacuum("t", keep=(), before=Instant(9_000_000))
        for after in (0, 4):
            with raising(NotFound, naming="vacuumed"):
                store.difference("t", before=0, after=after)
        if can(store, Ability.restore):
            with raising(NotFound, naming="vacuumed"):
                store.restore("t", version=0)
        if can(store, Ability.branch):
            with raising(NotFound, naming="vacuumed"):
                store.fork("t", "dev", version=0)
            assert store.branches("t") == ()
        assert numbers(store) == [4]
        store.append("t", rows(9))
        assert numbers(store) == [4, 9]

    def test_what_is_kept_stays_readable(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum):
            return
        _overwritten(store)
        assert store.vacuum("t", keep=(1,), before=Instant(9_000_000)).versions == (0, 2, 3)
        assert numbers(store, version=1) == [1]
        assert store.vacuum("t", keep={1, 77}, before=Instant(9_000_000)).versions == ()
        assert store.vacuum("t", keep=(), before=Instant(9_000_000)).versions == (1,)
        assert numbers(store) == [4]

    def test_files_that_a_newer_version_has_too_stay(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum):
            return
        for number in range(3):
            store.append("t", rows(number), mark=Mark(at=Instant((number + 1) * 1_000_000)))
        told = store.vacuum("t", keep=(), before=Instant(9_000_000))
        assert (told.file_count, told.versions) == (0, ())
        assert [numbers(store, version=version) for version in range(3)] == [[0], [0, 1], [0, 1, 2]]

    def test_a_dry_run_says_what_would_go_and_removes_nothing(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum):
            return
        _overwritten(store)
        would = store.vacuum("t", keep=(2,), before=Instant(9_000_000), dry_run=True)
        assert would.versions == (0, 1, 3)
        assert [numbers(store, version=version) for version in range(5)] == [[0], [1], [2], [3], [4]]
        assert store.vacuum("t", keep=(2,), before=Instant(9_000_000)) == would

    def test_what_a_branch_uses_stays(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum, Ability.branch):
            return
        _overwritten(store, times=2)
        store.fork("t", "dev", version=0, mark=Mark(at=Instant(2_500_000)))
        store.overwrite("t@dev", rows(7), mark=Mark(at=Instant(2_600_000)))
        _overwritten(store, times=3)
        assert store.vacuum("t", keep=(), before=Instant(9_000_000)).versions == (1, 2, 3)
        assert [numbers(store, name="t@dev", version=version) for version in (0, 1)] == [[0], [7]]
        assert numbers(store, version=0) == [0]
        with raising(Refused, naming="is a branch"):
            store.vacuum("t@dev", keep=(), before=Instant(9_000_000))
        store.drop("t@dev")
        assert store.vacuum("t", keep=(), before=Instant(9_000_000)).versions == (0,)
        assert numbers(store) == [2]

    def test_what_was_published_outlives_its_branch(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum, Ability.branch):
            return
        store.append("t", rows(1), mark=Mark(at=Instant(1_000_000)))
        store.fork("t", "dev", version=0, mark=Mark(at=Instant(2_000_000)))
        store.append("t@dev", rows(2), mark=Mark(at=Instant(3_000_000)))
        store.publish("t", "dev", mark=Mark(at=Instant(4_000_000)))
        store.drop("t@dev")
        store.vacuum("t", keep=(), before=Instant(9_000_000))
        assert numbers(store) == [1, 2]

    def test_times_that_go_back_make_nothing_older(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum):
            return
        for number, second in enumerate((5, 1, 2, 3)):  # the clock jumped back after the first
            store.overwrite("t", rows(number), mark=Mark(at=Instant(second * 1_000_000)))
        assert store.vacuum("t", keep=(), before=Instant(4_000_000)).versions == (1, 2)
        assert numbers(store, version=0) == [0]
        assert numbers(store) == [3]

    def test_a_table_that_is_not_there_cannot_be_vacuumed(self, store: TableStore) -> None:
        if not can(store, Ability.vacuum):
            return
        with raising(NotFound):
            store.vacuum("t", keep=(), before=Instant(1))
