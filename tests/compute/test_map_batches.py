"""A function over the batches of a table gives the same, in processes here and on Ray Data."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from tests.compute.conftest import RayCluster
from tests.compute.test_local_engine import UNIT, eventually, is_gone

import fourfold as ff
from fourfold.adapters.local_engine import LocalEngine
from fourfold.adapters.ray import RayEngine, RaySettings
from fourfold.core.errors import FourfoldError, Refused, Unavailable
from fourfold.core.ports.engine import Engine

pytestmark = pytest.mark.slow

NESTED = pa.table(
    {
        "n": pa.array([1, None, 3, 4, 5, None, 7], pa.int64()),
        "text": pa.array(["a", None, "ü😀", "", "x", "y", None]),
        "list": pa.array([[1, 2], None, [], [None], [3], [4], [5]], pa.list_(pa.int8())),
        "struct": pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}] + [{"a": 2, "b": []}] * 4),
        "word": pa.array(["p", "q", None, "p", "p", "q", "q"]).dictionary_encode(),
        "at": pa.array([0, 1, None, 3, 4, 5, 6], pa.timestamp("us", "Europe/Berlin")),
    }
)


def same(table: pa.Table) -> pa.Table:
    return table


def doubled(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table])


def odd_only(table: pa.Table) -> pa.Table:
    return table.filter(pa.compute.equal(pa.compute.bit_wise_and(table["n"], 1), 1))


def counted(table: pa.Table) -> pa.Table:
    return pa.table({"rows": [table.num_rows]})


def one_batch(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0] if table.num_rows else table.schema.empty_table()


def raises_late(table: pa.Table) -> pa.Table:
    if 5 in table["n"].to_pylist():
        raise ValueError("five is not for me")
    return table


def changes_its_mind(table: pa.Table) -> pa.Table:
    return table.select(["n"]) if 5 in table["n"].to_pylist() else table


def returns_nothing(table: pa.Table) -> None:
    return None


def kills_its_process(table: pa.Table) -> pa.Table:
    if 3 in table["n"].to_pylist():
        os.kill(os.getpid(), signal.SIGKILL)
    return table


@pytest.fixture(params=["here", "ray"])
def on(request: pytest.FixtureRequest) -> Iterator[str | Engine]:
    if request.param == "here":
        yield ""
        return
    cluster: RayCluster = request.getfixturevalue("ray_cluster")
    address = f"{cluster.address}&ray_python={cluster.python}"
    engine = RayEngine(RaySettings.parse(address), label=uuid.uuid4().hex)
    yield engine
    engine.reap([])
    engine.close()


CASES: list[tuple[pa.Table, Callable[[pa.Table], object], pa.Table]] = [
    (NESTED, same, NESTED),
    (NESTED.slice(0, 0), same, NESTED.slice(0, 0)),
    (NESTED, odd_only, odd_only(NESTED)),
    (NESTED, counted, pa.table({"rows": [2, 2, 2, 1]})),
    (NESTED, one_batch, NESTED),
    (
        NESTED.select(["n"]),
        doubled,
        pa.concat_tables([doubled(NESTED.select(["n"]).slice(at, 2)) for at in range(0, 7, 2)]),
    ),
]


@pytest.mark.parametrize(
    "case", range(len(CASES)), ids=[str(fn.__name__) + str(t.num_rows) for t, fn, _ in CASES]
)
def test_results_are_those_of_the_function_in_the_order_of_the_rows(on: str | Engine, case: int) -> None:
    table, fn, expected = CASES[case]
    if on and fn is one_batch:
        return  # each job on Ray costs seconds, and this differs from others in the function only
    found = ff.map_batches(table, fn, batch_rows=2, on=on).read_all()
    assert found.schema == expected.schema
    assert found.to_pylist() == expected.to_pylist()


def test_a_pool_is_named_by_the_settings(
    ray_cluster: RayCluster, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{ray_cluster.address}&ray_python={ray_cluster.python}"
    monkeypatch.setenv("FOURFOLD_POOLS_LAB_ENGINE", address)
    assert ff.map_batches(NESTED, same, batch_rows=3, on="lab").read_all() == NESTED


@pytest.mark.parametrize(
    ("fn", "told"),
    [
        (raises_late, "batch 2: the function failed: ValueError: five is not for me"),
        (changes_its_mind, "batch 2: the function returned another schema than for batch 0"),
        (returns_nothing, "batch 0: the function failed: TypeError: the function returned a NoneType"),
    ],
)
def test_an_error_names_its_batch(on: str | Engine, fn: Callable[[pa.Table], pa.Table], told: str) -> None:
    with pytest.raises(Refused, match=told):
        ff.map_batches(NESTED, fn, batch_rows=2, on=on).read_all()


def test_a_process_that_is_killed_names_its_batch_and_leaves_none_behind() -> None:
    with pytest.raises(
        Unavailable, match=r"batch 1: its process ended in the middle of it .killed by signal 9"
    ):
        ff.map_batches(NESTED, kills_its_process, batch_rows=2).read_all()


def test_batches_stream_with_few_under_way() -> None:
    taken = 0

    def endless() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        while True:
            taken += 1
            yield pa.record_batch({"n": [taken]})

    source = pa.RecordBatchReader.from_batches(pa.schema({"n": pa.int64()}), endless())
    reader = ff.map_batches(source, same, batch_rows=1, processes=2)
    assert [reader.read_next_batch()["n"].to_pylist() for _ in range(10)] == [[n] for n in range(1, 11)]
    assert taken <= 10 + 2 * 2 + 1


def test_closing_early_ends_the_processes(tmp_path: Path) -> None:
    def tells(table: pa.Table) -> pa.Table:
        (tmp_path / str(os.getpid())).touch()
        return table

    reader = ff.map_batches(pa.table({"n": list(range(1000))}), tells, batch_rows=1, processes=2)
    reader.read_next_batch()
    del reader
    eventually(lambda: all(is_gone(int(path.name)) for path in tmp_path.iterdir()))


def test_what_the_function_prints_does_not_disturb(capfd: pytest.CaptureFixture[str]) -> None:
    def talks(table: pa.Table) -> pa.Table:
        print("hello from the function")
        os.system("echo from a shell")
        return table

    assert ff.map_batches(NESTED, talks).read_all() == NESTED


def test_what_cannot_be_mapped_is_refused_in_words(tmp_path: Path) -> None:
    lock = threading.Lock()
    for data, fn, rows, told in (
        ("text", same, 1, "cannot read a str"),
        (NESTED, same, 0, "batch_rows is 0"),
        (NESTED, lambda table: lock and table, 1, "cannot travel"),
    ):
        with pytest.raises(FourfoldError, match=told):
            ff.map_batches(data, fn, batch_rows=rows)
    local = LocalEngine(tmp_path, unit=UNIT)
    with pytest.raises(Refused, match="cannot map batches"):
        ff.map_batches(NESTED, same, on=local)
    local.close()
