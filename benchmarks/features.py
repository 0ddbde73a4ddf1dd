"""What features cost, beside what DuckDB and LMDB cost without us.

    .venv/bin/python benchmarks/features.py [--quick] [--json]

A training set: 100,000 labels, three views of a million rows with eight features each, from tables on disk,
every row kept and in order. The peer is three ASOF joins in DuckDB over the same files; windows (sum, count
and maximum over an hour, a day, a week) are held against a range join. Neither is cached, and ours also
digests the labels. Online: the features of 1, 10 and 100 entities in three views; the peer reads the same
values, packed, by prepared keys from LMDB. Ours and the peer take turns; each figure is a median, both are
checked to give the same answer, and a ratio above 1 says that ours is the quicker one. The exit status is 1
when a claim did not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import lmdb
import msgspec
import numpy as np
import pyarrow as pa

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.lmdb_online import LmdbOnline
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.core.features import (
    Definitions,
    Entity,
    FeatureService,
    Key,
    Latest,
    Pick,
    Source,
    Use,
    View,
    Window,
)
from fourfold.foundation.storage.service import Storage
from fourfold.mlplatform.features.service import FeatureStore

LABELS, ROWS, KEYS, FEATURES, VIEWS = 100_000, 1_000_000, 50_000, 8, 3
STAMP = pa.timestamp("us", "UTC")
HOUR_US = 3_600_000_000
SPAN_US = 30 * 24 * HOUR_US
START_US = 1_700_000_000_000_000
WINDOWS = {"1h": HOUR_US, "1d": 24 * HOUR_US, "7d": 7 * 24 * HOUR_US}


@dataclass
class Row:
    """One claim: seconds for ours and the peer; ratio = peer / ours."""

    claim: str
    ours_s: float
    peer_s: float
    ratio: float
    aim: float
    held: bool


def in_turns(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds of both, after one unmeasured run of each."""
    ours(), peer()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for seconds, run in zip(taken, (ours, peer), strict=True):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    return statistics.median(taken[0]), statistics.median(taken[1])


def row(claim: str, times: tuple[float, float], aim: float) -> Row:
    ratio = times[1] / times[0]
    return Row(claim, times[0], times[1], ratio, aim, ratio >= aim)


def events(chance: np.random.Generator, view: int, keys: Any) -> pa.Table:
    columns: dict[str, Any] = {
        "id": np.arange(len(keys)),
        "k": keys,
        "t": pa.array(START_US + chance.integers(0, SPAN_US, len(keys))).cast(STAMP),
    }
    return pa.table(columns | {f"f{view}_{i}": chance.normal(size=len(keys)) for i in range(FEATURES)})


def snapshot(name: str, view: int) -> View:
    columns = tuple(Latest(f"f{view}_{i}", f"f{view}_{i}") for i in range(FEATURES))
    return View(name, Entity("e", ("k",)), Source(name, name, "t", ("id",)), latest=columns)


def windows() -> View:
    made = [
        Window(f"{function}_{name}", function, "f0_0", length, 0)
        for name, length in WINDOWS.items()
        for function in ("sum", "count", "max")
    ]
    return View("w", Entity("e", ("k",)), Source("v0", "v0", "t", ("id",)), windows=tuple(made))


def serve(name: str, *views: View) -> FeatureService:
    return FeatureService(
        name,
        tuple(
            Use(v.name, tuple(Pick(f, f) for f in v.feature_names), (Key("k", "k"),), v.version)
            for v in views
        ),
    )


