"""The service of datasets: what tables hold."""

from __future__ import annotations

from typing import Protocol

from fourfold.core.routes import Role, route
from fourfold.core.statistics import TableStatistics


class Datasets(Protocol):
    """Figures of tables.

    Errors: `NotFound` for an unknown table or version; those of `core.services.storage.Storage`.
    """

    @route("GET /tables/{name}/statistics", needs=Role.viewer)
    def statistics(self, name: str, *, version: int | None = None) -> TableStatistics:
        """What each column of a version holds: nulls, ends, distinct values, quantiles, a histogram.

        Kept once counted; a version that was not counted when it was written is read once.
        """
        ...
