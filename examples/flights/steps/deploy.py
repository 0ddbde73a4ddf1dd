"""Put a model version live behind the endpoint, and score a table with it in batch."""

from __future__ import annotations

from dataclasses import dataclass

from examples.flights.steps.join import SERVICE

import fourfold as ff
from fourfold.core.hosting import Scored
from fourfold.core.models import ModelVersion
from fourfold.core.storage import TableVersion

ENDPOINT = "flight-delays"


@dataclass(frozen=True, slots=True)
class Live:
    """An endpoint and the version that answers for it."""

    endpoint: str
    model: str


@ff.step
def deploy(version: ModelVersion) -> Live:
    """The endpoint looks the features up itself: a request says which flight, not how the airport does."""
    ff.deploy(version, ENDPOINT, features=SERVICE)
    return Live(ENDPOINT, str(version))


@ff.step(cache=True, memory="1GiB")
def score_batch(version: ModelVersion, plan: TableVersion) -> Scored:
    """The next day's flights in one go, with the same `featurize` and `predict` as the endpoint's."""
    return ff.predict_table(
        version,
        plan.name,
        version=plan.version,
        out=f"flights.scores_{plan.version}_{version.number}",
        features=SERVICE,
        time_column="t",
        keep=["flight_id", "t"],
    )
