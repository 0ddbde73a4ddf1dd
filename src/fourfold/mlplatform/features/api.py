"""What people write: entities, sources, views of features, services; and what they ask of the store.

from fourfold import features as fs

airport = fs.Entity("airport", key="origin")
departures = fs.Source("departures", table="flights", time="departed_at", available_at="landed_at",
                       event_id="flight_id")

@fs.view(entity=airport, source=departures, owner="ops")
class AirportDelays:
    flights = fs.count(over=["1h", "1d"])                          # flights_1h, flights_1d
    delay = fs.mean("delay_min", over="1d", where="not cancelled")
    busy = fs.expr("flights_1h / nullif(flights_1d, 0)")

delays = fs.FeatureService("delays", [AirportDelays], request=["hour"])
fs.apply(delays)
data = fs.training_set(delays, labels, at="scheduled_at")
fs.push(departures, events)
row = fs.online(delays, origin="JFK")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from fourfold.core import context
from fourfold.core import features as values
from fourfold.core.decide.windows import default_hop_us, refuse_bad_hop
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.features import AuditReport, Explanation, Function, Join, TrainingSetInfo
from fourfold.core.times import Instant, duration_s, instant

if TYPE_CHECKING:
    import pyarrow as pa

Duration = str | float | timedelta


def Entity(name: str, key: str | Sequence[str], *, description: str = "") -> values.Entity:  # noqa: N802
    """An entity with its key column, or several for a composite key.

    >>> Entity("route", key=["origin", "dest"]).keys
    ('origin', 'dest')
    """
    return values.Entity(name, _names(key), description)


def Source(  # noqa: N802
    name: str, *, table: str = "", time: str, event_id: str | Sequence[str], available_at: str = ""
) -> values.Source:
    """A table of events: when each happened, when it became known, and what identifies it."""
    return values.Source(name, table or name, time, _names(event_id), available_at)


@dataclass(frozen=True, slots=True)
class _Latest:
    column: str


@dataclass(frozen=True, slots=True)
class _Windows:
    function: Function
    column: str
    over: tuple[Duration, ...]
    is_list: bool
    where: str
    hop: Duration | None


@dataclass(frozen=True, slots=True)
class _Expression:
    sql: str


def latest(column: str) -> Any:
    """The column's value in the newest event at or before t."""
    return _Latest(column)


def expr(sql: str) -> Any:
    """A SQL expression over other features of the view; numbers are computed as doubles."""
    return _Expression(sql)


def sum(column: str, over: Any, *, where: str = "", hop: Duration | None = None) -> Any:  # noqa: A001
    """The sum over one window (`over="1h"`) or several (`over=["1h", "7d"]`, named `..._1h`, `..._7d`).

    `hop` is the step by which the window's tail moves: by default 5 minutes below 12 hours, an hour
    below 12 days, else a day; `"exact"` moves it continuously.
    """
    return _windows("sum", column, over, where, hop)


def count(column: str = "", over: Any = None, *, where: str = "", hop: Duration | None = None) -> Any:
    """The number of events in the window, or of those where `column` is not null."""
    return _windows("count", column, over, where, hop)


def mean(column: str, over: Any, *, where: str = "", hop: Duration | None = None) -> Any:
    """The mean over the window; null where there is nothing to average."""
    return _windows("mean", column, over, where, hop)


def min(column: str, over: Any, *, where: str = "", hop: Duration | None = None) -> Any:  # noqa: A001
    """The least value in the window."""
    return _windows("min", column, over, where, hop)


def max(column: str, over: Any, *, where: str = "", hop: Duration | None = None) -> Any:  # noqa: A001
    """The greatest value in the window (NaN counts as the greatest, as in DuckDB)."""
    return _windows("max", column, over, where, hop)


@dataclass(frozen=True, slots=True)
class ViewHandle:
    """A view, as services take it: whole, or a selection under other names or for another key column."""

    view: values.View
    picks: tuple[values.Pick, ...] = ()
    keys: tuple[values.Key, ...] = ()

    def only(self, *names: str) -> ViewHandle:
        """Just these features."""
        chosen = {pick.feature: pick for pick in self._all_picks()}
        for name in names:
            if name not in chosen:
                raise Refused(
                    f"view '{self.view.name}' has no feature '{name}'",
                    ways_on=did_you_mean(name, chosen, what="features"),
                )
        return ViewHandle(self.view, tuple(chosen[name] for name in names), self.keys)

    def rename(self, mapping: Mapping[str, str] | None = None, *, prefix: str = "") -> ViewHandle:
        """The features under other names, one by one or all with a prefix."""
        renamed = mapping or {}
        known = {pick.feature for pick in self._all_picks()}
        for name in renamed:
            if name not in known:
                raise Refused(
                    f"view '{self.view.name}' has no feature '{name}'",
                    ways_on=did_you_mean(name, known, what="features"),
                )
        picks = tuple(
            values.Pick(pick.feature, renamed.get(pick.feature, prefix + pick.name))
            for pick in self._all_picks()
        )
        return ViewHandle(self.view, picks, self.keys)

    def by(self, **columns: str) -> ViewHandle:
        """Look the entity up by other columns: `Weather.by(origin="dest")`."""
        for key in columns:
            if key not in self.view.entity.keys:
                raise Refused(
                    f"entity '{self.view.entity.name}' has no key '{key}'",
                    ways_on=did_you_mean(key, self.view.entity.keys, what="keys"),
                )
        keys = tuple(values.Key(key, columns.get(key, key)) for key in self.view.entity.keys)
        return ViewHandle(self.view, self.picks, keys)

    def _all_picks(self) -> tuple[values.Pick, ...]:
        return self.picks or tuple(values.Pick(name, name) for name in self.view.feature_names)

    def use(self) -> values.Use:
        """How a service records it."""
        keys = self.keys or tuple(values.Key(key, key) for key in self.view.entity.keys)
        return values.Use(self.view.name, self._all_picks(), keys, self.view.version)


