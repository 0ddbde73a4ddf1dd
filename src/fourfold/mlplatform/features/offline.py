"""The values of a view's features at many (key, time) pairs, from a table of events.

DuckDB computes filters and expressions; the windows and latest values are the kernel's. Training sets
and audits are both made here: they differ only in what bounds the events that count (`Known`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.errors import Refused
from fourfold.core.features import EXACT_HOP_US, Kind, Source, View, Window
from fourfold.mlplatform.features.columns import (
    ARROW,
    OUTSIDE,
    KeyCodes,
    ints,
    validity,
)
from fourfold.mlplatform.features.expressions import check, parse, to_sql
from fourfold.mlplatform.features.kernel import (
    Events,
    Ints,
    Merge,
    Numbers,
    Queries,
    Ranges,
    Timeline,
    Truths,
    sort_order,
    zero,
)

SEQUENCE = "__sequence"
"""Column with the sequence number of each event, where an audit put one."""

_FOREVER = np.iinfo(np.int64).max


class Known(StrEnum):
    """Which events count at a query, beside their time."""

    available = "available"
    """Those with `available_at <= t`."""
    sequence = "sequence"
    """Those with `sequence <= watermark`."""
    all = "all"
    """All: as if known when they happened."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a view is evaluated: its key columns, a time (null: nothing is known), and a bound."""

    keys: tuple[pa.ChunkedArray, ...]
    times: pa.ChunkedArray
    watermark: pa.ChunkedArray | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A view's features, one array each, and Σ|x| behind each float sum (and Σ|x|/n behind each mean)."""

    features: Mapping[str, pa.Array]
    scales: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]


def unique_events(table: pa.Table, source: Source) -> pa.Table:
    """Events without those that have no time or id, and without repeats: of these the first known stays."""
    needed = (source.time, source.known, *source.event_id)
    complete = np.ones(len(table), bool)
    for column in needed:
        complete &= validity(table.column(column))
    if not complete.all():
        table = table.filter(pa.array(complete))
    codes = KeyCodes([table.column(column) for column in source.event_id]).codes
    if len(codes) and codes.max() + 1 == len(codes):
        return table
    order = np.lexsort((ints(table.column(source.time)), ints(table.column(source.known)), codes))
    is_first = np.append(True, codes[order][1:] != codes[order][:-1]) if len(order) else np.zeros(0, bool)
    return table.take(pa.array(np.sort(order[is_first])))


class Lens:
    """A source's events sorted for one entity: what views of this entity and source are computed from."""

    def __init__(
        self,
        table: pa.Table,
        source: Source,
        keys: Sequence[str],
        known: Known,
        *,
        ranks: Callable[[], Sequence[Numbers]] | None = None,
    ) -> None:
        """`ranks` answers with `id_ranks(table, source)`, for who makes several lenses of one table."""
        complete = np.ones(len(table), bool)
        for key in keys:
            complete &= validity(table.column(key))
        whole, table = table, table if complete.all() else table.filter(pa.array(complete))
        codes = KeyCodes([table.column(key) for key in keys])
        times, available = ints(table.column(source.time)), ints(table.column(source.known))

        def ids() -> list[Numbers]:
            found = id_ranks(whole, source) if ranks is None else ranks()
            return [rank[complete] for rank in found]

        order = sort_order(codes.codes, times, available, ids)
        self.known = known
        self.codes = codes
        self.table = table.take(pa.array(order))
        match known:
            case Known.available:
                measure = available[order]
            case Known.sequence:
                measure = ints(self.table.column(SEQUENCE))
            case Known.all:
                measure = np.zeros(len(order), np.int64)
        self.timeline = Timeline(Events(codes.codes[order], times[order], measure))
        self.times = times[order]

    def evaluate(
        self, view: View, kinds: Mapping[str, Kind], asked: Asked, *, scales: bool = False
    ) -> Answer:
        """The view's features at each key and time."""
        return _Evaluation(self, view, kinds, asked).answer(with_scales=scales)


