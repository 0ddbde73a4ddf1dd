"""A feature store over real parts, with a small source of departures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.lmdb_online import LmdbOnline
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.catalog.database import Catalog
from fourfold.foundation.storage.service import Storage
from fourfold.mlplatform.features import api as fs
from fourfold.mlplatform.features.service import FeatureStore
from fourfold.testing.clock import START, MovableClock

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
STAMP = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        ("flight", pa.int64()),
        ("origin", pa.string()),
        ("left_at", STAMP),
        ("known_at", STAMP),
        ("delay", pa.float64()),
        ("seats", pa.int64()),
    ]
)

airport = fs.Entity("airport", key="origin")
departures = fs.Source(
    "departures", table="departures", time="left_at", available_at="known_at", event_id="flight"
)


@fs.view(entity=airport, source=departures, owner="ops")
class Delays:
    """How late flights leave."""

    last = fs.latest("delay")
    left = fs.count(over=["1h", "1d"])
    delay = fs.mean("delay", over="1h")
    worst = fs.max("delay", over="1h", hop="exact")
    seats = fs.sum("seats", over="1d", where="delay > 10")
    busy = fs.expr("left_1h / nullif(left_1d, 0)")


delays: Any = Delays
"""The view as it is: type checkers take a decorated class for the class."""

service = fs.FeatureService("delays", [Delays], request=["hour"])


def definitions(*services: fs.FeatureService) -> Any:
    from fourfold.core.features import Definitions

    views = {handle.view.name: handle.view for each in services for handle in each.views}
    return Definitions(tuple(views.values()), tuple(each.value for each in services))


def flights(*rows: tuple[Any, ...]) -> pa.Table:
    """Rows of (flight, origin, minutes after the start, minutes until known, delay, seats)."""
    return pa.table(
        [
            [row[0] for row in rows],
            [row[1] for row in rows],
            pa.array([START + row[2] * MINUTE for row in rows], pa.int64()).cast(STAMP),
            pa.array([START + (row[2] + row[3]) * MINUTE for row in rows], pa.int64()).cast(STAMP),
            pa.array([row[4] for row in rows], pa.float64(), from_pandas=False),
            pa.array([row[5] for row in rows], pa.int64()),
        ],
        schema=SCHEMA,
    )


@dataclass
class Store:
    """The feature store and the parts under it."""

    features: FeatureStore
    storage: Storage
    online: LmdbOnline
    clock: MovableClock
    catalog: Catalog
    home: Path
    blobs: LocalBlobs


def open_store(catalog: Catalog, home: Path, clock: MovableClock) -> Store:
    blobs = LocalBlobs(home / "blobs")
    storage = Storage(catalog, blobs, DeltaTables(home / "tables"), clock)
    online = LmdbOnline(home / "online")
    features = FeatureStore(catalog, storage=storage, online=online, blobs=blobs, clock=clock)
    return Store(features, storage, online, clock, catalog, home, blobs)


@pytest.fixture
def empty(sqlite_catalog: Catalog, tmp_path: Path, clock: MovableClock) -> Iterator[Store]:
    """A feature store with a table of departures, nothing in it and nothing defined."""
    store = open_store(sqlite_catalog, tmp_path, clock)
    store.storage.append("departures", SCHEMA.empty_table())
    yield store
    store.online.close()


@pytest.fixture
def store(empty: Store) -> Store:
    """The same with the view and the service defined, a day after the start."""
    empty.features.apply(definitions(service))
    empty.clock.advance(24 * 3600)
    return empty