def view(
    *,
    entity: values.Entity,
    source: values.Source,
    name: str = "",
    owner: str = "",
    description: str = "",
    tags: Iterable[str] = (),
    ttl: Duration | None = None,
    lag: Duration = "1d",
) -> Any:
    """Make a view of the features that a class lists.

    `ttl`: latest values older than this are null. `lag`: how far behind the newest event an online
    read may ask; raw events are kept that long before they are folded into tiles.
    """

    def make(definition: type) -> ViewHandle:
        return ViewHandle(
            _view(
                name or definition.__name__,
                dict(vars(definition)),
                entity=entity,
                source=source,
                owner=owner,
                description=description or (definition.__doc__ or "").strip(),
                tags=tuple(sorted(tags)),
                ttl_us=0 if ttl is None else _us(ttl),
                lag_us=_us(lag),
            )
        )

    return make


@dataclass(frozen=True, slots=True)
class FeatureService:
    """What one model needs: features of several views, and columns that the request itself brings."""

    name: str
    views: Sequence[Any]
    """Decorated views or selections of them (`ViewHandle`; a type checker still sees the class)."""
    request: Sequence[str] = ()
    owner: str = ""
    description: str = ""
    tags: Sequence[str] = ()

    @property
    def value(self) -> values.FeatureService:
        """The service as a value; two features of one name are refused."""
        uses = tuple(_handle(view).use() for view in self.views)
        service = values.FeatureService(
            self.name, uses, tuple(self.request), self.owner, self.description, tuple(sorted(self.tags))
        )
        refuse_twins(service)
        return service


def refuse_twins(service: values.FeatureService) -> None:
    """Refuse a service with two columns of the same name."""
    seen: dict[str, str] = dict.fromkeys(service.request, "the request")
    for use in service.uses:
        for pick in use.picks:
            if pick.name in seen:
                raise Refused(
                    f"service '{service.name}' has two features named '{pick.name}': "
                    f"from {seen[pick.name]} and from view '{use.view}'",
                    ways_on=[f"give one another name: {use.view}.rename(prefix='...')"],
                    service=service.name,
                    feature=pick.name,
                )
            seen[pick.name] = f"view '{use.view}'"


