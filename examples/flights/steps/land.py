"""Land the raw tables, and the events made from them, as versions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from examples.flights import data
from examples.flights.labels import midnight

import fourfold as ff
from fourfold.core.storage import TableVersion


@dataclass(frozen=True, slots=True)
class Landed:
    """The versions that everything after is made from."""

    schedule: TableVersion
    weather: TableVersion
    planes: TableVersion
    departures: TableVersion
    arrivals: TableVersion

    @property
    def sources(self) -> tuple[TableVersion, ...]:
        """What features are made from."""
        return self.weather, self.planes, self.departures, self.arrivals


@ff.step(cache=True, memory="1GiB")
def land(through: date | None = None) -> Landed:
    """All flights of the year (or up to a day) with weather and planes, each time an instant."""
    schedule, weather = data.flights(), data.weather()
    if through is not None:
        over = pa.scalar(midnight(through + timedelta(days=1)), data.INSTANT)
        schedule = schedule.filter(pc.less_equal(schedule["day"], through))
        weather = weather.filter(pc.less(weather["observed_at"], over))
    return Landed(
        schedule=ff.table("flights.schedule").overwrite(schedule),
        weather=ff.table("flights.weather").overwrite(weather),
        planes=ff.table("flights.planes").overwrite(data.planes()),
        departures=ff.table("flights.departures").overwrite(data.departures(schedule)),
        arrivals=ff.table("flights.arrivals").overwrite(data.arrivals(schedule)),
    )
