"""What a unit of work on the SQLite catalog costs, alone and among four writing processes.

    python benchmarks/catalog.py [--quick] [--json]

A unit writes one row and its audit entry. The peer is the same two statements by plain SQLAlchemy Core, the
limit by `sqlite3`, all at the same settings (WAL, synchronous NORMAL, BEGIN IMMEDIATE). A ratio above 1 says
that ours is the quicker one; a writer that fails ends the benchmark.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.catalog.tables import audit, project

WRITERS = 4
AIM = 0.8


@dataclass
class Row:
    """One claim: seconds for ours, the peer and the limit; ratio = peer / ours."""

    claim: str
    ours: float
    peer: float
    limit: float
    ratio: float
    aim: float
    held: bool


def ours(path: Path, count: int, prefix: str) -> list[float]:
    service = CatalogService(Catalog.open(f"sqlite:///{path}"), SystemClock())
    taken = []
    for index in range(count):
        start = time.perf_counter()
        service.set_project(f"{prefix}{index}", "x")
        taken.append(time.perf_counter() - start)
    return taken


def peer(path: Path, count: int, prefix: str) -> list[float]:
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", _settings)
    taken = []
    for index in range(count):
        start = time.perf_counter()
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            row = {"key": f"{prefix}{index}", "value": "x", "at_us": 1, "by": "me"}
            connection.execute(insert(project).values(row).on_conflict_do_nothing())
            entry = {"at_us": 1, "principal": "me", "action": "project.set", "kind": "project"}
            named = {"name": f"{prefix}{index}", "version": "", "facts": b"{}"}
            connection.execute(audit.insert().values(**entry, **named))
            connection.commit()
        taken.append(time.perf_counter() - start)
    return taken


def limit(path: Path, count: int, prefix: str) -> list[float]:
    connection = sqlite3.connect(path, timeout=30)
    _settings(connection)
    taken = []
    for index in range(count):
        start = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO catalog_project VALUES (?, 'x', 1, 'me')", (f"{prefix}{index}",))
        connection.execute(
            "INSERT INTO catalog_audit (at_us, principal, action, kind, name, version, facts) "
            "VALUES (1, 'me', 'project.set', 'project', ?, '', x'7b7d')",
            (f"{prefix}{index}",),
        )
        connection.execute("COMMIT")
        taken.append(time.perf_counter() - start)
    return taken


def _settings(connection: Any, _record: object = None) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=NORMAL")


WAYS = {"ours": ours, "peer": peer, "limit": limit}


def together(path: Path, count: int, way: str) -> list[float]:
    """All units of four processes that write at once."""
    command = [sys.executable, __file__, "--writer", way, str(path), str(count)]
    writers = [subprocess.Popen([*command, f"{way}{n}-"], stdout=subprocess.PIPE) for n in range(WRITERS)]
    answers = [writer.communicate()[0] for writer in writers]
    assert not any(writer.returncode for writer in writers), "a writer failed"
    return [taken for answer in answers for taken in json.loads(answer)]


def p99(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100)[-1]


def measure(folder: Path, *, quick: bool) -> list[Row]:
    path, count = folder / "catalog.db", 300 if quick else 2000
    Catalog.open(f"sqlite:///{path}").close()
    alone = {way: run(path, count, f"alone-{way}") for way, run in WAYS.items()}
    crowd = {way: together(path, count, way) for way in WAYS}
    return [
        row("one process, median", {way: statistics.median(taken) for way, taken in alone.items()}),
        row(f"{WRITERS} processes, median", {way: statistics.median(taken) for way, taken in crowd.items()}),
        row(f"{WRITERS} processes, p99", {way: p99(taken) for way, taken in crowd.items()}),
    ]


def row(claim: str, taken: dict[str, float]) -> Row:
    ratio = taken["peer"] / taken["ours"]
    return Row(claim, taken["ours"], taken["peer"], taken["limit"], ratio, AIM, ratio >= AIM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer units")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--writer", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        way, path, count, prefix = options.writer
        print(json.dumps(WAYS[way](Path(path), int(count), prefix)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), quick=options.quick)
    if options.json:
        print(json.dumps([asdict(one) for one in rows], indent=2))
    else:
        for one in rows:
            figures = ", ".join(f"{way} {getattr(one, way) * 1000:.3f} ms" for way in WAYS)
            mark = "held  " if one.held else "MISSED"
            print(f"{mark} {one.ratio:5.2f} (aim {one.aim})  {one.claim}: {figures}")
    return 0 if all(one.held for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
