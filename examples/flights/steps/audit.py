"""Recompute what was served from the tables, and compare it value by value."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc
from examples.flights.steps.join import SERVICE
from examples.flights.steps.replay import Replayed

import fourfold as ff
from fourfold import features as fs
from fourfold.core.features import AuditReport
from fourfold.core.hosting import Scored


@dataclass(frozen=True, slots=True)
class Audited:
    """Online against offline: the features, and the answers beside the batch's."""

    report: AuditReport
    answers: int
    greatest_difference: float
    """Between an answer of the endpoint and the batch score of the same flight."""


@ff.step(cache=True, memory="1536MiB")
def audit(replayed: Replayed, scored: Scored) -> Audited:
    """Every feature of every answer of the day, and every answer beside its batch score."""
    live = ff.table(replayed.table.name).version(replayed.table.version).read()
    served = ff.endpoint(replayed.endpoint).served()
    ours = served.filter(pc.is_in(served["prediction_id"], live["prediction_id"].combine_chunks()))
    batch = ff.table(scored.out).version(scored.out_version).read()
    both = live.join(batch.select(["flight_id", "late"]), "flight_id", join_type="inner")
    apart = pc.max(pc.abs(pc.subtract(both["said"], both["late"]))).as_py()
    return Audited(fs.audit(SERVICE, ours), both.num_rows, apart)
