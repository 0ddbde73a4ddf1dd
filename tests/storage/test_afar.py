"""A project whose blobs and tables lie in an object store, from its settings to a flow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from tests.storage.backups import back_up, content, fill, opened

from fourfold import wiring
from fourfold.core.backups import silent
from fourfold.core.errors import Refused
from fourfold.core.objects import Key, ObjectAddress
from fourfold.core.settings import Settings
from fourfold.testing.raising import raising

ICEBERG = 'tables = "iceberg+sqlite:///iceberg.db"\n'
FLOW = """
import pyarrow as pa
import fourfold as ff

@ff.step
def build(day: int) -> pa.Table:
    table = pa.table({"day": [day] * 3, "n": [1, 2, 3]})
    ff.table("raw").append(table)
    return table

@ff.step
def total(data: pa.Table) -> int:
    return sum(data["n"].to_pylist())

@ff.flow
def nightly(days: list[int] = [1, 2]) -> int:
    return sum(total(build(day)).result() for day in days)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.setenv("FOURFOLD_HOME", str(folder / ".fourfold"))
    return folder


@pytest.fixture
def project(folder: Path, s3: str) -> Iterator[wiring.Project]:
    (folder / "fourfold.toml").write_text(f'storage = "{s3}"\n')
    project = wiring.open_project()
    yield project
    project.close()


@pytest.mark.slow
def test_tables_and_blobs_lie_in_the_store_that_the_settings_name(project: wiring.Project, s3: str) -> None:
    from fourfold.adapters.object_store import ObstoreObjects

    project.storage.append("t", pa.table({"n": [1, 2]}))
    digest = project.blobs.put(b"bytes")
    objects = ObstoreObjects(ObjectAddress.parse(s3))
    assert objects.stat(Key("tables/t/_delta_log/00000000000000000000.json")) is not None
    assert [stat.key.endswith(digest[7:]) for stat in objects.listing("blobs")] == [True]
    assert project.storage.read("t")["n"].to_pylist() == [1, 2]
    assert not list(project.home.rglob("*.parquet"))


@pytest.mark.slow
def test_a_flow_runs_on_it(folder: Path, project: wiring.Project) -> None:
    (folder / "work.py").write_text(FLOW)
    command = [str(Path(sys.executable).with_name("fourfold")), "flow", "run", "work.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    read = project.storage.read("raw")
    assert sorted(read["day"].to_pylist()) == [1, 1, 1, 2, 2, 2]
    assert project.storage.describe("raw").version == 1
    assert len(list(project.blobs.digests())) > 0


@pytest.mark.slow
def test_a_local_project_moves_to_a_store_by_backup(tmp_path: Path, s3: str) -> None:
    here, there = tmp_path / "here" / ".fourfold", tmp_path / "there" / ".fourfold"
    with opened(here) as project:
        fill(project)
        backup = back_up(project, tmp_path / "backup")
    settings = Settings(storage=s3)
    with closing(wiring.open_archive(tmp_path / "backup")) as archive:
        wiring.restore(there, settings, archive, number=None, progress=silent)
    with closing(wiring.Project(there, settings)) as project:
        assert content(back_up(project, tmp_path / "again")) == content(backup)
        assert [project.storage.read("flights", version=n).num_rows for n in (0, 1)] == [2, 3]
        project.storage.append("flights", pa.table({"n": [4], "name": ["d"]}))
    assert not list(there.rglob("*.parquet"))


@pytest.mark.slow
def test_tables_may_be_in_iceberg_format_there(folder: Path, s3: str) -> None:
    from fourfold.adapters.object_store import ObstoreObjects

    (folder / "fourfold.toml").write_text(f'storage = "{s3}"\n{ICEBERG}')
    project = wiring.open_project()
    try:
        project.storage.append("t", pa.table({"n": [1, 2]}))
        project.storage.append("t", pa.table({"n": [3]}))
        assert project.storage.read("t", version=0)["n"].to_pylist() == [1, 2]
        assert (folder / "iceberg.db").exists()
        keys = [stat.key for stat in ObstoreObjects(ObjectAddress.parse(s3)).listing("iceberg/fourfold")]
        assert any(key.endswith(".parquet") for key in keys)
        with raising(Refused, naming="not part of a backup"):
            _ = project.copies
    finally:
        project.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "tables", ["", 'tables = "iceberg+sqlite:///iceberg.db"\n'], ids=["delta", "iceberg"]
)
def test_rows_are_inserted_there_a_few_at_a_time(folder: Path, s3: str, tables: str) -> None:
    (folder / "fourfold.toml").write_text(f'storage = "{s3}"\n{tables}')
    with closing(wiring.open_project()) as project:
        for n in range(3):
            project.storage.insert("t", pa.table({"n": [n]}))
        assert sorted(project.storage.read("t")["n"].to_pylist()) == [0, 1, 2]
        flushed = project.storage.flush("t")
        project.storage.insert("t", pa.table({"n": [3]}))
        assert (flushed.rows, project.storage.read("t").num_rows) == (3, 4)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"storage": "s3://"}, "names a bucket"),
        ({"storage": "s3://b?regoin=x"}, "did you mean 'region'"),
        ({"storage": "ftp://b"}, "s3://…"),
        ({"tables": "iceberg://x"}, r"iceberg\+sqlite://…"),
        ({"tables": "delta://x"}, r"iceberg\+https://…"),
    ],
)
def test_an_address_that_nobody_answers_is_refused(setting: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        Settings.parse(setting, {})
