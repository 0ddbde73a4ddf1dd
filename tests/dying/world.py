"""A project with something in each place, and all that it tells of itself but the time."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.dying.case import Case, Told

from fourfold import wiring
from fourfold.core.context import Ref
from fourfold.core.datasets import Definition
from fourfold.core.errors import FourfoldError
from fourfold.foundation.storage import expect
from fourfold.testing.clock import MovableClock

DAYS = 86_400
AGED_S = 60 * DAYS
SETTINGS = """
[exports]
lake = "iceberg+sqlite:///lake.db"
[buffer]
flush_s = 1000000000.0
"""


def opened(place: Path) -> wiring.Project:
    home = place / ".fourfold"
    return wiring.Project(home, wiring.read_settings(home, {}))


def begin(place: Path) -> None:
    """The base of all cases: two tables, a branch, saved files, a dataset, rows that wait."""
    (place / "tmp").mkdir(parents=True)
    (place / "fourfold.toml").write_text(SETTINGS)
    folder = place / "images"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * (1000 + number))
    with closing(opened(place)) as project:
        storage = project.storage
        storage.append("t", rows(1, 2))
        storage.append("t", rows(3))
        storage.append("checked", rows(1, 2))
        storage.fork("t", "dev")
        storage.append("t@dev", rows(4))
        project.datasets.expect("checked", expect.expected(expect.not_null("n"), expect.unique("n")))
        project.files.save("images", folder)
        project.datasets.define("bundle", Definition({"t": Ref("table", "t", "")}))
        storage.append("inserted", rows(1))
        storage.insert("inserted", rows(2))


def rows(*numbers: int | None) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64()), "word": [f"w{n}" for n in numbers]})


COUNTED = {"catalog_audit", "sqlite_sequence"}
"""Rows whose number tells the order in which they came."""


def told(case: Case, project: wiring.Project) -> Told:
    """All that the project tells, without times and names that chance gave."""
    found: Told = {}
    for info in project.storage.list_tables():
        branches = [f"{info.name}@{branch.name}" for branch in project.storage.branches(info.name)]
        for address in (info.name, *branches):
            found |= _table(project, address)
    for files in project.files.list_files():
        for version in project.files.history(files.name):
            manifest = project.files.manifest(files.name, version=version.version)
            found[f"files {files.name}@{version.version}"] = [
                (file.path, file.digest, project.files.read(files.name, file.path, version=version.version))
                for file in manifest.files
            ]
    with closing(sqlite3.connect(project.home / "catalog.db")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        for (table,) in tables.fetchall():
            first = 1 if table in COUNTED else 0
            rows = connection.execute(f'SELECT * FROM "{table}"')
            lines = sorted(masked(repr(row[first:])) for row in rows)
            if lines:
                found[f"rows of {table}"] = lines
    if case.told_blobs:
        found["blobs"] = sorted(project.blobs.digests())
    return found | {f"beside {name}": each for name, each in beside(project.home.parent)} | case.more(project)


def _table(project: wiring.Project, address: str) -> Told:
    storage = project.storage
    info = storage.describe(address)
    held: dict[str, Any] = {"columns": info.columns, "tags": info.tags}
    for version in storage.history(address):
        held[f"{version.version}"] = (
            version.operation,
            version.rows,
            version.rows_added,
            version.rows_removed,
        )
        try:
            held[f"rows of {version.version}"] = _sorted(storage.read(address, version=version.version))
        except FourfoldError as error:
            held[f"rows of {version.version}"] = type(error).__name__
    held["rows"] = _sorted(storage.read(address))
    return {f"table {address}, {what}": each for what, each in held.items()}


def _sorted(table: pa.Table) -> list[str]:
    return sorted(str(row) for row in table.to_pylist())


def beside(place: Path) -> Iterator[tuple[str, bytes]]:
    """The caller's own files."""
    for path in sorted((place / "out").rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(place).parts):
            yield str(path.relative_to(place)), path.read_bytes()


_TIME = re.compile(r"\b1[5-9]\d{14}\b|20\d\d-\d\d-\d\dT[\d:.]+Z?")
_CHANCE = re.compile(r"(?<![0-9a-z])(?=[0-9a-z]*\d)[0-9a-z]{16,}(?![0-9a-z])")

_IDENTIFIER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=/t-)[0-9a-f]{8}(?=/)")
_SPREAD = re.compile(r"/[0-9a-f]{2}/[0-9a-f]{2}/#")


def masked(text: str) -> str:
    """Without times and what is made by chance."""
    text = _IDENTIFIER.sub("#", text)
    return _SPREAD.sub("/#", _CHANCE.sub("#", _TIME.sub("TIME", text)))


def aged_files(place: Path) -> None:
    """Let every file be old, as far as files tell."""
    long_ago = time.time() - AGED_S
    for path in place.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (long_ago, long_ago))


def aged(case: Case, place: Path) -> list[str]:
    """Which files there are two months later, once all that sweeps has swept; by kind, not by name."""
    aged_files(place)
    with closing(opened(place)) as project:
        clock = MovableClock(project.clock.now())
        clock.advance(AGED_S)
        project.parts["clock"] = clock
        assert project.upkeep.check().bad == project.upkeep.missing() == project.upkeep.quarantine() == ()
        project.storage.catch_up()
        for info in project.storage.list_tables():
            project.storage.vacuum(info.name, older_than_s=DAYS)
        project.upkeep.collect_garbage()
    names = (masked(str(path.relative_to(place))) for path in place.rglob("*") if path.is_file())
    return sorted(
        name for name in names if not name.endswith(("-wal", "-shm")) and not name.startswith("tmp/")
    )
