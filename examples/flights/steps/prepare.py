"""Say what features there are, and which flights to learn from and to score."""

from __future__ import annotations

from datetime import date

import pyarrow.compute as pc
from examples.flights import features, labels
from examples.flights.steps.land import Landed

import fourfold as ff
from fourfold import features as fs
from fourfold.core.storage import TableVersion


@ff.step(cache=True)
def define(landed: Landed) -> str:
    """Apply the definitions, checked against the landed tables; the version of the feature service."""
    del landed  # the tables have to be there
    fs.apply(features.service)
    return str(features.service.value.version)


@ff.step(cache=True, memory="1GiB")
def label(landed: Landed, late_after_min: int) -> TableVersion:
    """Every flight that landed, with how late it was."""
    schedule = ff.table(landed.schedule.name).version(landed.schedule.version).read()
    rows = labels.labelled(schedule, late_after_min=late_after_min)
    version: TableVersion = ff.table("flights.labels").overwrite(rows)
    return version


@ff.step(cache=True, memory="1GiB")
def plan(landed: Landed, day: date, most: int = 0) -> TableVersion:
    """The next day's flights as its schedule has them, cancelled ones included; at most so many."""
    schedule = ff.table(landed.schedule.name).version(landed.schedule.version).read()
    rows = labels.cases(schedule.filter(pc.equal(schedule["day"], day)))
    if 0 < most < rows.num_rows:
        rows = rows.take([nth * rows.num_rows // most for nth in range(most)])
    version: TableVersion = ff.table("flights.plan").overwrite(rows)
    return version
