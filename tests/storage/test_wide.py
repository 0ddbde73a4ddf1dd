"""A table of 10,000 columns goes through every verb of storage, in bounded time and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import fourfold as ff
from fourfold.core import context
from fourfold.core.decide.schemas import MOST_COLUMNS
from fourfold.core.errors import Refused
from fourfold.core.settings import Settings
from fourfold.wiring import Project

pytestmark = pytest.mark.slow

ROWS = 200
MOST_CPU_S = 40.0
"""Some four times of what the slowest verb takes here: what grows with the columns' square takes minutes."""
MOST_BYTES = 2 * 2**30


def wide(count: int = ROWS, *, start: int = 0, seed: int = 0) -> pa.Table:
    """Whole numbers, floats and texts by turns, behind a key."""
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 9, (MOST_COLUMNS, count))
    floats = random.normal(size=(MOST_COLUMNS, count))
    words = np.array([f"word {n}" for n in range(9)])
    columns = {"id": pa.array(range(start, start + count), pa.int64())}
    for index in range(1, MOST_COLUMNS):
        values = (numbers[index], floats[index], words[numbers[index]].tolist())[index % 3]
        columns[f"c{index}"] = pa.array(values)
    return pa.table(columns)


def changed(data: pa.Table, rows: slice) -> pa.Table:
    """The same rows, of which some have another value in the last column."""
    values = data["c9999"].to_pylist()
    values[rows] = [9] * len(values[rows])
    return data.set_column(MOST_COLUMNS - 1, "c9999", pa.array(values, data["c9999"].type))


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """What is done within takes no more than it may."""
    status = Path("/proc/self/status")
    has_peak = status.exists() and os.access("/proc/self/clear_refs", os.W_OK)
    if has_peak:
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 if has_peak else 0
    began = time.process_time()
    yield
    cpu_s = time.process_time() - began
    peak = 0
    if has_peak:
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        peak = int(line.split()[1]) * 1024 - before  # earlier tests have left their own in this process
    print(f"{what}: {cpu_s:.1f} s, at most {peak / 2**30:.2f} GiB")
    assert cpu_s < MOST_CPU_S, f"{what} took {cpu_s:.0f} s"
    assert peak < MOST_BYTES, f"{what} held {peak / 2**30:.1f} GiB"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with closing(Project(tmp_path / ".fourfold", Settings())) as opened:
        monkeypatch.setattr(context, "_opener", lambda: opened)
        yield opened


@pytest.fixture
def table(project: Project) -> ff.Table:
    assert project
    made = ff.table("wide")
    with bounded("create"):
        made.append(wide())
    return made


def test_a_wide_table_is_written_read_described_and_asked(project: Project, table: ff.Table) -> None:
    with bounded("append"):
        table.append(wide(10, start=ROWS, seed=1))
    with bounded("upsert"):
        table.upsert(wide(10, start=ROWS + 5, seed=2), key="id")
    with bounded("delete"):
        table.delete(where=[("id", ">=", ROWS + 12)])
    with bounded("compact"):
        table.compact()
    with bounded("describe"):
        assert (table.describe().rows, len(table.describe().columns)) == (ROWS + 12, MOST_COLUMNS)
        assert len(table.history()) == 5
    with bounded("read"):
        assert table.read().sort_by("id").slice(0, ROWS).equals(wide())
        assert table.read(columns=["c9999"], where=[("id", "==", 7)]).num_rows == 1
    with bounded("query"):
        assert ff.query("select sum(c3) from wide where id < 200").fetchall() == [
            (sum(wide()["c3"].to_pylist()),)
        ]
        assert ff.query("select * from wide").to_arrow_table().num_columns == MOST_COLUMNS
    with bounded("a table made of it"):
        ff.table("copied").overwrite(ff.query("select * from wide"))
        assert ff.table("copied").describe().rows == ROWS + 12
    with bounded("the lineage of its columns"):
        graph = project.catalog.column_lineage("table", "copied", version="0", limit=MOST_COLUMNS)
        assert len(graph.edges) == MOST_COLUMNS
        assert all(edge.source_column == edge.column for edge in graph.edges)


def test_rows_of_it_wait_in_the_buffer_and_are_flushed(table: ff.Table) -> None:
    with bounded("insert"):
        for start in range(ROWS, ROWS + 5):
            table.insert(wide(1, start=start))
    with bounded("live read"):
        assert table.read(columns=["id"]).num_rows == ROWS + 5
    with bounded("flush"):
        assert table.flush().rows == ROWS + 5
    with bounded("insert in older columns"):
        table.insert(wide(1, start=900))
        table.evolve(rename={"c1": "first"})
        assert table.flush().rows == ROWS + 6


def test_its_figures_are_counted_merged_and_released(table: ff.Table) -> None:
    with bounded("statistics"):
        assert len(table.stats().columns) == MOST_COLUMNS
    with bounded("append with figures"):
        table.expect()
        table.append(wide(10, start=ROWS, seed=1))
    with bounded("release"):
        bundle = ff.dataset("bundle")
        bundle.define(["wide"])
        assert bundle.release().member("wide").rows == ROWS + 10


def test_two_versions_of_it_are_compared(table: ff.Table) -> None:
    table.overwrite(changed(wide(), slice(10, 13)))
    with bounded("diff"):
        found = table.diff(before=0, limit=3)
        assert (found.added, found.removed, found.changed) == (3, 3, 0)
        assert [row["id"] for row in found.added_rows] == [10, 11, 12]
    with bounded("diff by key"):
        found = table.diff(before=0, key="id", limit=1)
        assert (found.added, found.removed, found.changed) == (0, 0, 3)
        ((before, after),) = found.changed_rows
        assert {name for name in after if after[name] != before[name]} == {"c9999"}
    with bounded("changes"):
        rows = table.changes(before=0, key="id").read_all()
        assert rows["change"].to_pylist() == ["before", "after"] * 3
        assert rows["id"].to_pylist() == [10, 10, 11, 11, 12, 12]
        assert rows.num_columns == MOST_COLUMNS + 1


def test_rows_that_are_not_as_expected_are_refused_and_kept(table: ff.Table) -> None:
    with bounded("expect"):
        table.expect(ff.expect.unique("id"), ff.expect.not_null("c9999"))
    with bounded("a checked append"):
        table.append(wide(10, start=ROWS))
    with bounded("a refused append"), pytest.raises(Refused, match="not as expected") as refused:
        table.append(wide(10, start=ROWS + 5))
    with bounded("its rows"):
        rows = table.rejected(str(refused.value.facts["rejection"]))
        assert (rows["id"].to_pylist(), rows.num_columns) == ([*range(205, 210)], MOST_COLUMNS + 1)
    with bounded("check"):
        assert table.check().passed
    with pytest.raises(Refused, match="at most 500 columns can be unique together, not 10,000"):
        table.expect(ff.expect.unique(*wide(0).column_names))
