"""What figures and checks of tables cost, beside DuckDB and the plain append, in one run on one machine.

    python benchmarks/datasets.py [--quick] [--json]

DuckDB's SUMMARIZE tells nulls, ends, distinct values, mean, deviation and three quantiles; ours tells these,
NaN, nine quantiles and the most frequent values, and keeps what merges with the next append. Checks are held
against one query of DuckDB that counts the same failures. The limit is the append alone. Rounds are
interleaved, figures are medians; the ratio is peer / ours: above 1, ours is the quicker one. The exit status
is 1 when a claim did not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from fourfold.adapters.blake3_digests import Blake3Digests
from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.fastcdc_chunks import FastCdcChunks
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.foundation.storage import expect
from fourfold.foundation.storage.checks.rows import RowRules, pieces
from fourfold.foundation.storage.datasets.service import Datasets
from fourfold.foundation.storage.folders.service import Files
from fourfold.foundation.storage.service import Storage
from fourfold.foundation.storage.statistics.sketch import TableSketch


@dataclass
class Row:
    """One claim: seconds for ours, the peer and the limit; ratio = peer / ours."""

    claim: str
    ours: float
    peer: float
    limit: float | None
    ratio: float
    aim: float
    held: bool


RULES = (
    expect.not_null("id"),
    expect.between("x0", -10, 10),
    expect.one_of("origin", ["EWR", "JFK", "LGA"]),
    expect.matches("tail", r"N\d+"),
    expect.sql("x1 < x2 + 100"),
)
SAME_IN_SQL = """
    SELECT count(*) FILTER (id IS NULL), count(*) FILTER (NOT x0 BETWEEN -10 AND 10),
           count(*) FILTER (origin NOT IN ('EWR', 'JFK', 'LGA')),
           count(*) FILTER (NOT regexp_full_match(tail, 'N\\d+')), count(*) FILTER (NOT x1 < x2 + 100)
    FROM data
"""


def table(rows: int, *, seed: int = 1, first: int = 0) -> pa.Table:
    chance = np.random.default_rng(seed)
    columns: dict[str, object] = {f"x{i}": chance.normal(size=rows) for i in range(4)}
    columns["id"] = np.arange(first, first + rows)
    columns["count"] = chance.integers(0, 50, rows)
    columns["origin"] = np.array(["EWR", "JFK", "LGA"])[chance.integers(0, 3, rows)]
    columns["tail"] = np.array([f"N{i:05}" for i in range(4_000)])[chance.integers(0, 4_000, rows)]
    columns["flight"] = pa.array([f"{i:09}" for i in range(first, first + rows)])
    columns["at"] = pa.array(np.arange(first, first + rows) * 1_000_000, pa.timestamp("us", "UTC"))
    return pa.table(columns)


def compare(claim: str, aim: float, rounds: int, *ways: Callable[[int], object] | None) -> Row:
    """Time each way once a round, in turn, so that a busy moment hits all alike; medians."""
    taken: list[list[float]] = [[] for _ in ways]
    for index in range(rounds):
        for times, way in zip(taken, ways, strict=True):
            if way is not None:
                start = time.perf_counter()
                way(index)
                times.append(time.perf_counter() - start)
    ours, peer, limit = (statistics.median(times) if times else None for times in taken)
    assert ours is not None
    assert peer is not None
    return Row(claim, ours, peer, limit, peer / ours, aim, peer / ours >= aim)


def ask(rules: RowRules, data: pa.Table) -> None:
    for piece in pieces(data):
        rules.look(piece)


def measure(home: Path, *, quick: bool) -> list[Row]:
    catalog, clock = Catalog.open(f"sqlite:///{home}/catalog.db"), SystemClock()
    blobs = LocalBlobs(home / "blobs")
    tables = DeltaTables(home / "tables")
    storage = Storage(catalog, blobs, tables, clock)
    files = Files(catalog, blobs, blobs, clock, Blake3Digests(), chunker=FastCdcChunks)
    datasets = Datasets(catalog, storage, files, blobs, clock, abilities=tables.abilities)
    data, rounds = table(200_000 if quick else 2_000_000), 3 if quick else 7
    part = [table(20_000, seed=index, first=10**8 + index * 20_000) for index in range(rounds)]
    count = f"{data.num_rows:,}"

    def ask_duckdb(query: str) -> object:
        here = duckdb.connect()
        here.register("data", data)
        return here.sql(query).fetchall()

    def summarize(_: int) -> object:
        return ask_duckdb("SUMMARIZE data")

    def same_in_sql(_: int) -> object:
        return ask_duckdb(SAME_IN_SQL)

    for name, expected in (
        ("plain", None),
        ("counted", expect.expected(statistics=True)),
        ("checked", expect.expected(*RULES, statistics=False)),
        ("keyed", expect.expected(expect.unique("flight"), statistics=False)),
    ):
        for index in range(rounds if name in {"plain", "counted", "checked"} else 1):
            each = f"{name}{index}"
            storage.append(each, data.slice(0, 0) if name != "keyed" else data)
            if expected is not None:
                datasets.expect(each, expected)
    storage.append("unkeyed", data)

    def unkeyed(index: int) -> None:
        """What the check of a key must do at the least, then the append."""
        here = duckdb.connect()
        here.register("old", storage.scan("unkeyed", version=index, columns=("flight",)))
        here.register("new", part[index])
        here.sql("SELECT count(*) FROM new SEMI JOIN old USING (flight)").fetchall()
        storage.append("unkeyed", part[index])

    return [
        compare(
            f"figures of {count} rows x {data.num_columns}, beside SUMMARIZE",
            0.67,
            rounds,
            lambda _: TableSketch.of(data.to_batches(), data.schema),
            summarize,
            None,
        ),
        compare(
            f"five rules asked of {count} rows, beside one query",
            0.67,
            rounds,
            lambda _: ask(RowRules("data", RULES, data.schema), data),
            same_in_sql,
            None,
        ),
        compare(
            f"append of {count} rows with figures, beside the plain append and SUMMARIZE",
            0.67,
            rounds,
            lambda i: storage.append(f"counted{i}", data),
            lambda i: (storage.append(f"plain{i}", data), summarize(i)),
            lambda i: storage.append(f"alone{i}", data),
        ),
        compare(
            f"append of {count} rows, five rules asked before, beside one query and the plain append",
            0.67,
            rounds,
            lambda i: storage.append(f"checked{i}", data),
            lambda i: (same_in_sql(i), storage.append(f"again{i}", data)),
            lambda i: storage.append(f"bare{i}", data),
        ),
        compare(
            f"append of 20,000 rows with a unique key to {count}, beside a semi join and the plain append",
            0.5,
            rounds,
            lambda i: storage.append("keyed0", part[i]),
            unkeyed,
            None,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), quick=options.quick)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            limit = "" if row.limit is None else f", limit {row.limit * 1000:.1f} ms"
            print(
                f"{'held  ' if row.held else 'MISSED'} {row.ratio:5.2f} (aim {row.aim})  {row.claim}: "
                f"ours {row.ours * 1000:.1f} ms, peer {row.peer * 1000:.1f} ms{limit}"
            )
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
