"""Served values against recomputed ones: the proof, on real traffic, that both sides say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.features import FeatureAudit, FeatureService, Kind, Source, View
from fourfold.mlplatform.features.columns import OUTSIDE, ints, normal, validity
from fourfold.mlplatform.features.offline import Known
from fourfold.mlplatform.features.tables import ViewRecord
from fourfold.mlplatform.features.training import ServiceJoin, Tables, times_of

TOLERANCE = 1e-9
"""Float sums agree within this share of Σ|x|; expressions within this share of their size."""

Floats = np.ndarray[Any, np.dtype[np.float64]]
Truths = np.ndarray[Any, np.dtype[np.bool_]]


def check_served(service: FeatureService, served: pa.Table, at: str, watermark: str) -> None:
    """Refuse a log that lacks what the audit needs."""
    for column in (at, watermark, *service.key_columns, *service.feature_names):
        if column not in served.schema.names:
            raise Refused(
                f"the log of service '{service.name}' has no column '{column}'",
                ways_on=did_you_mean(column, served.schema.names, what="columns"),
                column=column,
            )


def within_reach(
    events: pa.Table, source: Source, views: Sequence[ViewRecord], served: pa.Table, at: str
) -> pa.Table:
    """The events that a served row can depend on: those that its longest look back reaches."""
    times = pc.drop_null(times_of(served, at))
    if not len(times):
        return events.slice(0, 0)
    least, most = int(pc.min(times).as_py()), int(pc.max(times).as_py())
    happened = ints(events.column(source.time))
    keep = happened <= most
    reaches = [view_reach_us(record.info.view) for record in views]
    if all(reach is not None for reach in reaches):
        keep &= happened >= least - max(reach for reach in reaches if reach is not None)
    return events.filter(pa.array(keep))


def view_reach_us(view: View) -> int | None:
    """How far back of t a view looks; `None` for ever (latest values without a `ttl`)."""
    if view.latest and not view.ttl_us:
        return None
    windows = [window.length_us + window.hop_us for window in view.windows]
    return max([view.ttl_us, *windows], default=0)


def compare(
    service: FeatureService,
    records: Mapping[str, ViewRecord],
    tables: Tables,
    served: pa.Table,
    *,
    at: str,
    watermark: str,
) -> tuple[tuple[FeatureAudit, ...], int]:
    """Recompute each served row over `event_time < t and sequence <= watermark`, and compare.

    Answers with one audit for each feature, and how many rows had no time or watermark.
    """
    times = times_of(served, at)
    marks = served.column(watermark).cast(pa.int64())
    usable = validity(times) & validity(marks)
    skipped = int((~usable).sum())
    if skipped:
        keep = pa.array(usable)
        served, times, marks = served.filter(keep), times.filter(keep), marks.filter(keep)
    join = ServiceJoin(tables, records, Known.sequence)
    audits = []
    for use in service.uses:
        record = records[use.version]
        answer = join.evaluate(use, served, times, marks, scales=True)
        for pick in use.picks:
            kind = record.info.kinds[pick.feature]
            got = _served(served.column(pick.name), kind, what=f"served column '{pick.name}'")
            want = answer.features[pick.feature]
            tolerance = _tolerance(record.info.view, pick.feature, answer.scales, want)
            audits.append(_compare(pick.name, kind, got, want, tolerance))
    return tuple(audits), skipped


def _served(column: pa.ChunkedArray, kind: Kind, *, what: str) -> pa.Array:
    if kind is Kind.float and pa.types.is_integer(column.type):
        column = column.cast(pa.float64())
    return normal(column, kind, what=what).combine_chunks()


def _tolerance(view: View, feature: str, scales: Mapping[str, Floats], want: pa.Array) -> Floats:
    if feature in scales:
        return TOLERANCE * scales[feature]
    if any(expression.name == feature for expression in view.expressions) and pa.types.is_floating(want.type):
        # Rounding of the inputs goes through the expression; beyond that, both sides compute alike.
        return TOLERANCE * np.maximum(1.0, np.abs(_floats(want)))
    return np.zeros(len(want))


def _compare(name: str, kind: Kind, got: pa.Array, want: pa.Array, tolerance: Floats) -> FeatureAudit:
    has_got, has_want = validity(got), validity(want)
    both = has_got & has_want
    greatest = 0.0
    if kind is Kind.float:
        is_same, difference = _same_floats(_floats(got), _floats(want), tolerance)
        greatest = float(difference[both].max(initial=0.0))
    else:
        is_same = np.asarray(pc.fill_null(pc.equal(got, want), False))
    equal = (both & is_same) | (~has_got & ~has_want)
    wrong = np.flatnonzero(~equal)
    example = ""
    if len(wrong):
        row = int(wrong[0])
        example = f"row {row}: served {got[row].as_py()!r}, recomputed {want[row].as_py()!r}"
    return FeatureAudit(
        feature=name,
        rows=len(got),
        equal=int(equal.sum()),
        mismatched=int((both & ~is_same).sum()),
        missing=int((~has_got & has_want).sum()),
        extra=int((has_got & ~has_want).sum()),
        greatest_difference=greatest,
        example=example,
    )


def _same_floats(got: Floats, want: Floats, tolerance: Floats) -> tuple[Truths, Floats]:
    with np.errstate(invalid="ignore"):
        difference = np.abs(got - want)
    # Equal infinities differ by NaN; NaN equals NaN; a NaN on one side only is infinitely far.
    alike = (got == want) | (np.isnan(got) & np.isnan(want))
    difference = np.where(alike, 0.0, np.where(np.isnan(difference), np.inf, difference))
    bound = np.where(np.isfinite(tolerance), tolerance, 0.0)
    return difference <= bound, difference


def _floats(column: pa.Array) -> Floats:
    return np.asarray(pc.fill_null(column, 0.0), np.float64)


def outside_type(kind: Kind) -> pa.DataType:
    """The Arrow type in which a log holds a feature."""
    return OUTSIDE[kind]
