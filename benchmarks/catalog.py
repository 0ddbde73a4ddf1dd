"""What the catalog's repository layer costs on SQLite, alone and among four writing processes.

    python benchmarks/catalog.py [--quick] [--json]

Alone: a unit that writes one row with its audit entry, one that reads a page of the audit, and one that
moves a tag by compare and swap. The peer is the same statements by plain SQLAlchemy Core, the limit by
`sqlite3`, at the same settings (WAL, synchronous NORMAL, BEGIN IMMEDIATE), in interleaved rounds.

Together: four processes write such units one after the other, without a pause, for ten minutes (`--quick`:
five seconds; peer and limit for a tenth of it). What each process got, its median and its p99, are told; a
writer that fails, be it by one busy error, fails the claim.

A ratio above 1 says that ours is the quicker one.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog import tags
from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.catalog.tables import audit, project, tag, tag_move

WRITERS = 4
AIM = 0.8
LEAST_SHARE = 0.5
"""Of the units of four writers, what each should get at least of its even share."""

Unit = Callable[[int], object]


@dataclass
class Row:
    """One claim: ours, the peer and the limit in one unit of measure, and how they compare."""

    claim: str
    ours: float
    peer: float
    limit: float
    ratio: float
    aim: float
    held: bool
    each: dict[str, list[str]] = field(default_factory=dict)
    """What each of several processes got."""


def ours(path: Path, prefix: str) -> dict[str, Unit]:
    catalog, clock = Catalog.open(f"sqlite:///{path}"), SystemClock()
    service = CatalogService(catalog, clock)

    def move(index: int) -> None:
        with catalog.write() as connection:
            tags.put(connection, clock.now(), "table", prefix, "best", str(index))

    return {
        "write": lambda index: service.set_project(f"{prefix}{index}", "x"),
        "read": lambda index: service.audit(before=60 + index % 40, limit=50),
        "move": move,
    }


def peer(path: Path, prefix: str) -> dict[str, Unit]:
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", _settings)

    def write(index: int) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            row = {"key": f"{prefix}{index}", "value": "x", "at_us": 1, "by": "me"}
            connection.execute(insert(project).values(row).on_conflict_do_nothing())
            entry = {"at_us": 1, "principal": "me", "action": "project.set", "kind": "project"}
            named = {"name": f"{prefix}{index}", "version": "", "facts": b"{}"}
            connection.execute(audit.insert().values(**entry, **named))
            connection.commit()

    def read(index: int) -> list[dict[str, Any]]:
        with engine.connect() as connection:
            query = sa.select(audit).order_by(audit.c.sequence.desc()).limit(50)
            rows = connection.execute(query.where(audit.c.sequence < 60 + index % 40))
            return [{**row, "facts": json.loads(row["facts"])} for row in rows.mappings()]

    def move(index: int) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            here = (tag.c.kind == "table") & (tag.c.name == prefix) & (tag.c.tag == "best")
            row = connection.execute(sa.select(tag).where(here)).one_or_none()
            values = {"target": str(index), "at_us": 1, "by": "me", "why": ""}
            named = {"kind": "table", "name": prefix, "tag": "best"}
            if row is None:
                connection.execute(tag.insert().values(**named, **values, version=1))
            else:
                now = here & (tag.c.version == row.version)
                connection.execute(tag.update().where(now).values(**values, version=row.version + 1))
            before = "" if row is None else row.target
            connection.execute(tag_move.insert().values(**named, source=before, **values))
            connection.commit()

    return {"write": write, "read": read, "move": move}


def limit(path: Path, prefix: str) -> dict[str, Unit]:
    connection = sqlite3.connect(path, timeout=30)
    _settings(connection)

    def write(index: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO catalog_project VALUES (?, 'x', 1, 'me')", (f"{prefix}{index}",))
        connection.execute(
            "INSERT INTO catalog_audit (at_us, principal, action, kind, name, version, facts) "
            "VALUES (1, 'me', 'project.set', 'project', ?, '', x'7b7d')",
            (f"{prefix}{index}",),
        )
        connection.execute("COMMIT")

    def read(index: int) -> list[tuple[Any, ...]]:
        query = "SELECT * FROM catalog_audit WHERE sequence < ? ORDER BY sequence DESC LIMIT 50"
        return connection.execute(query, (60 + index % 40,)).fetchall()

    def move(index: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute(
            "SELECT version, target FROM catalog_tag WHERE kind='table' AND name=? AND tag='best'", (prefix,)
        ).fetchone()
        if found is None:
            connection.execute(
                "INSERT INTO catalog_tag VALUES ('table', ?, 'best', ?, 1, 'me', '', 1)", (prefix, str(index))
            )
        else:
            connection.execute(
                "UPDATE catalog_tag SET target=?, at_us=1, by='me', why='', version=? "
                "WHERE kind='table' AND name=? AND tag='best' AND version=?",
                (str(index), found[0] + 1, prefix, found[0]),
            )
        connection.execute(
            "INSERT INTO catalog_tag_move (kind, name, tag, source, target, at_us, by, why) "
            "VALUES ('table', ?, 'best', ?, ?, 1, 'me', '')",
            (prefix, "" if found is None else found[1], str(index)),
        )
        connection.execute("COMMIT")

    return {"write": write, "read": read, "move": move}


def _settings(connection: Any, _record: object = None) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=NORMAL")


WAYS = {"ours": ours, "peer": peer, "limit": limit}
UNITS = {"write": "a row and its audit entry", "read": "a page of the audit", "move": "a tag is moved"}


def alone(path: Path, rounds: int, count: int) -> list[Row]:
    """Medians of all units, the ways taking turns."""
    units = {name: way(path, f"{name}-") for name, way in WAYS.items()}
    taken: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds):
        for kind in UNITS:
            for name in WAYS:
                times = taken.setdefault((kind, name), [])
                for index in range(turn * count, (turn + 1) * count):
                    start = time.perf_counter()
                    units[name][kind](index)
                    times.append(time.perf_counter() - start)
    return [
        row(f"one process: {what}, ms", {name: 1000 * statistics.median(taken[kind, name]) for name in WAYS})
        for kind, what in UNITS.items()
    ]


@dataclass
class Got:
    """What one of several writers got done."""

    units: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    errors: int


def write_for(way: str, path: Path, seconds: float, prefix: str) -> Got:
    """Write one unit after the other, from the moment that the parent says so."""
    write = WAYS[way](path, prefix)["write"]
    write(-1)
    print("ready", flush=True)
    sys.stdin.readline()
    taken: list[float] = []
    errors = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        start = time.perf_counter()
        try:
            write(len(taken) + errors)
        except Exception as error:  # counted: the claim is that there is none
            errors += 1
            print(f"{way}: {error}", file=sys.stderr)
        else:
            taken.append(time.perf_counter() - start)
    parts = statistics.quantiles(taken, n=100)
    return Got(len(taken), 1000 * parts[49], 1000 * parts[98], 1000 * max(taken), errors)


def together(path: Path, seconds: dict[str, float]) -> list[Row]:
    """Four processes that write at once, for each way."""
    got = {way: _crowd(path, way, seconds[way]) for way in WAYS}
    each = {
        way: [
            f"{g.units} units, p50 {g.p50_ms:.2f}, p99 {g.p99_ms:.2f}, longest {g.longest_ms:.0f} ms"
            for g in all_
        ]
        for way, all_ in got.items()
    }
    rate = {way: sum(g.units for g in all_) / seconds[way] for way, all_ in got.items()}
    share = {
        way: min(g.units for g in all_) / sum(g.units for g in all_) * WRITERS for way, all_ in got.items()
    }
    worst = {way: max(g.p99_ms for g in all_) for way, all_ in got.items()}
    errors = sum(g.errors for g in got["ours"])
    name = f"{WRITERS} writers"
    return [
        Row(
            f"{name}, {seconds['ours']:.0f} s: errors",
            ours=errors,
            peer=sum(g.errors for g in got["peer"]),
            limit=sum(g.errors for g in got["limit"]),
            ratio=float(not errors),
            aim=1.0,
            held=not errors,
            each=each,
        ),
        row(f"{name}: units per second", rate, more_is_better=True),
        row(f"{name}: p99 of the slowest, ms", worst),
        Row(
            f"{name}: the least share of an even one",
            ours=share["ours"],
            peer=share["peer"],
            limit=share["limit"],
            ratio=share["ours"],
            aim=LEAST_SHARE,
            held=share["ours"] >= LEAST_SHARE,
        ),
    ]


def _crowd(path: Path, way: str, seconds: float) -> list[Got]:
    command = [sys.executable, __file__, "--writer", way, str(path), str(seconds)]
    writers = [
        subprocess.Popen([*command, f"{way}{n}-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    answers = [writer.communicate()[0] for writer in writers]
    assert not any(writer.returncode for writer in writers), "a writer failed"
    return [Got(**json.loads(answer)) for answer in answers]


def row(claim: str, measured: dict[str, float], *, more_is_better: bool = False) -> Row:
    ratio = measured["peer"] / measured["ours"]
    if more_is_better:
        ratio = 1 / ratio
    ours, peer, limit = (measured[way] for way in WAYS)
    return Row(claim, ours, peer, limit, ratio=ratio, aim=AIM, held=ratio >= AIM)


def measure(folder: Path, *, quick: bool) -> list[Row]:
    path = folder / "catalog.db"
    Catalog.open(f"sqlite:///{path}").close()
    long = 5.0 if quick else 600.0
    seconds = {way: long if way == "ours" else max(3.0, long / 10) for way in WAYS}
    return [*alone(path, 3 if quick else 10, 200), *together(path, seconds)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--writer", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        way, path, seconds, prefix = options.writer
        print(json.dumps(asdict(write_for(way, Path(path), float(seconds), prefix))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), quick=options.quick)
    if options.json:
        print(json.dumps([asdict(one) for one in rows], indent=2))
        return 0 if all(one.held for one in rows) else 1
    for one in rows:
        figures = ", ".join(f"{way} {getattr(one, way):.3f}" for way in WAYS)
        print(
            f"{'held  ' if one.held else 'MISSED'} {one.ratio:5.2f} (aim {one.aim})  {one.claim}: {figures}"
        )
        for way, lines in one.each.items():
            for line in lines:
                print(f"           {way}: {line}")
    return 0 if all(one.held for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
