"""The service of datasets: what tables hold, and what is expected of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fourfold.core.expectations import Check, Expected, Rejection
from fourfold.core.routes import Role, route
from fourfold.core.statistics import TableStatistics
from fourfold.core.times import Instant

if TYPE_CHECKING:
    import pyarrow as pa


class Datasets(Protocol):
    """Figures of tables, and expectations that are checked before a version is seen.

    Errors: `NotFound` for an unknown table or version, `Refused` for an expectation that cannot be asked of
    the table; those of `core.services.storage.Storage`.
    """

    # What a table holds

    @route("GET /tables/{name}/statistics", needs=Role.viewer)
    def statistics(
        self, name: str, *, version: int | None = None, at: Instant | None = None, tag: str | None = None
    ) -> TableStatistics:
        """What each column of a version holds: nulls, ends, distinct values, quantiles, a histogram.

        Kept once counted; a version that was not counted when it was written is read once.
        """
        ...

    # What is expected of it

    @route("PUT /tables/{name}/expectations", needs=Role.editor)
    def expect(self, name: str, expected: Expected, *, why: str = "") -> None:
        """Expect this of all rows that come from now on, in place of what was expected.

        Appends, overwrites, upserts and published branches are checked before their version is seen. Rows
        that are there already are not: `check` looks at them.
        """
        ...

    @route("GET /tables/{name}/expectations", needs=Role.viewer)
    def expectations(self, name: str) -> Expected:
        """What is expected of a table; nothing, where nothing was said."""
        ...

    @route("POST /tables/{name}/check", needs=Role.viewer)
    def check(self, name: str, *, version: int | None = None) -> Check:
        """Hold all rows of a version against what is expected. Nothing is kept of it."""
        ...

    @route("GET /tables/{name}/checks", needs=Role.viewer)
    def checks(self, name: str, *, limit: int = 20) -> tuple[Check, ...]:
        """What was found of versions as they were written, newest first."""
        ...

    @route("GET /tables/{name}/rejections", needs=Role.viewer)
    def rejections(self, name: str, *, limit: int = 20) -> tuple[Rejection, ...]:
        """Writes of which some rows were not as expected, newest first."""
        ...

    @route("GET /tables/{name}/rejections/{rejection}", needs=Role.viewer)
    def rejected_rows(self, name: str, rejection: str) -> pa.Table:
        """The rows that were kept aside, each with what it does not meet in front."""
        ...

    @route("DELETE /tables/{name}/rejections/{rejection}", needs=Role.editor)
    def discard(self, name: str, rejection: str, *, why: str = "") -> None:
        """Keep the rows of a rejection no longer. Doing it twice is doing it once."""
        ...
