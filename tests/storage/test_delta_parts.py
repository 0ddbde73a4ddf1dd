"""What the parts of the Delta adapter promise beyond the port: bounds, doubt, order, other writers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.adapters.delta import DeltaTables, checkpoint, files, payload
from fourfold.adapters.delta.compact import curved
from fourfold.adapters.delta.keyed import KeySet
from fourfold.adapters.delta.local import LocalPlace
from fourfold.core.errors import Conflict, NotFound, Unavailable
from fourfold.core.ports.tables import Evolution
from fourfold.core.times import Instant
from fourfold.testing.table_kit.given import held, numbers, rows, stream, words

# Bounds


def test_a_stream_is_written_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HELD_BYTES", 1 << 20)
    monkeypatch.setattr(files, "CHUNK_BYTES", 1 << 18)
    begun, most = pa.total_allocated_bytes(), 0
    schema = pa.schema([("n", pa.int64()), ("part", pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal most
        for number in range(200):
            values = np.arange(number * 8192, (number + 1) * 8192)
            yield pa.record_batch([values, values % 7], schema=schema)
            most = max(most, pa.total_allocated_bytes() - begun)

    store = DeltaTables(tmp_path)
    data = pa.RecordBatchReader.from_batches(schema, batches())
    assert store.append("t", data, partition_by=("part",)).rows == 200 * 8192
    assert most < 12 << 20, "26 MB went through"
    assert store.snapshot("t").file_count > 7
    found = store.scan("t", version=0, columns=("n",), where=(("part", "==", 3),)).read_all()
    assert len(found) == sum(1 for n in range(200 * 8192) if n % 7 == 3)


def test_an_upsert_writes_only_the_files_that_hold_its_keys(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    for start in range(0, 50, 10):
        store.append("t", words(*((n, "a") for n in range(start, start + 10))))
    before = set(tmp_path.rglob("*.parquet"))
    commit = store.upsert("t", words((12, "b"), (17, "b"), (99, "b")), key=("id",))
    assert (commit.rows_added, commit.rows_removed) == (3, 2)
    assert len(set(tmp_path.rglob("*.parquet")) - before) == 2  # ten rows less two, and the new ones


def test_a_file_of_which_every_row_goes_is_not_read(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", rows(1, 2))
    store.append("t", rows(5, 6))
    for path in tmp_path.rglob("*.parquet"):
        path.write_bytes(b"no longer what it was")
    assert store.delete("t", where=(("n", "<", 4),)).rows == 2
    assert store.delete("t", where=(("n", ">", 100),)).rows == 2


# Order


key = st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 3), st.booleans())


@pytest.mark.property
@given(st.lists(key, max_size=8, unique=True), st.lists(key, max_size=8))
def test_a_set_of_keys_finds_those_and_no_others(
    known: list[tuple[str | None, int, bool]], asked: list[tuple[str | None, int, bool]]
) -> None:
    def table(keys: list[tuple[str | None, int, bool]]) -> pa.Table:
        columns = list(zip(*keys, strict=True)) or [(), (), ()]
        kinds = (pa.string(), pa.int64(), pa.bool_())
        return pa.table(
            {name: pa.array(values, kind) for name, values, kind in zip("wnb", columns, kinds, strict=True)}
        )

    whole = [key for key in known if key[0] is not None]
    found = KeySet(table(whole)).among(table(asked)).to_pylist() if whole else [False] * len(asked)
    assert found == [key in whole for key in asked]


def test_rows_along_a_curve_are_near_in_each_column() -> None:
    side = 32
    x, y = np.divmod(np.random.default_rng(1).permutation(side * side), side)
    laid = curved(pa.table({"x": x, "y": y}), ["x", "y"])
    for start in range(0, side * side, 64):  # each 64 rows are a square of 8 by 8
        piece = laid.slice(start, 64)
        for column in ("x", "y"):
            values = piece[column].to_numpy()
            assert values.max() - values.min() == 7
    words_too = curved(pa.table({"x": x, "w": [f"{n:02d}" for n in y], "b": y > 3}), ["w", "x", "b"])
    assert len(words_too) == side * side


PLAIN = (
    pa.string(),
    pa.decimal128(12, 2),
    pa.date32(),
    pa.timestamp("us"),
    pa.bool_(),
    pa.float64(),
    pa.binary(),
)


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_rows_are_laid_by_columns_of_every_plain_type(kind: pa.DataType) -> None:
    values = pa.array([3, None, 1, 2, 0, 1], pa.int32())
    if pa.types.is_binary(kind):
        column = values.cast(pa.string()).cast(kind)
    else:
        column = values.cast(pa.int64() if pa.types.is_timestamp(kind) else values.type).cast(kind)
    data = pa.table({"a": column, "b": values})
    for columns in (["a"], ["a", "b"]):
        assert len(curved(data, columns)) == 6
        assert set(map(str, curved(data, columns)["b"].to_pylist())) == {"None", "0", "1", "2", "3"}


def test_a_table_laid_anew_skips_files_by_any_of_the_columns(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    x, y = np.divmod(np.random.default_rng(1).permutation(4096), 64)
    store.append("t", pa.table({"x": x, "y": y}))
    assert store.compact("t", cluster_by=("x", "y"), target_bytes=2048) is not None
    assert store.snapshot("t").file_count > 4
    for path in sorted(tmp_path.glob("t/part-*.parquet")):
        if pq.read_metadata(path).num_rows < 4096:
            piece = pq.read_table(path)
            spread = [np.ptp(piece[column].to_numpy()) for column in ("x", "y")]
            assert min(spread) < 63
    assert store.compact("t", cluster_by=("x", "y"), target_bytes=2048) is None


# Doubt


class Doubtful(LocalPlace):
    """A place that stores an entry and then does not say so."""

    is_silent = False
    is_blind = False

    def put_if_absent(self, path: str, data: bytes) -> bool:
        done = super().put_if_absent(path, data)
        if self.is_silent:
            raise OSError(errno.EIO, "Input/output error")
        return done

    def get(self, path: str) -> bytes | None:
        if self.is_blind:
            raise OSError(errno.EIO, "Input/output error")
        return super().get(path)


def test_a_commit_whose_answer_was_lost_is_found_in_the_log(tmp_path: Path) -> None:
    place = Doubtful(tmp_path)
    store = DeltaTables(place)
    store.append("t", rows(1))
    place.is_silent = True
    assert store.append("t", rows(2)).version == 1
    assert numbers(store) == [1, 2]


def test_what_nobody_can_say_is_said_to_be_in_doubt_and_its_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Doubtful(tmp_path)
    store = DeltaTables(place)
    store.append("t", rows(1))
    place.is_silent = True
    put = place.put_if_absent

    def blinding(path: str, data: bytes) -> bool:
        place.is_blind = True
        return put(path, data)

    monkeypatch.setattr(place, "put_if_absent", blinding)
    with pytest.raises(Unavailable, match="not known"):
        store.append("t", rows(2))
    assert numbers(DeltaTables(tmp_path)) == [1, 2]


def test_whatever_comes_after_a_commit_its_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fourfold.adapters.delta.transaction.CHECKPOINT_EVERY", 1)
    store = DeltaTables(tmp_path)
    store.append("t", rows(1))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "written", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append("t", rows(2))
    assert numbers(store) == [1, 2]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "written", lambda *_: 1 / 0)
        assert store.append("t", rows(3)).version == 2
    assert numbers(DeltaTables(tmp_path)) == [1, 2, 3]


# Others


def test_a_table_dropped_while_it_is_written_to_is_not_made_of_lost_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "PIECE_ROWS", 1)
    monkeypatch.setattr(files, "CHUNK_BYTES", 1)
    store, other = DeltaTables(tmp_path), DeltaTables(tmp_path)
    store.append("t", rows(1))

    def batches() -> Iterator[pa.RecordBatch]:
        yield from rows(2, 3).to_batches()
        yield from rows(4).to_batches()
        other.drop("t")
        yield from rows(5).to_batches()

    with pytest.raises(Conflict, match="dropped"):
        store.append("t", pa.RecordBatchReader.from_batches(rows().schema, batches()))
    assert store.names() == ()
    assert store.append("t", rows(4)).version == 0


def test_a_table_made_anew_by_another_is_seen_as_new(tmp_path: Path) -> None:
    store, other = DeltaTables(tmp_path), DeltaTables(tmp_path)
    store.append("t", rows(1))
    store.append("t", rows(2))
    other.drop("t")
    other.append("t", words((1, "a")))
    assert held(store) == [(1, "a")]
    assert store.snapshot("t").version == 0
    other.drop("t")
    with pytest.raises(NotFound):
        store.snapshot("t")


def test_a_stream_goes_in_again_when_the_columns_got_wider_meanwhile(tmp_path: Path) -> None:
    store, other = DeltaTables(tmp_path), DeltaTables(tmp_path)
    narrow = pa.schema([("n", pa.int32()), ("day", pa.date32())])
    store.append("t", rows(1).cast(narrow))

    def batches() -> Iterator[pa.RecordBatch]:
        yield from rows(2).cast(narrow).to_batches()
        other.evolve("t", Evolution(widen={"n": pa.int64()}))
        yield from rows(3).cast(narrow).to_batches()

    commit = store.append("t", pa.RecordBatchReader.from_batches(narrow, batches()))
    assert (commit.version, commit.rows, commit.rows_added) == (2, 3, 2)
    assert numbers(store) == [1, 2, 3]
    store.vacuum("t", keep=range(3), before=Instant(2**60))
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


def test_a_stream_that_breaks_off_leaves_nothing_and_its_error_as_it_was(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", rows(1))

    def batches() -> Iterator[pa.RecordBatch]:
        yield from rows(2).to_batches()
        raise OSError("the source went away")

    with pytest.raises(OSError, match="the source went away"):
        store.append("t", pa.RecordBatchReader.from_batches(rows().schema, batches()))
    assert numbers(store) == [1]
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from fourfold.adapters.delta import DeltaTables

store, number = DeltaTables(Path(sys.argv[1])), int(sys.argv[2])
sys.stdin.readline()
for turn in range(8):
    store.append("t", pa.table({"id": [1000 * (number + 1) + turn], "word": ["a"]}))
    if number == 0 and turn % 2:
        store.compact("t")
    if number == 1:
        store.upsert("t", pa.table({"id": [turn], "word": ["upserted"]}), key=("id",))
    if number == 2 and turn == 4:
        store.delete("t", where=(("id", "==", 9999),))
"""


@pytest.mark.slow
def test_processes_that_write_at_once_in_many_ways_lose_nothing_and_fail_nothing(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", words((9999, "goes"), *((n, "old") for n in range(8))))
    begin = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*begin, str(n)], stdin=subprocess.PIPE, env=os.environ) for n in range(4)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.close()
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 4
    wanted = {1000 * (number + 1) + turn: "a" for number in range(4) for turn in range(8)}
    wanted |= dict.fromkeys(range(8), "upserted")
    assert held(store) == sorted(wanted.items(), key=repr)
    total = 0
    for commit in reversed(store.history("t")):
        total += commit.rows_added - commit.rows_removed
        assert commit.rows == total


def test_threads_of_a_process_see_each_others_commits_in_order(tmp_path: Path) -> None:
    store = DeltaTables(tmp_path)
    store.append("t", stream(rows(0)))
    seen: list[list[int]] = [[] for _ in range(3)]

    def write(number: int) -> None:
        for turn in range(5):
            seen[number].append(store.append("t", rows(10 * number + turn)).version)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(version for versions in seen for version in versions) == list(range(1, 16))
    assert all(versions == sorted(versions) for versions in seen)