def apply(*definitions: Any) -> values.Applied:
    """Register views and `FeatureService`s (a service brings its views)."""
    views: dict[str, values.View] = {}
    services = []
    for definition in definitions:
        if isinstance(definition, FeatureService):
            services.append(definition.value)
        for found in definition.views if isinstance(definition, FeatureService) else (definition,):
            handle = _handle(found)
            known = views.setdefault(handle.view.name, handle.view)
            if known != handle.view:
                raise Refused(f"view '{handle.view.name}' is defined twice, and differently")
    return context.services().features.apply(values.Definitions(tuple(views.values()), tuple(services)))


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Labels with features, and what makes it the same again: the fingerprint in `info`."""

    data: pa.Table = field(repr=False)
    info: TrainingSetInfo


def training_set(
    service: FeatureService | str,
    entities: Any,
    *,
    at: str = "at",
    join: Join | str = Join.point_in_time,
    versions: Mapping[str, int] | None = None,
    cache: bool = True,
) -> TrainingSet:
    """The rows of `entities`, all and in order, with the service's features as of the column `at`.

    Entities are an Arrow table or whatever else speaks Arrow. Lineage keeps which columns of which versions
    the features came from; the labels' too, where they are a DuckDB relation over tables, a version of one,
    or that version as it was read:

        fs.training_set(delays, ff.query('select origin, due as at, late from "flights@v3"'))
    """
    import pyarrow as pa

    from fourfold.foundation.storage import given
    from fourfold.foundation.storage.api import Table
    from fourfold.foundation.storage.columns.made import part_of, query_of, remember
    from fourfold.mlplatform.features.training import training_set_info

    opened = context.services()
    if isinstance(entities, Table):
        entities = entities.read()
    rows = given.arrow(entities)
    labels = rows if isinstance(rows, pa.Table) else rows.read_all()
    if labels is not entities and (origin := query_of(entities, partial(given.columns_at, opened.storage))):
        remember(labels, origin)
    data = opened.features.training_set(
        _name(service), labels, at=at, join=Join(join), versions=versions, cache=cache
    )
    info = training_set_info(data)
    if cache:
        remember(data, part_of(context.Ref("training_set", info.fingerprint), data.schema.names))
    return TrainingSet(data, info)


def push(source: values.Source | str, events: Any, *, record: bool = True) -> values.Pushed:
    """Apply events (a table, or a list of dicts) to every view of the source, each event once."""
    name = source if isinstance(source, str) else source.name
    if isinstance(events, (list, tuple)):
        import pyarrow as pa

        events = pa.Table.from_pylist(list(events))
    return context.services().features.push(name, events, record=record)


def materialize(
    *sources: values.Source | str, until: datetime | Instant | None = None, rebuild: bool = False
) -> tuple[values.Materialized, ...]:
    """Bring the online store up to what the sources' tables hold (all sources by default).

    With `rebuild` it is emptied of them first, and then stands as it did at `until`.
    """
    names = [source if isinstance(source, str) else source.name for source in sources]
    return context.services().features.materialize(sources=names, until=_instant(until), rebuild=rebuild)


def online(
    service: FeatureService | str, *, at: datetime | Instant | None = None, **key: values.Scalar
) -> dict[str, values.Scalar]:
    """The features of one entity by name: `online(delays, origin="JFK")`."""
    answer = context.services().features.online(_name(service), [key], at=_instant(at))
    return {
        name: float(value) if kind is values.Kind.float and isinstance(value, str) else value
        for name, kind, value in zip(answer.names, answer.kinds, answer.rows[0].values, strict=True)
    }


def audit(service: FeatureService | str, served: pa.Table, **columns: str) -> AuditReport:
    """Recompute what was served and compare."""
    return context.services().features.audit(_name(service), served, **columns)


def explain(
    feature: str, *, at: datetime | Instant | None = None, limit: int = 100, **key: values.Scalar
) -> Explanation:
    """Which events the value of `view.feature` is made of."""
    return context.services().features.explain(feature, key, at=_instant(at), limit=limit)


def _windows(function: Function, column: str, over: Any, where: str, hop: Duration | None) -> _Windows:
    if over is None:
        raise Refused(f"{function}() needs a window", ways_on=['write for example over="1h"'])
    is_list = isinstance(over, (list, tuple))
    return _Windows(function, column, tuple(over) if is_list else (over,), is_list, where, hop)


def _view(name: str, members: Mapping[str, object], **rest: Any) -> values.View:
    found_latest: list[values.Latest] = []
    windows: list[values.Window] = []
    expressions: list[values.Expression] = []
    for member, definition in members.items():
        match definition:
            case _Latest(column):
                found_latest.append(values.Latest(member, column))
            case _Expression(sql):
                expressions.append(values.Expression(member, sql))
            case _Windows():
                windows.extend(_expand(member, definition))
            case _ if not member.startswith("__"):
                raise Refused(
                    f"'{member}' in view '{name}' is not a feature",
                    ways_on=[
                        "write latest(...), sum(...), count(...), mean(...), min(...), max(...) or expr(...)"
                    ],
                )
            case _:
                pass
    if not (found_latest or windows or expressions):
        raise Refused(f"view '{name}' has no features")
    return values.View(
        name=name,
        latest=tuple(found_latest),
        windows=tuple(windows),
        expressions=tuple(expressions),
        **rest,
    )


def _expand(member: str, windows: _Windows) -> list[values.Window]:
    expanded = []
    for over in windows.over:
        length_us = _us(over)
        hop_us = (
            default_hop_us(length_us)
            if windows.hop is None
            else values.EXACT_HOP_US
            if windows.hop == "exact"
            else _us(windows.hop)
        )
        name = f"{member}_{_suffix(over)}" if windows.is_list else member
        refuse_bad_hop(name, length_us=length_us, hop_us=hop_us, is_exact=windows.hop == "exact")
        expanded.append(
            values.Window(name, windows.function, windows.column, length_us, hop_us, windows.where)
        )
    return expanded


def _suffix(over: Duration) -> str:
    text = over if isinstance(over, str) else f"{duration_s(over):g}s"
    return text.replace(" ", "").replace(".", "_")


def _us(duration: Duration) -> int:
    return round(duration_s(duration) * 1_000_000)


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _handle(view: Any) -> ViewHandle:
    if not isinstance(view, ViewHandle):
        raise Refused(f"{view!r} is not a view", ways_on=["decorate its class with @view(...)"])
    return view


def _name(service: FeatureService | str) -> str:
    return service if isinstance(service, str) else service.name


def _instant(at: datetime | Instant | None) -> Instant | None:
    return instant(at) if isinstance(at, datetime) else at