class _Evaluation:
    """One view at many keys and times, asked in the order of the events: that is kinder to caches."""

    def __init__(self, lens: Lens, view: View, kinds: Mapping[str, Kind], asked: Asked) -> None:
        self.lens, self.view, self.kinds = lens, view, kinds
        keys, times = lens.codes.look_up(asked.keys), ints(asked.times)
        is_null = ~validity(asked.times)
        for column in asked.keys:
            is_null |= ~validity(column)
        keys = np.where(is_null, -1, keys)
        self.order = np.lexsort((times, keys))
        self.back = np.empty_like(self.order)
        self.back[self.order] = np.arange(len(self.order))
        bound = times
        if lens.known is Known.sequence:
            assert asked.watermark is not None, "an audit brings each row's watermark"
            bound = ints(asked.watermark)
        elif lens.known is Known.all:
            bound = np.full(len(times), _FOREVER)
        self.is_null = is_null[self.order]
        self.queries = Queries(keys[self.order], times[self.order], bound[self.order])
        self.filters: dict[str, Truths] = {}
        self.spans: dict[tuple[int, int], Ranges] = {}

    def answer(self, *, with_scales: bool) -> Answer:
        features = dict(self.latest()) if self.view.latest else {}
        scales: dict[str, Any] = {}
        for window in self.view.windows:
            features[window.name] = self.window(window)
            if with_scales and window.function in {"sum", "mean"} and self.kind(window) is Kind.float:
                scales[window.name] = self.scale(window)[self.back]
        features |= evaluate_expressions(self.view, features, self.kinds)
        return Answer(features, scales)

    # -- latest values

    def latest(self) -> dict[str, pa.Array]:
        found = self.lens.timeline.latest(self.queries)
        has = (found >= 0) & ~self.is_null
        if self.view.ttl_us:
            age = self.queries.times - self.lens.times[np.where(has, found, 0)] if len(self.lens.times) else 0
            has &= age <= self.view.ttl_us
        rows = pa.array(found[self.back], mask=~has[self.back])
        return {
            latest.name: self.lens.table.column(latest.column).combine_chunks().take(rows)
            for latest in self.view.latest
        }

    # -- windows

    def window(self, window: Window) -> pa.Array:
        flags = self.counted(window)
        ranges = self.ranges(window)
        count = self.lens.timeline.count_true(flags, ranges)
        if window.function == "count":
            return self.out(count, self.is_null, pa.int64())
        is_null = self.is_null | (count == 0)
        kind = self.kind(window)
        values = self.values(window, kind)
        timeline = self.lens.timeline
        if window.function in {"min", "max"}:
            merge: Merge = "least" if window.function == "min" else "greatest"
            lifted = np.where(flags, values, zero(merge, values))
            return self.out(timeline.fold(lifted, merge, ranges), is_null, ARROW[kind])
        if kind is Kind.float:
            total: Any = timeline.fold(np.where(flags, values, 0.0), "add", ranges)
        else:
            high, low = timeline.sum_wide(np.where(flags, values, 0), ranges)
            high, low = high + (low >> 32), low & 0xFFFFFFFF
            if window.function == "sum":
                return self.out(self.narrow(window, high, low, is_null), is_null, pa.int64())
            total = high.astype(np.float64) * 2.0**32 + low
        if window.function == "sum":
            return self.out(total, is_null, pa.float64())
        return self.out(total / np.maximum(count, 1), is_null, pa.float64())

    def narrow(self, window: Window, high: Ints, low: Ints, is_null: Truths) -> Ints:
        if np.any(((high < -(1 << 31)) | (high >= 1 << 31)) & ~is_null):
            raise Refused(
                f"the sum '{window.name}' of view '{self.view.name}' does not fit 64 bits",
                ways_on=["sum a double: cast the column in the source"],
            )
        return (high << 32) + low

    def scale(self, window: Window) -> Numbers:
        """Σ|x|, over n for a mean: what a float's tolerance is measured by."""
        flags, ranges = self.counted(window), self.ranges(window)
        sizes = np.abs(np.where(flags, self.values(window, Kind.float), 0.0))
        total = self.lens.timeline.fold(sizes, "add", ranges)
        if window.function == "mean":
            total = total / np.maximum(self.lens.timeline.count_true(flags, ranges), 1)
        return total

    def ranges(self, window: Window) -> Ranges:
        span = (window.length_us, window.hop_us)
        if span not in self.spans:
            starts = self.queries.times - window.length_us
            if window.hop_us != EXACT_HOP_US:
                starts = starts - starts % window.hop_us
            self.spans[span] = self.lens.timeline.ranges(self.queries, starts, self.queries.times)
        return self.spans[span]

    def counted(self, window: Window) -> Truths:
        """Which events count: the filter holds and the column is not null."""
        if window.where not in self.filters:
            self.filters[window.where] = self.filter(window.where)
        flags = self.filters[window.where]
        return flags & validity(self.lens.table.column(window.column)) if window.column else flags

    def filter(self, where: str) -> Truths:
        if not where:
            return np.ones(len(self.lens.table), bool)
        holds = f"coalesce({to_sql(parse(where), self.kinds)}, FALSE) AS holds"
        return np.asarray(project(holds, self.lens.table).column("holds"))

    def kind(self, window: Window) -> Kind:
        return self.kinds[window.column] if window.column else Kind.int

    def values(self, window: Window, kind: Kind) -> Numbers:
        column = self.lens.table.column(window.column)
        if kind is Kind.float:
            return np.asarray(pc.fill_null(column, 0.0))
        return ints(column.cast(pa.int64()))

    def out(self, values: Numbers, is_null: Truths, kind: pa.DataType) -> pa.Array:
        # The mask is explicit: pyarrow must not take NaN for null.
        array = pa.array(values[self.back], mask=is_null[self.back], from_pandas=False)
        return array if array.type == kind else array.cast(kind)