def training(home: Path, features: FeatureStore, chance: np.random.Generator, repeats: int) -> Iterator[Row]:
    times = START_US + chance.integers(0, SPAN_US, LABELS)
    labels = pa.table(
        {
            "n": np.arange(LABELS),
            "k": chance.integers(0, KEYS + KEYS // 20, LABELS),  # some keys have no event
            "at": pa.array(times).cast(STAMP),
        }
    )
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'").register("labels", labels)
    files = [f"read_parquet('{home}/tables/v{view}/*.parquet')" for view in range(VIEWS)]
    names = [f"f{view}_{i}" for view in range(VIEWS) for i in range(FEATURES)]
    joins = " ".join(
        f"ASOF LEFT JOIN (SELECT * EXCLUDE id FROM {files[v]}) v{v} ON v{v}.k = l.k AND v{v}.t <= l.at"
        for v in range(VIEWS)
    )
    asof = f"SELECT l.n, l.k, l.at, {', '.join(names)} FROM labels l {joins} ORDER BY l.n"
    spans = [
        f"{function}(f0_0) FILTER (v.t >= l.at - INTERVAL {length} MICROSECONDS) AS {function}_{name}"
        for name, length in WINDOWS.items()
        for function in ("sum", "count", "max")
    ]
    ranged = (
        f'SELECT l.n, any_value(l.k) AS k, any_value(l.at) AS "at", {", ".join(spans)} '
        f"FROM labels l LEFT JOIN "
        f"{files[0]} v ON v.k = l.k AND v.t < l.at AND v.t >= l.at - INTERVAL {max(WINDOWS.values())} "
        "MICROSECONDS GROUP BY l.n ORDER BY l.n"
    )

    def ours(service: str) -> pa.Table:
        return features.training_set(service, labels, cache=False)

    def peer(sql: str) -> pa.Table:
        return connection.sql(sql).to_arrow_table()

    for service, sql, claim, aim in (
        ("snapshots", asof, "training set, 100k labels x 3 views x 1M rows; DuckDB ASOF", 1 / 1.5),
        ("windows", ranged, "training set, 9 exact windows of 1M events; DuckDB range join", 1 / 1.5),
    ):
        check_equal(ours(service), peer(sql))
        yield row(claim, in_turns(lambda: ours(service), lambda: peer(sql), repeats), aim)  # noqa: B023


def check_equal(one: pa.Table, two: pa.Table) -> None:
    assert len(one) == len(two) == LABELS
    for name in one.schema.names:
        a, b = (t[name].combine_chunks() for t in (one, two))
        assert a.is_valid().equals(b.is_valid()), name
        if pa.types.is_floating(a.type):
            close = np.isclose(a.fill_null(0), b.fill_null(0), rtol=1e-9, atol=1e-9)
            assert close.all(), name
        else:
            assert a.cast(pa.int64()).equals(b.cast(pa.int64())), name


def online(home: Path, features: FeatureStore, chance: np.random.Generator, repeats: int) -> Iterator[Row]:
    features.materialize(sources=[f"online{view}" for view in range(VIEWS)])
    plan = features.plan("online")
    at = features.online("online", [{"k": 0}]).at
    raw = lmdb.open(str(home / "raw"), map_size=2**32)
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(tuple[float | None, ...])
    with raw.begin(write=True) as transaction:
        for k in range(KEYS):
            values = plan.read([{"k": k}], at)[0][0].values
            for view in range(VIEWS):
                part = values[view * FEATURES : (view + 1) * FEATURES]
                transaction.put(key(view, k), encoder.encode(part))

    def peer(keys: list[list[bytes]]) -> list[tuple[float | None, ...]]:
        with raw.begin(buffers=True) as transaction:
            found = []
            for entity in keys:
                values: list[float | None] = []
                for each in entity:
                    record = transaction.get(each)
                    assert record is not None
                    values.extend(decoder.decode(record))
                found.append(tuple(values))
            return found

    for count in (1, 10, 100):
        asked = [chance.integers(0, KEYS, count).tolist() for _ in range(200)]
        ours_keys = [[{"k": k} for k in ks] for ks in asked]
        peer_keys = [[[key(view, k) for view in range(VIEWS)] for k in ks] for ks in asked]
        for mine, theirs in zip(ours_keys, peer_keys, strict=True):
            assert [vector.values for vector in plan.read(mine, at)[0]] == peer(theirs)

        def ours(keys: list[list[dict[str, Any]]] = ours_keys) -> None:
            for each in keys:
                plan.read(each, at)

        def raw_reads(keys: list[list[list[bytes]]] = peer_keys) -> None:
            for each in keys:
                peer(each)

        times = in_turns(ours, raw_reads, repeats * 5)
        per_read = (times[0] / len(asked), times[1] / len(asked))
        yield row(f"online read of {count} entities, 24 features in 3 views; raw LMDB", per_read, 0.5)


def key(view: int, k: int) -> bytes:
    return view.to_bytes(6, "big") + k.to_bytes(8, "big")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, the same sizes")
    parser.add_argument("--json", action="store_true", help="one JSON object per claim")
    asked = parser.parse_args()
    repeats = 3 if asked.quick else 9
    chance = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        home, clock = Path(folder), SystemClock()
        catalog, blobs = Catalog.open(f"sqlite:///{home}/catalog.db"), LocalBlobs(home / "blobs")
        storage = Storage(catalog, blobs, DeltaTables(home / "tables"), clock)
        store = LmdbOnline(home / "online")
        features = FeatureStore(catalog, storage=storage, online=store, blobs=blobs, clock=clock)
        for view in range(VIEWS):
            storage.append(f"v{view}", events(chance, view, chance.integers(0, KEYS, ROWS)))
            storage.append(f"online{view}", events(chance, view, np.arange(KEYS)))
        trained = [snapshot(f"v{view}", view) for view in range(VIEWS)]
        served = [snapshot(f"online{view}", view) for view in range(VIEWS)]
        services = (serve("snapshots", *trained), serve("windows", windows()), serve("online", *served))
        features.apply(Definitions((*trained, windows(), *served), services))
        is_held = True
        for part in (online, training):
            for each in part(home, features, chance, repeats):
                is_held &= each.held
                show(each, as_json=asked.json)
        store.close()
        catalog.close()
    return 0 if is_held else 1


def show(each: Row, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(each)), flush=True)
        return
    held = "held" if each.held else "NOT HELD"
    print(
        f"{each.claim}: {each.ours_s:.6f} s, peer {each.peer_s:.6f} s, "
        f"{each.ratio:.2f} (aim {each.aim:.2f}, {held})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
