"""What a value is made of: the events of one entity, straight from the source's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide.windows import start_us
from fourfold.core.errors import NotFound, Refused, did_you_mean
from fourfold.core.features import Contribution, Explanation, Kind, Latest, Scalar, View, Window
from fourfold.core.times import Instant
from fourfold.mlplatform.features.columns import check_key, encode_keys, ints
from fourfold.mlplatform.features.expressions import compile_row, names, parse
from fourfold.mlplatform.features.offline import Asked, Known, Lens
from fourfold.mlplatform.features.sources import SourceTables
from fourfold.mlplatform.features.tables import ViewRecord

MOST_SHOWN = 10_000
"""Contributions in one explanation."""


def explain(
    record: ViewRecord,
    name: str,
    key: Mapping[str, Scalar],
    tables: SourceTables,
    *,
    at: Instant,
    limit: int,
) -> Explanation:
    """The feature's value at `at` over the events known by then, and these events, the newest first."""
    view = record.info.view
    if name not in view.feature_names:
        raise NotFound(
            f"view '{view.name}' has no feature '{name}'",
            ways_on=did_you_mean(name, view.feature_names, what="features"),
            feature=name,
        )
    if not 1 <= limit <= MOST_SHOWN:
        raise Refused(f"limit must be from 1 to {MOST_SHOWN}, not {limit}")
    asked = _asked(record, key)
    version = tables.newest_version(view.source.table)
    events = _events_of(record, asked, tables, version, at)
    values = _values(record, events, asked, at)
    expression = next((e for e in view.expressions if e.name == name), None)
    inputs = list(dict.fromkeys(names(parse(expression.sql)))) if expression is not None else [name]
    parts: list[Latest | Window] = [latest for latest in view.latest if latest.name in inputs]
    parts += [window for window in view.windows if window.name in inputs]
    found: dict[bytes, Contribution] = {}
    for part in parts:
        found |= _contributions(view, record.columns, part, events, at)
    newest_first = sorted(found.items(), key=lambda item: (-item[1].event_at, -item[1].available_at, item[0]))
    starts = [start_us(at, part) for part in parts if isinstance(part, Window)]
    return Explanation(
        feature=f"{view.name}.{name}",
        value=values[name],
        start=Instant(min(starts)) if len(starts) == len(parts) and starts else None,
        end=at,
        event_count=len(found),
        contributions=tuple(contribution for _, contribution in newest_first[:limit]),
        table_version=version,
        sql="" if expression is None else expression.sql,
        inputs={} if expression is None else {part.name: values[part.name] for part in parts},
    )


def _asked(record: ViewRecord, key: Mapping[str, Scalar]) -> dict[str, Scalar]:
    view = record.info.view
    for column in key:
        if column not in view.entity.keys:
            raise Refused(
                f"entity '{view.entity.name}' of view '{view.name}' has no key '{column}'",
                ways_on=did_you_mean(column, view.entity.keys, what="keys"),
                column=column,
            )
    asked = {}
    for column in view.entity.keys:
        if column not in key:
            raise Refused(
                f"view '{view.name}' needs the key '{column}'",
                ways_on=did_you_mean(column, key, what="given"),
                column=column,
            )
        asked[column] = check_key(key[column], record.columns[column], column=column)
    return asked


def _events_of(
    record: ViewRecord, key: Mapping[str, Scalar], tables: SourceTables, version: int, at: Instant
) -> pa.Table:
    source = record.info.view.source
    events = tables.events(source, dict(record.columns), version)
    chosen = pc.less_equal(events.column(source.known), at)
    for column, value in key.items():
        is_it = pc.is_null(events.column(column)) if value is None else pc.equal(events.column(column), value)
        chosen = pc.and_(chosen, pc.fill_null(is_it, False))
    return events.filter(chosen)


def _values(record: ViewRecord, events: pa.Table, key: Mapping[str, Scalar], at: Instant) -> dict[str, Any]:
    view = record.info.view
    lens = Lens(events, view.source, view.entity.keys, Known.available)
    types = {column: events.schema.field(column).type for column in view.entity.keys}
    keys = tuple(pa.chunked_array([pa.array([key[c]], types[c])]) for c in view.entity.keys)
    asked = Asked(keys, pa.chunked_array([pa.array([at], pa.int64())]))
    answer = lens.evaluate(view, record.columns, asked)
    return {name: array[0].as_py() for name, array in answer.features.items()}


def _contributions(
    view: View, kinds: Mapping[str, Kind], part: Latest | Window, events: pa.Table, at: Instant
) -> dict[bytes, Contribution]:
    """The events that one latest value or window is made of, by event id."""
    source = view.source
    times, known = ints(events.column(source.time)), ints(events.column(source.known))
    ids = encode_keys([events.column(column) for column in source.event_id])
    if isinstance(part, Latest):
        past = np.flatnonzero(times <= at).tolist()
        newest = max(past, key=lambda row: (times[row], known[row], ids[row] or b""), default=None)
        rows = [] if newest is None or _is_expired(view, int(times[newest]), at) else [newest]
    else:
        rows = np.flatnonzero((times >= start_us(at, part)) & (times < at)).tolist()
        if part.where:
            holds, columns = compile_row(parse(part.where), tuple(kinds)), events.to_pylist()
            rows = [row for row in rows if holds([columns[row][c] for c in kinds]) is True]
    column = part.column
    found = {}
    for row in rows:
        value = events.column(column)[row].as_py() if column else None
        if column and value is None and isinstance(part, Window):
            continue
        name = "/".join(str(events.column(c)[row].as_py()) for c in source.event_id)
        found[ids[row] or b""] = Contribution(name, Instant(int(times[row])), Instant(int(known[row])), value)
    return found


def _is_expired(view: View, time: int, at: int) -> bool:
    return bool(view.ttl_us) and at - time > view.ttl_us