def project(columns: str, events: pa.Table) -> pa.Table:
    """Some DuckDB expressions over a table, rows in order."""
    with duckdb.connect() as connection:
        return connection.from_arrow(events).project(columns).to_arrow_table()


def evaluate_expressions(
    view: View, features: Mapping[str, pa.Array], kinds: Mapping[str, Kind]
) -> dict[str, pa.Array]:
    """The view's expressions over its other features, by DuckDB."""
    if not view.expressions:
        return {}
    inputs = input_kinds(view, kinds)
    columns = ", ".join(
        f'{to_sql(parse(e.sql), inputs)} AS "{e.name.replace(chr(34), chr(34) * 2)}"'
        for e in view.expressions
    )
    found = project(columns, pa.table(dict(features)))
    wanted = feature_kinds(view, kinds)
    return {
        e.name: found.column(e.name).combine_chunks().cast(ARROW[wanted[e.name]]) for e in view.expressions
    }


def input_kinds(view: View, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """What a view's expressions may read: its latest values and windows, with their kinds."""
    found: dict[str, Kind] = {latest.name: kinds[latest.column] for latest in view.latest}
    for window in view.windows:
        found[window.name] = window_kind(window, kinds)
    return found


def window_kind(window: Window, kinds: Mapping[str, Kind]) -> Kind:
    """The kind of a window's value."""
    if window.function == "count":
        return Kind.int
    if window.function == "mean":
        return Kind.float
    column = kinds[window.column]
    return Kind.int if window.function == "sum" and column is Kind.bool else column


def feature_kinds(view: View, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """The kind of each feature of a view over a source with columns of these kinds."""
    inputs = input_kinds(view, kinds)
    found = dict(inputs)
    for expression in view.expressions:
        found[expression.name] = check(
            expression.sql, inputs, what=f"expression '{expression.name}' of view '{view.name}'"
        )
    return found


def outside(array: pa.Array, kind: Kind) -> pa.Array:
    """A feature as training sets hold it: times as timestamps."""
    return array.cast(OUTSIDE[kind]) if kind is Kind.time else array


def id_ranks(table: pa.Table, source: Source) -> list[Numbers]:
    """For each column of the event id, numbers that sort as it does."""
    return [_ranks(table.column(column)) for column in source.event_id]


def _ranks(column: pa.ChunkedArray) -> Numbers:
    """Numbers that sort as the column does."""
    if pa.types.is_string(column.type):
        return ints(pc.rank(column.combine_chunks(), tiebreaker="dense").cast(pa.int64()))
    return ints(column.cast(pa.int64()))
