"""The feature store over real parts: definitions, events in, reads, training sets."""

from __future__ import annotations

import pyarrow as pa
import pytest

from fourfold.core.times import Instant
from fourfold.mlplatform.features.training import training_set_info
from fourfold.testing.clock import START

from .conftest import HOUR, MINUTE, STAMP, Store, flights

EVENTS = flights(
    (1, "JFK", 0, 5, 3.0, 100),
    (2, "JFK", 10, 90, 30.0, 200),
    (3, "LGA", 20, 5, float("nan"), 50),
    (4, "JFK", 30, 5, None, 10),
)


def at(minutes: float) -> Instant:
    return Instant(START + round(minutes * MINUTE))


def values(store: Store, origin: str | None, minutes: float) -> dict[str, object]:
    answer = store.features.online("delays", [{"origin": origin}], at=at(minutes))
    return dict(zip(answer.names, answer.rows[0].values, strict=True))


def test_pushed_events_are_read_at_once(store: Store) -> None:
    pushed = store.features.push("departures", EVENTS)
    assert (pushed.applied, pushed.watermark) == (4, 4)
    assert values(store, "JFK", 40) == {
        "last": None, "left_1h": 3, "left_1d": 3, "delay": 16.5, "worst": 30.0, "seats": 200, "busy": 1.0,
    }  # fmt: skip


@pytest.mark.slow
def test_pushed_events_reach_the_table_once_and_training_sees_them_when_they_were_known(store: Store) -> None:
    store.features.push("departures", EVENTS)
    labels = pa.table({"origin": ["JFK", "JFK", "XXX", None], "hour": [1, 2, 3, 4]}).append_column(
        "t", pa.array([at(40), at(120), at(40), at(40)], pa.int64()).cast(STAMP)
    )
    data = store.features.training_set("delays", labels, at="t")
    assert data["left_1h"].to_pylist() == [2, 0, 0, None]
    assert data["left_1d"].to_pylist() == [2, 3, 0, None]
    assert data["hour"].to_pylist() == [1, 2, 3, 4]
    assert store.storage.describe("departures").rows == 4
    info = training_set_info(data)
    assert info.table_versions == {"departures": 1}
    again = store.features.training_set("delays", labels, at="t")
    assert training_set_info(again).is_cached
    assert training_set_info(again).fingerprint == info.fingerprint
    assert again.equals(data)
    assert store.features.training_sets() == (info,)


def test_what_a_table_holds_is_materialised_and_equals_what_was_pushed(store: Store) -> None:
    store.storage.append("departures", EVENTS)
    (first,) = store.features.materialize(until=at(60))
    assert (first.applied, first.events, first.watermark) == (3, 4, 3)
    assert values(store, "JFK", 40)["left_1h"] == 2
    (second,) = store.features.materialize()
    assert (second.applied, second.duplicates) == (1, 3)
    assert values(store, "JFK", 40)["left_1h"] == 3
    assert store.features.push("departures", EVENTS).duplicates == 4


@pytest.mark.slow
def test_a_rebuilt_store_stands_as_it_did_and_a_replay_of_the_rest_is_equal_again(store: Store) -> None:
    store.features.push("departures", EVENTS)
    whole = values(store, "JFK", 95)
    (again,) = store.features.materialize(until=at(60), rebuild=True)
    assert (again.applied, again.duplicates, again.watermark) == (3, 0, 7)  # numbers go on
    assert values(store, "JFK", 95) != whole
    assert store.features.push("departures", EVENTS, record=False).applied == 1
    assert values(store, "JFK", 95) == whole
    answer = store.features.online("delays", [{"origin": "JFK"}], at=at(95))
    row = dict(zip(answer.names, answer.rows[0].values, strict=True))
    served = pa.Table.from_pylist([{"origin": "JFK", "at": answer.at, "watermark": answer.watermark, **row}])
    assert store.features.audit("delays", served).is_equal


def test_served_values_are_equal_to_the_recomputed_ones(store: Store) -> None:
    served = []
    for row in range(4):
        store.features.push("departures", EVENTS.slice(row, 1))
        for minutes in (15, 40, 61, 95):
            answer = store.features.online("delays", [{"origin": "JFK"}], at=at(minutes))
            values_ = dict(zip(answer.names, answer.rows[0].values, strict=True))
            served.append({"origin": "JFK", "at": answer.at, "watermark": answer.watermark, **values_})
    report = store.features.audit("delays", pa.Table.from_pylist(served))
    assert report.rows == 16
    assert [f for f in report.features if f.equal != f.rows] == []
    assert report.is_equal
    assert report.freshness[0].events_waiting == 0


@pytest.mark.slow
def test_a_value_is_explained_by_its_events(store: Store) -> None:
    store.features.push("departures", EVENTS)
    none = store.features.explain("Delays.delay", {"origin": "JFK"}, at=at(101))
    assert (none.value, none.event_count, none.contributions) == (None, 0, ())
    found = store.features.explain("Delays.seats", {"origin": "JFK"}, at=at(101))
    assert found.value == 200
    assert [c.event_id for c in found.contributions] == ["2"]
    assert found.start == at(101) - 24 * HOUR - (at(101) - 24 * HOUR) % HOUR
