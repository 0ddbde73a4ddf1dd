"""Definitions against the real tables: what a view reads must be there, and of a type it can use."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from fourfold.core.errors import FourfoldError, Refused, did_you_mean
from fourfold.core.features import FeatureService, Kind, View
from fourfold.mlplatform.features.api import refuse_twins
from fourfold.mlplatform.features.columns import kinds_of, source_columns
from fourfold.mlplatform.features.expressions import check_filter
from fourfold.mlplatform.features.offline import feature_kinds

_KEYS = {Kind.int, Kind.string, Kind.bool, Kind.time}
_NUMBERS = {"sum": {Kind.int, Kind.float, Kind.bool}, "mean": {Kind.int, Kind.float, Kind.bool}}
_ORDERED = {Kind.int, Kind.float, Kind.bool, Kind.time}


def check_view(view: View, schema: pa.Schema) -> tuple[dict[str, Kind], dict[str, Kind]]:
    """The kinds of the columns that a view reads, and of its features; or a refusal that names the cause."""
    what = f"table '{view.source.table}', the source of view '{view.name}',"
    _refuse_repeats(view)
    if not view.source.event_id:
        raise Refused(f"source '{view.source.name}' has no event_id: without one no event is known again")
    columns = kinds_of(schema, source_columns(view.source, [view]), what=what)
    for column in dict.fromkeys((view.source.time, view.source.known)):
        if columns[column] is not Kind.time:
            raise Refused(
                f"column '{column}' of {what} holds {columns[column]} values where times are wanted",
                ways_on=["make it a timestamp with a zone"],
                column=column,
            )
    for column in (*view.entity.keys, *view.source.event_id):
        if columns[column] not in _KEYS:
            raise Refused(f"column '{column}' of {what} is {columns[column]}, which cannot be a key")
    for window in view.windows:
        where = f"window '{window.name}' of view '{view.name}'"
        if not window.column and window.function != "count":
            raise Refused(f"{where} has no column")
        allowed = _NUMBERS.get(window.function, _ORDERED)
        if window.function != "count" and columns[window.column] not in allowed:
            raise Refused(
                f"{where}: {window.function} of '{window.column}', which is {columns[window.column]}",
                column=window.column,
            )
        if window.length_us <= 0 or window.hop_us < 0:
            raise Refused(f"{where} has no length, or a hop below zero")
        if window.where:
            check_filter(window.where, columns, what=where)
    return columns, feature_kinds(view, columns)


def _refuse_repeats(view: View) -> None:
    names = view.feature_names
    if not names:
        raise Refused(f"view '{view.name}' has no features")
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"view '{view.name}' has two features named '{name}'", feature=name)


def check_service(
    service: FeatureService, kinds_of_view: Mapping[str, Mapping[str, Kind]]
) -> dict[str, Kind]:
    """The kinds of a service's features; `kinds_of_view` is by view version."""
    refuse_twins(service)
    if not service.uses:
        raise Refused(f"service '{service.name}' has no features")
    kinds: dict[str, Kind] = {}
    for use in service.uses:
        if use.version not in kinds_of_view:
            raise Refused(
                f"service '{service.name}' uses view '{use.view}' at version {use.version}, which is unknown",
                ways_on=["apply the view with the service"],
                view=use.view,
            )
        known = kinds_of_view[use.version]
        for pick in use.picks:
            if pick.feature not in known:
                raise Refused(
                    f"service '{service.name}': view '{use.view}' has no feature '{pick.feature}'",
                    ways_on=did_you_mean(pick.feature, known, what="features"),
                )
            kinds[pick.name] = known[pick.feature]
    return kinds


def no_table(view: View, error: FourfoldError) -> Refused:
    """The refusal of a view whose source has no table."""
    return Refused(
        f"view '{view.name}' reads source '{view.source.name}', but {error.message}",
        ways_on=["write the table first: ff.table(name).append(data)", *error.ways_on],
        table=view.source.table,
    )
