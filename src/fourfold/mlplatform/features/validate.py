"""Definitions against the real tables: what a view reads must be there, and of a type it can use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from fourfold.core.errors import FourfoldError, Refused, did_you_mean
from fourfold.core.features import FeatureService, Kind, Source, Use, View, ViewInfo
from fourfold.mlplatform.features.api import refuse_twins
from fourfold.mlplatform.features.columns import kinds_of, source_columns
from fourfold.mlplatform.features.expressions import check_filter
from fourfold.mlplatform.features.offline import feature_kinds

_KEYS = {Kind.int, Kind.string, Kind.bool, Kind.time}
_NUMBERS = {"sum": {Kind.int, Kind.float, Kind.bool}, "mean": {Kind.int, Kind.float, Kind.bool}}
_ORDERED = {Kind.int, Kind.float, Kind.bool, Kind.time}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_FEATURE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def check_names(view: View) -> None:
    """Refuse names that could not be written in `view.feature`, an address or an expression."""
    for what, name in (("view", view.name), ("source", view.source.name), ("entity", view.entity.name)):
        _check_name(what, name, _NAME)
    for name in view.feature_names:
        _check_name(f"feature of view '{view.name}'", name, _FEATURE_NAME)
    if not view.entity.keys:
        raise Refused(f"entity '{view.entity.name}' has no key")


def _check_name(what: str, name: str, allowed: re.Pattern[str]) -> None:
    if allowed.fullmatch(name) is None:
        signs = "letters, digits, '_' and '-'" if allowed is _NAME else "letters, digits and '_'"
        raise Refused(f"{name[:120]!r} cannot name a {what}", ways_on=[f"use {signs}, and no digit first"])


def check_sources(views: Sequence[View], present: Sequence[View]) -> list[Source]:
    """Refuse two views that disagree about one source or entity.

    `present` are the present versions of all views; those that `views` replace do not count. Answers
    with the earlier definitions of sources that are redefined.
    """
    replaced = {view.name for view in views}
    kept = [view for view in present if view.name not in replaced]
    sources: dict[str, View] = {}
    entities: dict[str, View] = {}
    for view in (*kept, *views):
        first = sources.setdefault(view.source.name, view)
        if first.source != view.source:
            raise _two_meanings("source", view.source.name, first, view)
        first = entities.setdefault(view.entity.name, view)
        if first.entity.keys != view.entity.keys:
            raise _two_meanings("entity", view.entity.name, first, view)
    return sorted(
        {
            view.source
            for view in present
            if view.source.name in sources and sources[view.source.name].source != view.source
        },
        key=lambda source: source.name,
    )


def _two_meanings(what: str, name: str, first: View, second: View) -> Refused:
    return Refused(
        f"{what} '{name}' means one thing in view '{first.name}' and another in view '{second.name}'",
        ways_on=["apply these views together, with one definition", f"or give the {what} another name"],
        views=[first.name, second.name],
    )


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


def check_service(service: FeatureService, views: Mapping[str, ViewInfo]) -> dict[str, Kind]:
    """The kinds of a service's features; `views` are by version."""
    _check_name("feature service", service.name, _NAME)
    refuse_twins(service)
    if not service.uses:
        raise Refused(f"service '{service.name}' has no features")
    kinds: dict[str, Kind] = {}
    sources: dict[str, View] = {}
    for use in service.uses:
        if use.version not in views:
            raise Refused(
                f"service '{service.name}' uses view '{use.view}' at version {use.version}, which is unknown",
                ways_on=["apply the view with the service"],
                view=use.view,
            )
        known, view = views[use.version].kinds, views[use.version].view
        if sources.setdefault(view.source.name, view).source != view.source:
            raise _two_meanings("source", view.source.name, sources[view.source.name], view)
        _check_keys(service, use, view)
        for pick in use.picks:
            if pick.feature not in known:
                raise Refused(
                    f"service '{service.name}': view '{use.view}' has no feature '{pick.feature}'",
                    ways_on=did_you_mean(pick.feature, known, what="features"),
                )
            kinds[pick.name] = known[pick.feature]
    return kinds


def _check_keys(service: FeatureService, use: Use, view: View) -> None:
    found = {key.key for key in use.keys}
    if found != set(view.entity.keys):
        by, keys = ", ".join(sorted(found)) or "nothing", ", ".join(view.entity.keys)
        raise Refused(
            f"service '{service.name}' looks view '{use.view}' up by {by}, "
            f"but entity '{view.entity.name}' has the keys {keys}",
            view=use.view,
        )


def no_table(view: View, error: FourfoldError) -> Refused:
    """The refusal of a view whose source has no table."""
    return Refused(
        f"view '{view.name}' reads source '{view.source.name}', but {error.message}",
        ways_on=["write the table first: ff.table(name).append(data)", *error.ways_on],
        table=view.source.table,
    )
