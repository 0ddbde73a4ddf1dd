"""What is known about a flight shortly before it leaves: the definitions, and nothing else.

Each view turns one source of events into features of one entity. The same definitions make the training
sets (point in time), fill the online store, and answer the endpoint's look-ups.
"""

from __future__ import annotations

from fourfold import features as fs

# -- what features describe --------------------------------------------------------------------------

origin = fs.Entity("origin", key="origin", description="one of the three airports of New York")
destination = fs.Entity("destination", key="dest", description="the airport that a flight goes to")
carrier = fs.Entity("carrier", key="carrier", description="the airline")
aircraft = fs.Entity("aircraft", key="tailnum", description="one aircraft, by its tail number")

# -- what happened, and when it became known ---------------------------------------------------------

weather = fs.Source(
    "weather",
    table="flights.weather",
    time="observed_at",
    available_at="known_at",
    event_id=["origin", "observed_at"],
)
departures = fs.Source("departures", table="flights.departures", time="departed_at", event_id="flight_id")
arrivals = fs.Source(
    "arrivals",
    table="flights.arrivals",
    time="scheduled_dep_at",
    available_at="landed_at",
    event_id="flight_id",
)
register = fs.Source("register", table="flights.planes", time="known_at", event_id="tailnum")

# -- features ----------------------------------------------------------------------------------------


@fs.view(entity=origin, source=weather, ttl="3h", owner="flights")
class Weather:
    """The newest report of the airport; one older than three hours says nothing any more."""

    temp = fs.latest("temp")
    dewp = fs.latest("dewp")
    humid = fs.latest("humid")
    wind_dir = fs.latest("wind_dir")
    wind_speed = fs.latest("wind_speed")
    precip = fs.latest("precip")
    pressure = fs.latest("pressure")
    visib = fs.latest("visib")


@fs.view(entity=origin, source=departures, owner="flights")
class OriginDepartures:
    """How the airport does right now: who left in the last hours, and how late."""

    origin_left = fs.count(over=["1h", "3h"])
    origin_dep_delay = fs.mean("dep_delay_min", over=["1h", "3h"])
    origin_dep_delay_max = fs.max("dep_delay_min", over=["1h", "3h"])


@fs.view(entity=origin, source=arrivals, owner="flights")
class OriginArrivals:
    """How late the flights scheduled from here in the last six hours arrived, as far as they have."""

    origin_landed_6h = fs.count(over="6h")
    origin_arr_delay_6h = fs.mean("arr_delay_min", over="6h")
    origin_arr_delay_max_6h = fs.max("arr_delay_min", over="6h")


@fs.view(entity=carrier, source=departures, owner="flights")
class CarrierDepartures:
    """How the airline does right now."""

    carrier_left_3h = fs.count(over="3h")
    carrier_dep_delay_3h = fs.mean("dep_delay_min", over="3h")
    carrier_dep_delay_max_3h = fs.max("dep_delay_min", over="3h")


@fs.view(entity=carrier, source=arrivals, owner="flights")
class CarrierArrivals:
    """How the airline did yesterday and in the last week."""

    carrier_landed = fs.count(over=["1d", "7d"])
    carrier_arr_delay = fs.mean("arr_delay_min", over=["1d", "7d"])
    carrier_arr_delay_max_1d = fs.max("arr_delay_min", over="1d")


@fs.view(entity=destination, source=arrivals, owner="flights")
class DestinationArrivals:
    """How late flights to this destination arrived."""

    dest_landed = fs.count(over=["6h", "1d"])
    dest_arr_delay = fs.mean("arr_delay_min", over=["6h", "1d", "7d"])
    dest_arr_delay_max_1d = fs.max("arr_delay_min", over="1d")


@fs.view(entity=aircraft, source=departures, ttl="1d", owner="flights")
class AircraftDepartures:
    """The aircraft's last departure from New York within a day."""

    prev_dep_delay = fs.latest("dep_delay_min")


@fs.view(entity=aircraft, source=arrivals, ttl="1d", owner="flights")
class AircraftArrivals:
    """The aircraft's previous leg out of New York, once it has landed."""

    prev_arr_delay = fs.latest("arr_delay_min")
    prev_arr_delay_sum_1d = fs.sum("arr_delay_min", over="1d")


@fs.view(entity=aircraft, source=register, owner="flights")
class Aircraft:
    """What the register says of the aircraft."""

    built_year = fs.latest("built_year")
    seats = fs.latest("seats")


REQUEST = ("hour", "weekday", "distance_mi", "scheduled_min", "origin", "carrier")
"""What every request says of its flight; the plan knows it long before."""

service = fs.FeatureService(
    "flight_delays",
    [
        Weather,
        OriginDepartures,
        OriginArrivals,
        CarrierDepartures,
        CarrierArrivals,
        DestinationArrivals,
        AircraftDepartures,
        AircraftArrivals,
        Aircraft,
    ],
    request=REQUEST,
    owner="flights",
    description="all that is known of a flight shortly before it leaves",
)
