"""Erasing from Delta tables: nothing of the rows is left in any file, whatever else happens meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.storage.traces import traces

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.log import CHECKPOINT_EVERY
from fourfold.core.errors import Corrupted, NotFound, OutOfSpace, Refused
from fourfold.core.ports.tables import Evolution, Mark
from fourfold.core.times import Instant
from fourfold.testing.raising import raising
from fourfold.testing.table_kit.given import held

pytestmark = pytest.mark.slow

PERSON, NUMBER = "Zanzibar-Quokka-17", 4_611_686_018_427_387_847
LATER, NEVER = Instant(2**60), Instant(0)
KEYS = [{"name": PERSON}]


def people(*names: str, start: int = 0) -> pa.Table:
    """Rows with a name, a number (the person's own for the person), and something about them."""
    return pa.table({
        "name": pa.array(names, pa.string()),
        "id": pa.array([NUMBER if n == PERSON else start + i for i, n in enumerate(names)], pa.int64()),
        "about": pa.array([f"about {name}" for name in names], pa.string()),
    })  # fmt: skip


def lived(store: DeltaTables, *, partition_by: tuple[str, ...] = ()) -> None:
    """A table that had the person in files of every kind: appended, upserted, compacted, forked, deleted."""
    store.append("t", people("ada", PERSON, "bob"), partition_by=partition_by)
    store.append("t", people("eve", start=10))
    store.upsert("t", people("bob", PERSON), key=("name",))
    store.fork("t", "dev", version=2)
    store.append("t@dev", people("kim", PERSON, start=20))
    store.compact("t")
    store.compact("t", cluster_by=("id",))
    store.evolve("t", Evolution(add=(pa.field("more", pa.float64()),)))
    store.delete("t", where=(("name", "==", PERSON),))
    store.restore("t", version=3)
    store.overwrite("t", people("zoe", start=30), partition_by=partition_by)


def named(store: DeltaTables, name: str = "t") -> list[list[str]]:
    """The names in each version."""
    versions = range(store.snapshot(name).version + 1)
    return [[str(row[0]) for row in held(store, name=name, version=version)] for version in versions]


@pytest.mark.parametrize("partition_by", [(), ("name",)])
def test_nothing_of_the_rows_is_left_in_any_file(tmp_path: Path, partition_by: tuple[str, ...]) -> None:
    store = DeltaTables(tmp_path)
    lived(store, partition_by=partition_by)
    before = {name: named(store, name) for name in ("t", "t@dev")}
    assert traces(tmp_path, PERSON, NUMBER)
    store.erase("t", keys=KEYS, before=LATER)
    assert traces(tmp_path, PERSON, NUMBER) == []
    for name, versions in before.items():
        assert named(store, name)[: len(versions)] == [[n for n in v if n != PERSON] for v in versions]
        assert named(DeltaTables(tmp_path), name) == named(store, name)
    assert not (tmp_path / "t" / "_erasing").exists() or not list((tmp_path / "t" / "_erasing").iterdir())
    assert store.vacuum("t", keep=range(100), before=LATER).file_count == 0


def test_a_number_can_be_the_key(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    lived(store)
    store.erase("t", keys=[{"id": NUMBER}], before=LATER)
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_other_programs_read_every_version_as_we_do(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    lived(store)
    store.erase("t", keys=KEYS, before=LATER)
    for version in range(store.snapshot("t").version + 1):
        theirs = DeltaTable(str(tmp_path / "t"), version=version).to_pyarrow_table()
        assert sorted(theirs["name"].to_pylist()) == named(store)[version]
    assert DeltaTable(str(tmp_path / "t")).history(1)[0]["operation"] == "DELETE"


def test_a_store_that_looked_before_sees_what_is_there_afterwards(tmp_path: Path) -> None:
    """Another process remembers states of the table; none of them may be what it reads by afterwards."""
    store, other = DeltaTables(tmp_path), DeltaTables(tmp_path)
    lived(store)
    named(other), named(other, "t@dev")
    store.erase("t", keys=KEYS, before=LATER)
    assert (named(other), named(other, "t@dev")) == (named(store), named(store, "t@dev"))
    other.restore("t", version=0)
    other.fork("t", "late", version=2)
    assert named(other)[-1] == ["ada", "bob"]
    assert PERSON not in named(other, "t@late")[0]
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_a_store_that_stood_at_an_entry_that_did_not_change_opens_the_table_anew(tmp_path: Path) -> None:
    """Entries of other programs count nothing, so one that names no touched file stays as it was."""
    store, other = DeltaTables(tmp_path), DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    write_deltalake(str(tmp_path / "t"), people("bob"), mode="append")
    named(other)
    store.erase("t", keys=KEYS, before=LATER)
    assert [row[0] for row in held(other)] == ["ada", "bob"]
    assert named(other) == [["ada"], ["ada", "bob"], ["ada", "bob"]]


def test_who_remembers_a_version_from_between_reads_it_anew(tmp_path: Path) -> None:
    """It followed the log to the erasure's own version, and remembered an older one before that changed."""
    store, other = DeltaTables(tmp_path), DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    store.append("t", people("bob"))
    log = other._log("t")
    stale = log.at(0)
    store.erase("t", keys=KEYS, before=LATER)
    log.at(None)
    log._old[0] = stale
    assert held(other, version=0) == [("ada", 0, "about ada")]
    log._old[0] = stale
    other.restore("t", version=0)
    assert held(other) == [("ada", 0, "about ada")]


def test_checkpoints_hold_nothing_and_the_log_still_opens_quickly(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    for number in range(2 * CHECKPOINT_EVERY + 5):
        store.append("t", people("eve", start=number))
    log = tmp_path / "t" / "_delta_log"
    assert len(list(log.glob("*.checkpoint.parquet"))) == 2
    store.erase("t", keys=KEYS, before=LATER)
    assert traces(tmp_path, PERSON, NUMBER) == []
    assert [path.name for path in log.glob("*.checkpoint.parquet")] == [f"{206:020d}.checkpoint.parquet"]
    again = DeltaTables(tmp_path)
    assert again.snapshot("t").rows == 206
    assert again.snapshot("t", version=150).rows == 151
    assert DeltaTable(str(tmp_path / "t")).version() == 206


def test_a_checkpoint_of_before_is_not_written_afterwards(tmp_path: Path) -> None:
    """A writer that committed a hundredth version may come to its checkpoint late."""
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    log = store._log("t")
    late = log.there()
    store.erase("t", keys=KEYS, before=LATER)
    log.spare(late)
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_a_late_checkpoint_does_not_follow_an_erasure_that_left_its_version_alone(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    for number in range(CHECKPOINT_EVERY):
        store.append("t", people("eve", start=number))
    log = store._log("t")
    late = log.there()
    (tmp_path / "t" / "_delta_log" / f"{late.version:020d}.checkpoint.parquet").unlink()
    (tmp_path / "t" / "_delta_log" / "_last_checkpoint").unlink()
    store.erase("t", keys=KEYS, before=LATER)
    log.spare(late)
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_what_another_program_wrote_is_erased_with_its_folders_and_predicates(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    write_deltalake(path, people("ada", PERSON, "bob"), partition_by=["name"])
    write_deltalake(path, people("eve", PERSON), mode="append")
    table = DeltaTable(path)
    table.delete(f"name = '{PERSON}' and id > 5")
    table.delete(f"name = '{PERSON}'")
    table.create_checkpoint()
    assert any(PERSON in each for each in traces(tmp_path, PERSON))
    store = DeltaTables(tmp_path)
    before = named(store)
    store.erase("t", keys=KEYS, before=LATER)
    assert traces(tmp_path, PERSON, NUMBER) == []
    assert named(store)[: len(before)] == [[n for n in version if n != PERSON] for version in before]
    assert DeltaTable(path).to_pyarrow_table().num_rows == 3


def test_a_log_whose_beginning_was_cleaned_away_is_erased_from(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    store.append("t", people("eve"))
    table = DeltaTable(str(tmp_path / "t"))
    table.create_checkpoint()
    log = tmp_path / "t" / "_delta_log"
    (log / f"{0:020d}.json").unlink()
    fresh = DeltaTables(tmp_path)
    fresh.append("t", people("kim", PERSON))
    fresh.erase("t", keys=KEYS, before=LATER)
    assert traces(tmp_path, PERSON, NUMBER) == []
    again = DeltaTables(tmp_path)
    assert [row[0] for row in held(again, version=1)] == ["ada", "eve"]
    assert [row[0] for row in held(again)] == ["ada", "eve", "kim"]


def test_what_a_checkpoint_tells_of_removed_files_goes(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    write_deltalake(path, people("ada", PERSON), partition_by=["name"])
    table = DeltaTable(path)
    table.delete(f"name = '{PERSON}'")
    table.create_checkpoint()
    (tmp_path / "t" / "_delta_log" / f"{0:020d}.json").unlink()
    write_deltalake(path, people("bob"), mode="append")
    store = DeltaTables(tmp_path)
    assert traces(tmp_path / "t" / "_delta_log", PERSON)
    store.erase("t", keys=[*KEYS, {"name": "bob"}], before=LATER)
    assert traces(tmp_path, PERSON, NUMBER) == []
    assert [row[0] for row in held(store)] == ["ada"]


def test_statistics_of_what_was_vacuumed_tell_nothing(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    for second, names in enumerate([(PERSON,), ("ada", PERSON), ("zoe",)]):
        store.overwrite("t", people(*names), mark=Mark(at=Instant((second + 1) * 1_000_000)))
    store.vacuum("t", keep=(), before=Instant(9_000_000))
    assert traces(tmp_path, PERSON, NUMBER)
    store.erase("t", keys=KEYS, before=LATER)
    assert traces(tmp_path, PERSON, NUMBER) == []
    with raising(NotFound, naming="vacuumed"):
        store.scan("t", version=1).read_all()
    newest = store.snapshot("t").version
    store.append("t", people("bob"))
    store.erase("t", keys=KEYS, before=LATER)
    assert store.snapshot("t").version == newest + 1


def test_what_a_killed_writer_left_goes_once_it_is_old(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    folder = tmp_path / "t"
    left = folder / f"part-{'0' * 32}.parquet"
    left.write_bytes(next(folder.glob("part-*.parquet")).read_bytes())
    others = folder / f"part-{'1' * 32}.parquet"
    store.append("other", people("ada"))
    others.write_bytes(next((tmp_path / "other").glob("part-*.parquet")).read_bytes())
    torn = folder / f"part-{'2' * 32}.parquet"
    torn.write_bytes(b"PAR1 and no more")
    told = store.erase("t", keys=KEYS, before=NEVER)
    assert told.unsure_files == 2, "one holds the person, and one nobody can read yet"
    assert left.exists(), "somebody may be about to commit it"
    for path in (left, others, torn):
        os.utime(path, (1, 1))
    assert store.erase("t", keys=KEYS, before=Instant(10_000_000)).unsure_files == 0
    assert traces(tmp_path / "t", PERSON, NUMBER) == []


def test_entries_that_were_never_whole_are_removed(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    log = tmp_path / "t" / "_delta_log"
    entry = (log / f"{0:020d}.json").read_bytes()
    (log / ".unfinished-0011").write_bytes(entry)
    (log / f"{1:020d}.json.torn").write_bytes(entry[:-30])
    (log / f"{0:020d}.crc").write_bytes(entry)
    store.erase("t", keys=KEYS, before=NEVER)
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_a_file_that_cannot_be_read_is_no_reason_to_say_that_all_is_gone(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    store.append("t", people("zoe"))
    file = next((tmp_path / "t").glob("part-*.parquet"))
    file.chmod(0o644)
    file.write_bytes(b"PAR1" + bytes(100))
    with raising(Corrupted, naming="cannot be erased from"):
        store.erase("t", keys=[{"name": PERSON}, {"name": "zoe"}], before=LATER)
    assert store.snapshot("t").version == 1


@pytest.mark.parametrize("what", ["_change_data", "deletion vectors"])
def test_rows_kept_where_we_cannot_look_are_a_refusal(tmp_path: Path, what: str) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))
    store.append("t", people("zoe"))
    if what == "_change_data":
        (tmp_path / "t" / "_change_data").mkdir()
        (tmp_path / "t" / "_change_data" / "cdc-1.parquet").write_bytes(b"PAR1")
    else:
        entry = tmp_path / "t" / "_delta_log" / f"{0:020d}.json"
        lines = [json.loads(line) for line in entry.read_bytes().splitlines()]
        for line in lines:
            if "add" in line:
                line["add"]["deletionVector"] = {"storageType": "u"}
        entry.write_text("\n".join(map(json.dumps, lines)))
    with raising(Refused, naming="cannot be erased from"):
        DeltaTables(tmp_path).erase("t", keys=KEYS, before=LATER)


def test_a_plan_is_finished_by_whoever_erases_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for other keys; and a vacuum takes nothing that a plan still needs."""
    store = DeltaTables(tmp_path)
    lived(store)
    before = named(store)

    def full(*_: object) -> None:
        raise OutOfSpace("no room")

    with monkeypatch.context() as patched:
        patched.setattr("fourfold.adapters.delta.carrying._change", full)
        with raising(OutOfSpace, naming="do it again"):
            store.erase("t", keys=KEYS, before=LATER)
    assert named(store)[: len(before)] == before
    store.vacuum("t", keep=range(100), before=LATER)
    told = store.erase("t", keys=[{"name": "nobody"}], before=LATER)
    assert told.rows == {}
    assert traces(tmp_path, PERSON, NUMBER) == []
    assert named(store)[: len(before)] == [[n for n in version if n != PERSON] for version in before]


def test_an_erasure_that_goes_on_tells_what_it_did_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON))

    def full(*_: object) -> None:
        raise OutOfSpace("no room")

    with monkeypatch.context() as patched:
        patched.setattr("fourfold.adapters.delta.carrying._change", full)
        with raising(OutOfSpace):
            store.erase("t", keys=KEYS, before=LATER)
    assert store.erase("t", keys=KEYS, before=LATER).rows == {"t": {0: 1}}
    assert store.snapshot("t").version == 1


def test_a_writer_that_had_read_a_file_with_the_rows_looks_again(tmp_path: Path) -> None:
    """An upsert prepared before, and committed after, brings nothing back."""
    from fourfold.adapters.delta.files import Staged
    from fourfold.adapters.delta.keyed import Upsert
    from fourfold.adapters.delta.payload import Payload
    from fourfold.adapters.delta.transaction import perform

    store, other = DeltaTables(tmp_path), DeltaTables(tmp_path)
    store.append("t", people("ada", PERSON, "bob"))
    staged = Staged(other._place, "t")
    change = Upsert("t", Payload("t", people("bob", start=5), staged), staged, key=("name",))
    change.prepare(other._log("t").there())  # it has written ada and the person anew, without bob
    store.erase("t", keys=KEYS, before=NEVER)
    commit = perform(other._log("t"), change, staged, Mark())
    assert commit is not None
    assert commit.rows == 2
    assert named(other)[-1] == ["ada", "bob"]
    assert traces(tmp_path, PERSON, NUMBER) == []
