"""What runs, search, saving and loading cost, beside the same rows in plain SQLite.

    python benchmarks/models.py [--quick] [--json]

The limit writes or reads the rows that the call is about, by `sqlite3`, in the same file and at the same
settings; there is no peer in this script, so `ratio` is limit / ours and `aim` the least that is accepted.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.core.models import Metric, NewRun, RunStatus
from fourfold.mlplatform.models.service import Models


@dataclass
class Row:
    """One claim: milliseconds for ours and the limit."""

    claim: str
    ours: float
    peer: float | None
    limit: float
    ratio: float
    aim: float
    held: bool


def median_ms(way: Callable[[int], object], rounds: int) -> float:
    taken = []
    for index in range(rounds):
        start = time.perf_counter()
        way(index)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


def compare(
    claim: str, aim: float, rounds: int, ours: Callable[[int], object], limit: Callable[[int], object]
) -> Row:
    mine, least = median_ms(ours, rounds), median_ms(limit, rounds)
    return Row(claim, mine, None, least, least / mine, aim, least / mine >= aim)


def measure(folder: Path, *, quick: bool) -> list[Row]:
    path, count = folder / "catalog.db", 1000 if quick else 10_000
    models = Models(Catalog.open(f"sqlite:///{path}"), LocalBlobs(folder / "blobs"), SystemClock())
    plain = sqlite3.connect(path, isolation_level=None, timeout=30)
    plain.execute("PRAGMA synchronous=NORMAL")
    chance = np.random.default_rng(1)
    ids = []
    for index in range(count):
        run = models.create_run(NewRun(f"run {index}", params={"depth": index % 10}))
        models.log(run.id, metrics=(Metric("auc", float(chance.random())),))
        ids.append(run.id)
        if index >= 200:  # the others stay open, to be logged to
            models.end_run(run.id, status=RunStatus.finished)

    def row_of(index: int) -> int:
        found = plain.execute("SELECT row FROM model_run WHERE id = ?", (ids[index],)).fetchone()
        return int(found[0])

    def insert_run(index: int) -> None:
        plain.execute("BEGIN IMMEDIATE")
        columns = [row[1] for row in plain.execute("PRAGMA table_info(model_run)")]
        values = list(plain.execute("SELECT * FROM model_run WHERE row = 1").fetchone())
        values[columns.index("row")], values[columns.index("id")] = None, f"limit-{index}"
        plain.execute(f"INSERT INTO model_run VALUES ({', '.join('?' * len(values))})", values)
        plain.execute("COMMIT")

    def insert_metrics(index: int, points: int, name: str) -> None:
        plain.execute("BEGIN IMMEDIATE")
        rows = [(row_of(index), name, step, 1, 0.5) for step in range(points)]
        plain.executemany("INSERT INTO model_metric VALUES (?, ?, ?, ?, ?)", rows)
        plain.execute("COMMIT")

    def batch(index: int) -> None:
        models.log(ids[index], metrics=tuple(Metric("loss", 0.5, step=step) for step in range(1000)))

    def whole(found: list[tuple[object, ...]]) -> None:
        """What belongs to these runs: four more queries, as ours asks."""
        rows = ", ".join(str(row[0]) for row in found)
        for table in ("model_run_param", "model_metric_latest", "model_run_tag", "model_run_file"):
            plain.execute(f"SELECT * FROM {table} WHERE run IN ({rows})").fetchall()

    def read_run(index: int) -> None:
        whole(plain.execute("SELECT * FROM model_run WHERE id = ?", (ids[index],)).fetchall())

    best = (
        "SELECT r.* FROM model_run r JOIN model_metric_latest m ON m.run = r.row AND m.key = 'auc' "
        "ORDER BY m.value DESC LIMIT 100"
    )
    filtered = (
        "SELECT r.* FROM model_run r JOIN model_metric_latest m ON m.run = r.row AND m.key = 'auc' "
        "JOIN model_run_param p ON p.run = r.row AND p.key = 'depth' "
        "WHERE m.value > 0.9 AND p.number = 3 ORDER BY m.value DESC LIMIT 100"
    )
    where = "metrics.auc > 0.9 and params.depth = 3"
    rounds = 30 if quick else 200
    return [
        compare("create a run", 0.01, rounds, lambda i: models.create_run(NewRun(f"more {i}")), insert_run),
        compare(
            "log a metric",
            0.02,
            rounds,
            lambda i: models.log(ids[i], metrics=(Metric("loss", 0.1, step=5000),)),
            lambda i: insert_metrics(i, 1, "plain"),
        ),
        compare("log 1,000 points", 0.1, rounds // 5, batch, lambda i: insert_metrics(i, 1000, "many")),
        compare("read a run", 0.02, rounds, lambda i: models.get_run(ids[i]), read_run),
        compare(
            f"the best 100 of {count:,} runs by a metric",
            0.01,
            rounds // 5,
            lambda _: models.search_runs(order_by=("metrics.auc desc",)),
            lambda _: whole(plain.execute(best).fetchall()),
        ),
        compare(
            "the same, filtered by a metric and a parameter",
            0.005,
            rounds // 5,
            lambda _: models.search_runs(where, order_by=("metrics.auc desc",)),
            lambda _: whole(plain.execute(filtered).fetchall()),
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs and rounds")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), quick=options.quick)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            mark = "held  " if row.held else "MISSED"
            print(f"{mark} {row.claim}: ours {row.ours:.2f} ms, limit {row.limit:.3f} ms")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
