"""Say what features there are, and which flights to learn from."""

from __future__ import annotations

from datetime import date

import fourfold as ff
from examples.flights import features, labels
from examples.flights.steps.land import Landed
from fourfold import features as fs
from fourfold.core.storage import TableVersion


@ff.step(cache=True)
def define(landed: Landed) -> str:
    """Apply the definitions, checked against the landed tables; the version of the feature service."""
    del landed  # the tables have to be there
    fs.apply(features.service)
    return str(features.service.value.version)


@ff.step(cache=True)
def label(landed: Landed, since: date, before: date, late_after_min: int) -> TableVersion:
    """The flights of these days that landed, with how late they were."""
    schedule = landed.schedule
    rows = labels.labelled(
        ff.table(schedule.name).read(version=schedule.version),
        since=since,
        before=before,
        late_after_min=late_after_min,
    )
    version: TableVersion = ff.table("flights.labels").overwrite(rows)
    return version


@ff.step(cache=True)
def plan(landed: Landed, day: date) -> TableVersion:
    """The next day's flights as its schedule has them, one row per flight, cancelled ones included."""
    schedule = landed.schedule
    rows = labels.cases(
        ff.table(schedule.name).read(version=schedule.version), since=day, before=labels.after(day)
    )
    version: TableVersion = ff.table("flights.plan").overwrite(rows)
    return version
