"""Play a day through the endpoint: each event when it became known, each flight when it was to leave."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from examples.flights import features
from examples.flights.data import INSTANT
from examples.flights.labels import KEYS, midnight
from examples.flights.steps.deploy import Live
from examples.flights.steps.land import Landed

import fourfold as ff
from fourfold import features as fs
from fourfold.core.errors import FourfoldError
from fourfold.core.features import Source
from fourfold.core.hosting import Comparison
from fourfold.core.models import ModelVersion
from fourfold.core.storage import TableVersion

REQUEST = tuple(dict.fromkeys((*features.REQUEST, *KEYS)))
"""What a request says of its flight; all else is looked up."""

ASKED = pa.schema(
    [
        ("flight_id", pa.string()),
        ("t", INSTANT),
        ("hour", pa.int64()),
        ("prediction_id", pa.string()),
        ("said", pa.float64()),
        ("latency_ms", pa.float64()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a day of live traffic came to. The table holds one row per request."""

    table: TableVersion
    endpoint: str
    champion: str
    challenger: str
    requests: int
    errors: int
    events: dict[str, int]
    filled_s: float
    wall_s: float
    comparison: Comparison


@ff.step(cache=True, memory="1GiB")
def replay(
    landed: Landed, labels: TableVersion, plan: TableVersion, live: Live, challenger: ModelVersion, day: date
) -> Replayed:
    """The day as it came, with the challenger in the shadow: it gets a copy of each request."""
    began = time.perf_counter()
    fs.materialize(until=midnight(day), rebuild=True)
    filled_s = time.perf_counter() - began

    endpoint = ff.endpoint(live.endpoint)
    endpoint.shadow(challenger)
    flights = ff.table(plan.name).version(plan.version).read()
    events = Events(landed, since=midnight(day))
    pushed: Counter[str] = Counter()
    asked = []
    began = time.perf_counter()
    for flight in flights.sort_by([("t", "ascending"), ("flight_id", "ascending")]).to_pylist():
        for source, rows in events.until(flight["t"]):
            fs.push(source, rows, record=False)  # the tables hold them already
            pushed[source.name] += rows.num_rows
        asked.append(_ask(endpoint, flight))
    wall_s = time.perf_counter() - began

    _tell(endpoint, asked, ff.table(labels.name).version(labels.version).read())
    comparison = endpoint.compare(label="late")
    endpoint.shadow("")
    return Replayed(
        table=ff.table("flights.live").overwrite(pa.Table.from_pylist(asked, schema=ASKED)),
        endpoint=live.endpoint,
        champion=live.model,
        challenger=str(challenger),
        requests=len(asked),
        errors=sum(one["prediction_id"] is None for one in asked),
        events=dict(pushed),
        filled_s=filled_s,
        wall_s=wall_s,
        comparison=comparison,
    )


class Events:
    """The events of a day in the order in which they became known."""

    def __init__(self, landed: Landed, *, since: datetime) -> None:
        start = pa.scalar(since, INSTANT)
        versions = {one.name: one.version for one in landed.sources}
        self._ahead: dict[Source, tuple[pa.Table, list[datetime]]] = {}
        self._next: Counter[Source] = Counter()
        for source in (features.weather, features.departures, features.arrivals):
            rows = ff.table(source.table).version(versions[source.table]).read()
            rows = rows.filter(pc.greater(rows[source.known], start)).sort_by(source.known)
            self._ahead[source] = rows, rows[source.known].to_pylist()

    def until(self, t: datetime) -> Iterator[tuple[Source, pa.Table]]:
        """What has become known since the last call, up to and with `t`."""
        for source, (rows, known) in self._ahead.items():
            first, last = self._next[source], bisect_right(known, t)
            if first < last:
                self._next[source] = last
                yield source, rows.slice(first, last - first)


def _ask(endpoint: Any, flight: dict[str, Any]) -> dict[str, Any]:
    """One request, and what came of it."""
    row = {name: flight[name] for name in REQUEST}
    began = time.perf_counter()
    try:
        answer = endpoint.predict(row, t=flight["t"])
        told = {"prediction_id": answer.id, "said": answer.value, "error": ""}
    except FourfoldError as error:
        told = {"prediction_id": None, "said": None, "error": str(error)}
    latency_ms = (time.perf_counter() - began) * 1000
    return {**{name: flight[name] for name in ("flight_id", "t", "hour")}, **told, "latency_ms": latency_ms}


def _tell(endpoint: Any, asked: list[dict[str, Any]], outcomes: pa.Table) -> None:
    """Tell the endpoint how the flights that landed did; of the others nothing is ever known."""
    late = dict(zip(outcomes["flight_id"].to_pylist(), outcomes["late"].to_pylist(), strict=True))
    for one in asked:
        if one["prediction_id"] is not None and one["flight_id"] in late:
            endpoint.feedback(one["prediction_id"], late=late[one["flight_id"]])
