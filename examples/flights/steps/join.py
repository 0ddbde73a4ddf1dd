"""Add the features to the labels, with care and without."""

from __future__ import annotations

from dataclasses import dataclass

from examples.flights.steps.land import Landed

import fourfold as ff
from fourfold import features as fs
from fourfold.core.storage import TableVersion

SERVICE = "flight_delays"


@dataclass(frozen=True, slots=True)
class Joined:
    """A training set: the table that holds it, and what makes it the same again."""

    table: TableVersion
    way: str
    fingerprint: str
    entity_rows: int
    seconds: float


@ff.step(cpu=2, cache=True, memory="2GiB")
def join(landed: Landed, service: str, labels: TableVersion, way: str) -> Joined:
    """The training set by one way of joining; every row of the labels is in it."""
    del service  # its version: another one is another training set
    rows = ff.table(labels.name).version(labels.version).read()
    made = fs.training_set(
        SERVICE,
        rows,
        at="t",
        join=way,
        versions={one.name: one.version for one in landed.sources},
    )
    table: TableVersion = ff.table(f"flights.training_{way}").overwrite(made.data)
    return Joined(table, way, made.info.fingerprint, rows.num_rows, made.info.seconds)
