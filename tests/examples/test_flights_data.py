"""The raw tables of the flights example: no flight is lost, and every time is the right instant."""

from __future__ import annotations

from datetime import UTC, date, datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from examples.flights import data, labels

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    return data.flights()


def test_every_flight_is_there_once_and_accounted_for(flights: pa.Table) -> None:
    assert flights.num_rows == 336_776
    assert len(pc.unique(flights["flight_id"])) == 336_776
    outcomes = {one["values"]: one["counts"] for one in pc.value_counts(flights["outcome"]).to_pylist()}
    assert outcomes == {"landed": 327_346, "cancelled": 8_255, "diverted": 1_175}
    assert flights["scheduled_dep_at"].null_count == flights["scheduled_arr_at"].null_count == 0


def test_clocks_of_two_zones_become_instants(flights: pa.Table) -> None:
    first = flights.filter(pc.equal(flights["flight_id"], "20130101-UA-1545-EWR")).to_pylist()[0]
    assert first["scheduled_dep_at"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)  # 5:15 in New York
    assert first["scheduled_arr_at"] == datetime(2013, 1, 1, 14, 19, tzinfo=UTC)  # 8:19 in Houston
    assert (first["departed_at"].minute, first["landed_at"].minute) == (17, 30)


def test_landings_agree_with_the_clocks_of_their_destinations(flights: pa.Table) -> None:
    """But for one flight, which flew through the night in which the clocks changed."""
    told = (
        duckdb.from_arrow(data.raw("flights"))
        .project(
            "printf('%d%02d%02d-%s-%d-%s', year, month, day, carrier, flight, origin) flight_id, arr_time"
        )
        .to_arrow_table()
    )
    landed = flights.filter(pc.is_valid(flights["landed_at"])).select(
        ["flight_id", "day", "dest", "landed_at"]
    )
    both = landed.join(told, "flight_id")
    zones = data.destination_zones()
    wrong = []
    for dest in pc.unique(both["dest"]).to_pylist():
        here = both.filter(pc.equal(both["dest"], dest))
        clock = pc.local_timestamp(pc.cast(here["landed_at"], pa.timestamp("us", tz=zones[dest])))
        shown = pc.add(pc.multiply(pc.hour(clock), 100), pc.minute(clock)).to_numpy() % 2400
        wrong += here.filter(pa.array(shown != here["arr_time"].to_numpy() % 2400))["day"].to_pylist()
    assert both.num_rows == 327_346
    assert wrong == [date(2013, 3, 9)]


def test_the_hour_that_autumn_repeats_is_two_hours_of_weather() -> None:
    weather = data.weather()
    assert weather.num_rows == 26_115
    keys = weather.group_by(["origin", "observed_at"]).aggregate([])
    assert keys.num_rows == weather.num_rows
    assert pc.all(pc.greater(weather["known_at"], weather["observed_at"])).as_py()
    assert pc.max(weather["wind_speed"]).as_py() < data.WIND_LIMIT_MPH


def test_a_delay_is_known_only_when_the_flight_has_landed(flights: pa.Table) -> None:
    arrivals = data.arrivals(flights)
    assert arrivals.num_rows == 327_346
    in_the_air = pc.subtract(arrivals["landed_at"], arrivals["scheduled_dep_at"])
    assert pc.min(pc.cast(in_the_air, pa.int64())).as_py() > 0
    assert "landed_at" not in data.departures(flights).schema.names


def test_who_trains_at_midnight_does_not_know_how_the_evening_lands(flights: pa.Table) -> None:
    rows = labels.labelled(flights, late_after_min=30)
    span = labels.Span(date(2013, 6, 1), date(2013, 6, 2))
    whole, known = labels.split(rows, span), labels.split(rows, span, known=True)
    assert 0 < known.num_rows < whole.num_rows
    assert pc.max(known["known_at"]).as_py() <= labels.midnight(span.before)
    assert whole.num_rows == rows.filter(pc.equal(rows["day"], span.since)).num_rows


def test_at_the_time_of_asking_hardly_a_flight_has_left(flights: pa.Table) -> None:
    cases = labels.cases(flights)
    left = pc.sum(pc.less_equal(flights["departed_at"], cases["t"])).as_py()
    at_departure = pc.sum(pc.less_equal(flights["departed_at"], flights["scheduled_dep_at"])).as_py()
    assert left < 10
    assert at_departure > flights.num_rows / 2
