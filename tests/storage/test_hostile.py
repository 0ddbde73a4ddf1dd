"""Whatever names, types and times a table has, every door of storage deals with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

import fourfold as ff
from fourfold.core import context
from fourfold.core.rows import rows_of
from fourfold.core.settings import Settings
from fourfold.testing.table_kit.hostile import KINDS, ODD_NAMES
from fourfold.wiring import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    with closing(Project(tmp_path / ".fourfold", Settings())) as opened:
        monkeypatch.setattr(context, "_opener", lambda: opened)
        yield opened


def test_columns_with_odd_names_go_through_every_door(project: Project) -> None:
    table = ff.table("odd")
    data = pa.table({"id": [1, 2], **{name: [f"{name} 1", f"{name} 2"] for name in ODD_NAMES}})
    table.append(data)
    assert table.insert(data.slice(1, 1).set_column(0, "id", pa.array([3]))).rows == 1
    assert rows_of(table.read(where=[("id", "==", 3)]))[0]["a/b"] == "a/b 2"
    for name in ODD_NAMES:
        assert table.read(columns=[name], where=[(name, "==", f"{name} 1")]).column_names == [name]
        quoted = '"' + name.replace('"', '""') + '"'
        asked = ff.query(f"select {quoted} as found from odd where {quoted} = $${name} 2$$")
        assert asked.to_arrow_table()["found"].to_pylist() == [f"{name} 2"] * 2
        assert table.stats().column(name).nulls == 0
        assert table.diff(0, key=name, limit=1).added >= 0
        table.evolve(rename={name: f"new {name}"})
        table.evolve(rename={f"new {name}": name})
    table.expect(
        *(ff.expect.not_null(name) for name in ODD_NAMES),
        *(ff.expect.unique("id", name) for name in ODD_NAMES),
        ff.expect.matches("😀", ".*😀.*"),
        ff.expect.sql('"a/b" like \'a/b%\' and "say ""hi""" is not null'),
    )
    table.append(data.set_column(0, "id", pa.array([8, 9])))
    assert table.check().passed
    ff.table("copied").overwrite(ff.query("select * from odd"))
    lineage = project.catalog.column_lineage("table", "copied", column="😀")
    assert "😀" in str(lineage)
    ff.dataset("bundle").define(["odd"])
    assert ff.dataset("bundle").release().member("odd").rows == table.describe().rows


def test_nested_values_decimals_zones_and_far_times_go_through_every_door(project: Project) -> None:
    far = {
        "day": pa.array([2**30, -(2**30), None], pa.date32()),
        "at": pa.array([2**61, -(2**61), None], pa.timestamp("us", "UTC")),
    }
    data = pa.table({"id": [1, 2, 3], **KINDS, **far})
    table = ff.table("kinds")
    table.append(data)
    table.upsert(data.slice(0, 1), key="id")
    table.insert(data.slice(0, 1).set_column(0, "id", pa.array([4])))
    assert rows_of(table.read(where=[("id", "==", 4)]))[0]["struct"] == {"a": 1, "b": {"c": ["x", None]}}
    found = rows_of(ff.query("select * from kinds where id <= 3 order by id").to_arrow_table())
    assert [row["id"] for row in found] == [1, 2, 3]
    assert found[0]["day"] == "2941775-04-07"
    assert table.stats().column("at").greatest == "75039-04-04T19:00:13.693952+00:00"
    assert table.stats().column("map").lengths is not None
    diff = table.diff(0, key="id")
    assert (diff.added, diff.removed, diff.changed) == (1, 0, 0)
    assert diff.added_rows[0]["decimal"] == "-1.23"
    table.expect(ff.expect.unique("id"), ff.expect.not_null("id"))
    table.append(data.slice(0, 1).set_column(0, "id", pa.array([5])))
    assert table.check().passed
    ff.dataset("bundle").define(["kinds"])
    ff.dataset("bundle").release()


def test_tables_without_rows_go_through_every_door(project: Project) -> None:
    table = ff.table("none")
    table.append(pa.table({"id": pa.array([], pa.int64()), **{k: v.slice(0, 0) for k, v in KINDS.items()}}))
    table.expect(ff.expect.unique("id"), ff.expect.not_null("id"), ff.expect.between("id", 0, 9))
    table.append(table.read())
    assert ff.table("nothing").insert(pa.table({"id": pa.array([], pa.int64())})).rows == 0
    assert ff.table("nothing").read().num_rows == 0
    assert ff.query("select count(*) as n from none").to_arrow_table()["n"].to_pylist() == [0]
    assert table.stats().rows == table.diff(0).added == 0
    assert table.check().passed
    ff.dataset("bundle").define(["none"])
    assert ff.dataset("bundle").release().version == 0
    table.compact(cluster_by="id")
    table.upsert(table.read(), key="id")
    table.branch("dev/x").begin()
    table.branch("dev/x").append(table.read())
    assert table.branch("dev/x").publish().rows == 0
