"""What every earlier release left behind is opened by the code of today, on both databases."""

from __future__ import annotations

import datetime as dt
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from tests.conftest import fresh_postgres, import_all_tables

from fourfold import wiring
from fourfold.catalog import portable, upgrade
from fourfold.catalog.database import Catalog
from fourfold.core.flows import RunState
from fourfold.core.lineage import Direction
from fourfold.core.routes import Role
from fourfold.core.settings import Settings
from fourfold.core.wire import number

from .test_migrations import MIGRATIONS, made, shape

pytestmark = pytest.mark.slow

OLD = Path(__file__).parent / "old"
REVISIONS = sorted(path.stem for path in OLD.glob("*.sql"))


def old_sqlite(revision: str, path: Path) -> Path:
    """The catalog's file as that release left it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((OLD / f"{revision}.sql").read_text())
    return path


@pytest.fixture(params=REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def project(request: pytest.FixtureRequest, revision: str, tmp_path: Path) -> Iterator[wiring.Project]:
    """The project of that release, opened with the code of today."""
    home = tmp_path / "project" / ".fourfold"
    with zipfile.ZipFile(OLD / f"{revision}.zip") as archive:
        archive.extractall(home)
    if request.param == "sqlite":
        old_sqlite(revision, home / "catalog.db")
        with closing(wiring.Project(home, Settings())) as opened:
            yield opened
        return
    old = Catalog(f"sqlite:///{old_sqlite(revision, tmp_path / 'old.db')}")
    with fresh_postgres() as url:
        with closing(Catalog(url)) as fresh, old.snapshot() as connection:
            parts = [b"".join(portable.give(connection, each)) for each in portable.tables(connection)]
            portable.take(fresh, revision, [part.splitlines(keepends=True) for part in parts])
        old.close()
        with closing(wiring.Project(home, Settings(catalog=url))) as opened:
            yield opened


def test_its_tables_stand_at_every_version_and_tag(project: wiring.Project) -> None:
    storage = project.storage
    assert {info.name for info in storage.list_tables()} >= {"clean", "departures", "parts", "raw"}
    assert storage.read("raw").num_rows == 24
    assert storage.read("raw", version=0).num_rows == 20
    assert storage.read("raw", tag="reviewed").num_rows == 24
    assert [v.operation for v in storage.history("parts")] == ["overwrite", "create"]
    assert storage.describe("parts").partition_by == ("origin",)
    with pytest.raises(Exception, match="was dropped"):
        storage.read("gone")
    assert storage.append("raw", storage.read("raw", version=1).slice(0, 1)).version == 2


def test_its_lineage_leads_from_the_model_to_the_raw_table(project: wiring.Project) -> None:
    graph = project.catalog.lineage("model", "delays", version="1")
    assert {ref.name for ref in graph.nodes if ref.kind == "table"} >= {"raw", "clean"}
    below = project.catalog.lineage("table", "raw", version="1", direction=Direction.downstream)
    assert "model" in {ref.kind for ref in below.nodes}


def test_its_runs_models_and_flow_runs_are_all_there(project: wiring.Project) -> None:
    models = project.models
    runs = models.search_runs()
    assert [run.name for run in runs] == ["first", "first"]
    assert runs[0].params == {"depth": 3, "kind": "logistic"}
    assert number(runs[0].metrics["worst"]) == float("inf")
    assert [m.value for m in models.metric_history(runs[0].id, key="loss")] == [
        1.0,
        0.5,
        pytest.approx(1 / 3),
    ]
    version = models.resolve("delays@champion")
    assert version.number == 1
    assert version.tags == {"team": "ops", "checked": "yes"}
    assert models.manifest("delays", 1)
    assert models.rules("delays", "champion").is_protected
    assert [event.why for event in models.history("delays")] == ["the first one"]
    flow_runs = project.flows.list()
    assert [run.state for run in flow_runs] == [RunState.succeeded] * 2
    assert len(project.flows.graph(flow_runs[0].id).calls) == 3
    assert [d.flow for d in project.flows.deployments()] == ["nightly"]
    assert len(project.compute.jobs()) == 5
    assert project.compute.environment(runs[0].environment).package_count > 100
    assert [each.name for each in project.hosting.endpoints()] == ["late"]


def test_its_features_are_served_and_what_waited_reaches_its_table(project: wiring.Project) -> None:
    assert [each.service.name for each in project.features.list_services()] == ["delays"]
    assert len(project.features.training_sets()) == 1
    before = project.storage.read("departures").num_rows
    assert project.features.flush("departures") == 3
    assert project.storage.read("departures").num_rows == before + 3
    at = pa.array([dt.datetime(2026, 1, 1, 4, tzinfo=dt.UTC)], pa.timestamp("us", "UTC"))
    found = project.features.training_set("delays", pa.table({"origin": ["JFK"], "at": at}))
    assert found["last"].to_pylist() == [7.0]


def test_its_people_and_its_audit_are_all_there(project: wiring.Project) -> None:
    catalog = project.catalog
    assert {g.principal: g.role for g in catalog.grants()} == {"ada": Role.admin, "bob": Role.editor}
    assert [token.revoked_at is None for token in catalog.tokens()] == [False, True]
    assert catalog.project()["description"] == "Delays of flights \u2708"
    entries = catalog.audit(limit=1000)
    assert {e.action for e in entries} >= {"table.create", "table.drop", "role.grant", "model.tag"}
    catalog.set_project("description", "changed")
    newest = catalog.audit(limit=1)[0]
    assert newest.sequence == entries[0].sequence + 1, "a number that was given is given again"


@pytest.mark.slow
def test_its_model_still_answers_its_example(project: wiring.Project) -> None:
    assert project.models.load("delays@champion").predict(pa.table({"delay": [3.0]})).num_rows == 1


def test_its_file_becomes_what_a_fresh_one_is(revision: str, tmp_path: Path) -> None:
    import_all_tables()
    path = old_sqlite(revision, tmp_path / "old.db")
    assert made(f"sqlite:///{path}", by_migrations=True) == made(
        f"sqlite:///{tmp_path}/fresh.db", by_migrations=True
    )


def test_the_migrations_up_to_a_release_make_what_it_made(revision: str, tmp_path: Path) -> None:
    """So that no migration is edited after it was released."""
    old = Catalog(f"sqlite:///{old_sqlite(revision, tmp_path / 'old.db')}")
    fresh = Catalog(f"sqlite:///{tmp_path}/fresh.db")
    with upgrade.alone(fresh) as connection:
        upgrade.migrate(connection, revision)
    shapes = []
    for catalog in (old, fresh):
        with catalog.read() as connection:
            shapes.append(shape(connection))
        catalog.close()
    assert shapes[0] == shapes[1]


def test_every_release_left_its_data() -> None:
    known = sorted(path.name[1:5] for path in MIGRATIONS.glob("v*.py"))
    assert known[: len(REVISIONS)] == REVISIONS
    assert len(REVISIONS) >= len(known) - 1, "leave old data behind: see CONTRIBUTING, A release"


def test_foreign_keys_hold_after_an_upgrade(revision: str, tmp_path: Path) -> None:
    catalog = Catalog.open(f"sqlite:///{old_sqlite(revision, tmp_path / 'old.db')}")
    with catalog.read() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with pytest.raises(sa.exc.IntegrityError), catalog.write() as connection:
        connection.exec_driver_sql("INSERT INTO catalog_edge VALUES (900, 901, 902, 1)")
    catalog.close()


def test_its_branches_and_what_waits_in_its_buffer_are_there(project: wiring.Project, revision: str) -> None:
    if revision < "0002":
        pytest.skip("it had neither")
    assert [branch.name for branch in project.storage.branches("raw")] == ["dev/try-1"]
    assert project.storage.read("raw@dev/try-1").num_rows == 25
    if project.database.is_sqlite:  # on PostgreSQL a buffer lies in the database, and a backup flushes it
        assert project.storage.read("events").num_rows == 2
