"""Bad input is refused in words, and nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fourfold.adapters.lmdb_online import LmdbOnline
from fourfold.core.errors import NotFound, OutOfSpace, Refused
from fourfold.core.features import Definitions
from fourfold.core.ports.online import Space
from fourfold.mlplatform.features import api as fs
from fourfold.mlplatform.features.service import FeatureStore
from fourfold.testing.clock import START

from .conftest import Delays, Store, airport, definitions, delays, departures, flights, service

EVENT = flights((1, "JFK", 0, 5, 3.0, 100))


def contents(store: Store) -> dict[Space, list[tuple[bytes, bytes]]]:
    with store.online.read() as reader:
        return {space: list(reader.scan(space)) for space in Space}


def view(entity: Any = airport, source: Any = departures, **features: Any) -> Any:
    return fs.view(entity=entity, source=source, name="Other")(type("Other", (), features))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: view(x=fs.latest("dealy")), "did you mean 'delay'"),
        (lambda: view(x=fs.sum("origin", over="1h")), "sum of 'origin', which is string"),
        (lambda: view(x=fs.count(over="1h", where="delay > 'a'")), "mixes number and text"),
        (lambda: view(x=fs.count(over="1h", where="delay + 1")), "not a condition"),
        (lambda: view(x=fs.latest("delay"), y=fs.expr("x / z")), "no column 'z'"),
        (lambda: view(entity=fs.Entity("seat", key="delay"), x=fs.latest("seats")), "cannot be a key"),
        (lambda: view(source=replace(departures, name="s", time="seats"), x=fs.latest("delay")), "times are"),
        (
            lambda: view(source=replace(departures, name="s", table="nowhere"), x=fs.latest("delay")),
            "write the",
        ),
        (
            lambda: view(source=replace(departures, available_at=""), x=fs.latest("delay")),
            "one thing in view",
        ),
        (lambda: view(entity=fs.Entity("airport", key="flight"), x=fs.latest("delay")), "one thing in view"),
        (lambda: view(**{"x y": fs.latest("delay")}), "cannot name a feature"),
    ],
)
def test_a_bad_view_is_refused_and_nothing_is_defined(store: Store, make: Any, message: str) -> None:
    before = store.features.list_views()
    with pytest.raises(Refused) as refusal:
        store.features.apply(Definitions(views=(make().view,)))
    assert message in str(refusal.value)
    assert store.features.list_views() == before


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: view(x=fs.count(over="0s")), "has no length"),
        (lambda: view(x=fs.count(over="1h", hop="0s")), "hop of nothing"),
        (lambda: view(x=fs.count(over="soon")), "not a duration"),
        (lambda: view(x=fs.count()), "needs a window"),
        (lambda: view(x=1), "is not a feature"),
        (lambda: view(), "has no features"),
        (lambda: delays.only("lats"), "did you mean 'last'"),
        (lambda: delays.by(orign="dest"), "did you mean 'origin'"),
        (lambda: fs.FeatureService("twins", [Delays, Delays]).value, "two features named 'last'"),
        (lambda: fs.FeatureService("wrong", [airport]).value, "is not a view"),
    ],
)
def test_a_mistake_is_told_where_it_is_written(write: Any, message: str) -> None:
    with pytest.raises(Refused, match=message):
        write()


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (EVENT.drop_columns("delay"), "no column 'delay'"),
        (EVENT.rename_columns(["flight", "orign", "left_at", "known_at", "delay", "seats"]), "did you mean"),
        (EVENT.set_column(4, "delay", pa.array(["late"])), "holds string values where float is wanted"),
        (EVENT.set_column(5, "seats", pa.array([1.5])), "holds float values where int is wanted"),
        (EVENT.set_column(2, "left_at", pa.array([0], pa.timestamp("us"))), "without a zone"),
        (EVENT.append_column("gate", pa.array(["A1"])), "has no column 'gate'"),
    ],
)
def test_a_bad_push_is_refused_before_anything_is_written(store: Store, events: Any, message: str) -> None:
    store.features.push("departures", EVENT)
    before = contents(store)
    with pytest.raises(Refused, match=message):
        store.features.push("departures", events)
    assert contents(store) == before


def test_names_that_are_not_known_come_with_the_nearest(store: Store) -> None:
    with pytest.raises(NotFound, match="did you mean 'departures'"):
        store.features.push("departuers", EVENT)
    with pytest.raises(NotFound, match="did you mean 'delays'"):
        store.features.online("dleays", [{"origin": "JFK"}])
    with pytest.raises(NotFound, match="has no version 'old'"):
        store.features.plan("delays", version="old")
    with pytest.raises(NotFound, match="did you mean 'Delays'"):
        store.features.explain("Delay.last", {"origin": "JFK"})
    with pytest.raises(NotFound, match="did you mean 'last'"):
        store.features.explain("Delays.lst", {"origin": "JFK"})
    with pytest.raises(NotFound, match="did you mean 'departures'"):
        store.features.freshness(sources=["departure"])


@pytest.mark.slow
def test_a_read_without_its_key_or_with_one_of_the_wrong_type_is_refused(store: Store) -> None:
    with pytest.raises(Refused, match="needs the key 'origin'"):
        store.features.online("delays", [{"orgin": "JFK"}])
    with pytest.raises(Refused, match="must be of type string"):
        store.features.online("delays", [{"origin": 1}])
    answer = store.features.online("delays", [{"origin": None}])
    assert set(answer.rows[0].values) == {None}


def test_labels_without_what_the_service_needs_are_refused(store: Store) -> None:
    labels = pa.table({"origin": ["JFK"], "hour": [1], "t": pa.array([START], pa.int64())})
    for column in ("origin", "hour", "t"):
        with pytest.raises(Refused, match=f"needs column '{column}'"):
            store.features.training_set("delays", labels.drop_columns(column), at="t")
    with pytest.raises(Refused, match="already have columns named as features: last"):
        store.features.training_set("delays", labels.append_column("last", pa.array([1.0])), at="t")
    with pytest.raises(Refused, match="did you mean 'departures'"):
        store.features.training_set("delays", labels, at="t", versions={"departure": 0})
    assert store.features.training_sets() == ()


@pytest.mark.slow
def test_a_log_without_watermarks_cannot_be_audited(store: Store) -> None:
    with pytest.raises(Refused, match="no column 'watermark'"):
        store.features.audit("delays", pa.table({"at": [1], "origin": ["JFK"]}))


@pytest.mark.slow
def test_a_push_into_a_full_store_says_so_and_changes_nothing(empty: Store, tmp_path: Path) -> None:
    small = LmdbOnline(tmp_path / "small", map_bytes=256 * 1024)
    features = FeatureStore(
        empty.catalog, storage=empty.storage, online=small, blobs=empty.blobs, clock=empty.clock
    )
    features.apply(definitions(service))
    features.push("departures", EVENT)
    before = features.online("delays", [{"origin": "JFK"}])
    many = flights(*((i, f"A{i}", 0, 5, 1.0, 1) for i in range(2, 5000)))
    with pytest.raises(OutOfSpace, match="nothing was changed"):
        features.push("departures", many)
    assert features.online("delays", [{"origin": "JFK"}]) == before
    assert features.push("departures", EVENT).duplicates == 1
    small.close()
