"""A person's rows are taken out of every version, and nothing else is touched."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa

from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.tables import Ability, Evolution, Mark, RowKey, TableStore
from fourfold.core.times import Instant
from fourfold.testing.raising import raising
from fourfold.testing.table_kit.given import can, held, rows, words

ADA: tuple[RowKey, ...] = ({"word": "ada"},)
LATER = Instant(2**60)


def _lived(store: TableStore) -> None:
    """Five versions: ada comes in 0, once more in 2, and is gone in 4."""
    store.append("t", words((1, "ada"), (2, "bob")), mark=Mark(by="zoe", at=Instant(1_000_000)))
    store.append("t", words((3, "eve")))
    store.append("t", words((4, "ada"), (5, "kim")))
    store.append("t", words((6, "lee")))
    store.overwrite("t", words((2, "bob")))


def _everything(store: TableStore) -> dict[str, list[list[tuple[object, ...]]]]:
    names = ("t", *(f"t@{branch}" for branch in store.branches("t")))
    return {
        name: [held(store, name=name, version=v) for v in range(store.snapshot(name).version + 1)]
        for name in names
    }


def _check_counts(store: TableStore, name: str = "t") -> None:
    """History counts what can be read, and each version follows from the one before."""
    commits = store.history(name)[::-1]
    for commit in commits:
        assert commit.rows == store.snapshot(name, version=commit.version).rows
        assert commit.rows == len(held(store, name=name, version=commit.version))
        assert commit.rows_added >= 0 <= commit.rows_removed
    for before, commit in pairwise(commits):
        assert commit.rows == before.rows + commit.rows_added - commit.rows_removed


class Erasing:
    """What is erased is in no version any more; everything else is as it was."""

    def test_no_version_has_an_erased_row_and_every_version_keeps_the_others(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        _lived(store)
        before = _everything(store)["t"]
        told = store.erase("t", keys=ADA, before=LATER, mark=Mark(by="dpo"))
        assert told.rows == {"t": {0: 1, 1: 1, 2: 2, 3: 2}}
        assert (told.file_count, told.unsure_files) == (2, 0)
        assert told.size_bytes > 0
        after = _everything(store)["t"]
        assert after[:5] == [[row for row in version if row[1] != "ada"] for version in before]
        assert after[5] == after[4]
        made = told.commits["t"]
        assert (made.version, made.operation, made.rows, made.rows_removed) == (5, "erase", 1, 0)
        assert made.by == "dpo"
        assert store.history("t")[0] == made
        assert [c.operation for c in store.history("t")[1:]][::-1] == ["create", *["append"] * 3, "overwrite"]
        assert store.history("t")[-1].by == "zoe"
        assert store.history("t")[-1].at == Instant(1_000_000)
        _check_counts(store)

    def test_rows_of_the_newest_version_are_gone_from_the_next(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        store.append("t", words((1, "ada"), (2, "bob")))
        made = store.erase("t", keys=ADA, before=LATER).commits["t"]
        assert (made.version, made.rows) == (1, 1)
        assert _everything(store) == {"t": [[(2, "bob")], [(2, "bob")]]}
        _check_counts(store)
        store.append("t", words((3, "ada")))  # who comes back is a row like any other
        assert held(store) == [(2, "bob"), (3, "ada")]

    def test_erasing_again_changes_nothing(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        _lived(store)
        store.erase("t", keys=ADA, before=LATER)
        before, history = _everything(store), store.history("t")
        told = store.erase("t", keys=ADA, before=LATER)
        assert (told.rows, told.file_count, told.size_bytes, told.commits) == ({}, 0, 0, {})
        assert _everything(store) == before
        assert store.history("t") == history

    def test_a_dry_run_says_what_would_go_and_changes_nothing(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        _lived(store)
        before, history = _everything(store), store.history("t")
        would = store.erase("t", keys=ADA, before=LATER, dry_run=True)
        assert would.commits == {}
        assert _everything(store) == before
        assert store.history("t") == history
        did = store.erase("t", keys=ADA, before=LATER)
        assert (would.rows, would.file_count, would.size_bytes) == (did.rows, did.file_count, did.size_bytes)

    def test_several_keys_and_keys_of_several_columns(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        store.append("t", words((1, "ada"), (2, "ada"), (3, "bob"), (4, "eve"), (4, "kim"), (None, None)))
        keys: tuple[RowKey, ...] = (
            {"word": "ada", "id": 2},
            {"word": "bob"},
            {"id": 4, "word": "kim"},
            {"id": 77},
        )
        assert store.erase("t", keys=keys, before=LATER).rows == {"t": {0: 3}}
        assert held(store, version=0) == [(1, "ada"), (4, "eve"), (None, None)]

    def test_branches_are_erased_from_too(self, store: TableStore) -> None:
        if not can(store, Ability.erase, Ability.branch):
            return
        _lived(store)
        store.fork("t", "old", version=3)
        store.append("t@old", words((7, "ada"), (8, "flo")))
        store.fork("t", "clean", version=4)
        told = store.erase("t", keys=ADA, before=LATER)
        assert told.rows == {"t": {0: 1, 1: 1, 2: 2, 3: 2}, "t@old": {0: 2, 1: 3}}
        assert {name: commit.version for name, commit in told.commits.items()} == {"t": 5, "t@old": 2}
        found = _everything(store)
        assert not any(row[1] == "ada" for versions in found.values() for v in versions for row in v)
        assert found["t@old"][2] == [(2, "bob"), (3, "eve"), (5, "kim"), (6, "lee"), (8, "flo")]
        assert found["t@clean"] == [[(2, "bob")]]
        for name in found:
            _check_counts(store, name)

    def test_a_branch_can_still_be_published(self, store: TableStore) -> None:
        if not can(store, Ability.erase, Ability.branch):
            return
        store.append("t", words((1, "ada"), (2, "bob")))
        for branch in ("become", "add"):
            store.fork("t", branch, version=0)
            store.append(f"t@{branch}", words((3, "ada"), (4, branch)))
        store.erase("t", keys=ADA, before=LATER)
        store.publish("t", "become")
        assert held(store) == [(2, "bob"), (4, "become")]
        store.publish("t", "add")
        assert held(store) == [(2, "bob"), (4, "add"), (4, "become")]
        _check_counts(store)

    def test_what_was_published_and_restored_is_erased_everywhere(self, store: TableStore) -> None:
        if not can(store, Ability.erase, Ability.branch, Ability.restore):
            return
        store.append("t", words((1, "ada"), (2, "bob")))
        store.fork("t", "dev", version=0)
        store.append("t@dev", words((3, "ada")))
        store.publish("t", "dev")
        store.overwrite("t", words((9, "zed")))
        store.restore("t", version=1)
        store.drop("t@dev")
        told = store.erase("t", keys=ADA, before=LATER)
        assert told.rows == {"t": {0: 1, 1: 2, 3: 2}}
        assert _everything(store)["t"] == [
            [(2, "bob")],
            [(2, "bob")],
            [(9, "zed")],
            [(2, "bob")],
            [(2, "bob")],
        ]
        _check_counts(store)

    def test_what_was_written_anew_meanwhile_is_erased_too(self, store: TableStore) -> None:
        if not can(store, Ability.erase, Ability.upsert, Ability.delete, Ability.compact, Ability.evolve):
            return
        store.append("t", words((1, "ada"), (2, "bob")))
        store.upsert("t", words((2, "bo"), (3, "ada")), key=("id",))
        store.delete("t", where=(("id", "==", 1),))
        store.append("t", words((4, "ada"), (5, "kim")))
        store.compact("t")
        store.evolve("t", Evolution(add=(pa.field("x", pa.int64()),)))
        before = _everything(store)["t"]
        store.erase("t", keys=ADA, before=LATER)
        after = _everything(store)["t"]
        assert after[:-1] == [[row for row in version if row[1] != "ada"] for version in before]
        _check_counts(store)
        if can(store, Ability.restore):
            store.restore("t", version=1)
            assert held(store) == [(2, "bo")]

    def test_partitions_are_erased_from(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        store.append(
            "t", pa.concat_tables([words((1, "ada"), (2, "ada"), (3, "bob"))]), partition_by=("word",)
        )
        store.append("t", words((4, "ada"), (5, "eve")))
        assert store.erase("t", keys=ADA, before=LATER).rows == {"t": {0: 2, 1: 3}}
        assert _everything(store)["t"] == [[(3, "bob")], [(3, "bob"), (5, "eve")], [(3, "bob"), (5, "eve")]]
        store.append("t", words((6, "flo"), (7, "gus")))
        store.erase("t", keys=[{"id": 6}], before=LATER)
        assert held(store) == [(3, "bob"), (5, "eve"), (7, "gus")]

    def test_a_column_that_only_older_versions_have_can_be_a_key(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        store.append("t", words((1, "ada"), (2, "bob")))
        store.overwrite("t", pa.table({"id": pa.array(["1", "2"]), "n": pa.array([7, 8])}))
        assert store.erase("t", keys=ADA, before=LATER).rows == {"t": {0: 1}}
        assert _everything(store)["t"][0] == [(2, "bob")]
        assert store.erase("t", keys=[{"id": 2}], before=LATER).rows == {"t": {0: 1, 1: 1, 2: 1}}
        assert _everything(store)["t"] == [[], [("1", 7)], [("1", 7)], [("1", 7)]]

    def test_a_repeated_attempt_makes_one_version(self, store: TableStore) -> None:
        if not can(store, Ability.erase, Ability.write_keys):
            return
        _lived(store)
        first = store.erase("t", keys=ADA, before=LATER, mark=Mark(key="k"))
        store.erase("t", keys=ADA, before=LATER, mark=Mark(key="k"))
        assert store.snapshot("t").version == first.commits["t"].version

    def test_what_was_vacuumed_stays_vacuumed(self, store: TableStore) -> None:
        if not can(store, Ability.erase, Ability.vacuum):
            return
        for version, data in enumerate((words((1, "ada"), (2, "bob")), words((3, "ada"), (4, "eve")))):
            store.overwrite("t", data, mark=Mark(at=Instant((version + 1) * 1_000_000)))
        store.overwrite("t", words((5, "kim")), mark=Mark(at=Instant(3_000_000)))
        store.vacuum("t", keep=(1,), before=Instant(9_000_000))
        store.erase("t", keys=ADA, before=LATER)
        with raising(NotFound, naming="vacuumed"):
            store.scan("t", version=0).read_all()
        assert [held(store, version=version) for version in (1, 2, 3)] == [[(4, "eve")], *[[(5, "kim")]] * 2]

    def test_what_cannot_be_a_key_is_refused_without_saying_the_value(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        store.append("t", words((1, "ada")))
        wrong: list[tuple[tuple[RowKey, ...], str]] = [
            ((), "whose rows"),
            (({},), "whose rows"),
            (({"wort": "ada"},), "no column 'wort'"),
            (({"id": "ada"},), "int64"),
            (({"id": None},), "null"),
            (({"id": 1.5},), "never sure"),
        ]
        for keys, why in wrong:
            refused = _refusal(store, keys)
            assert why in refused
            assert "ada" not in refused
        with raising(NotFound):
            store.erase("u", keys=ADA, before=LATER)
        if can(store, Ability.branch):
            store.fork("t", "dev", version=0)
            with raising(Refused, naming="is a branch"):
                store.erase("t@dev", keys=ADA, before=LATER)
        assert held(store) == [(1, "ada")]

    def test_a_table_without_such_rows_is_left_alone(self, store: TableStore) -> None:
        if not can(store, Ability.erase):
            return
        store.append("t", rows(1, 2))
        told = store.erase("t", keys=[{"n": 7}], before=LATER)
        assert (told.rows, told.commits) == ({}, {})
        assert store.snapshot("t").version == 0


def _refusal(store: TableStore, keys: tuple[RowKey, ...]) -> str:
    try:
        store.erase("t", keys=keys, before=LATER)
    except Refused as error:
        return str(error)
    raise AssertionError(f"it was not refused: {keys}")
