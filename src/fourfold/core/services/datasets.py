"""The service of datasets: what tables hold, what is expected of them, and bundles of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fourfold.core.datasets import DatasetDiff, DatasetInfo, DatasetVersion, Definition
from fourfold.core.expectations import Check, Expected, Rejection
from fourfold.core.routes import Role, route
from fourfold.core.statistics import TableStatistics
from fourfold.core.times import Instant

if TYPE_CHECKING:
    import pyarrow as pa


class Datasets(Protocol):
    """Figures of tables, expectations that are checked before a version is seen, and datasets: named bundles
    of tables and files whose versions pin those of their members.

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

    # Bundles

    @route("GET /datasets", needs=Role.viewer)
    def list_datasets(self) -> tuple[DatasetInfo, ...]:
        """All datasets, sorted by name."""
        ...

    @route("PUT /datasets/{name}", needs=Role.editor)
    def define(self, name: str, definition: Definition, *, why: str = "") -> DatasetInfo:
        """Say what a dataset is made of from now on; versions that are there stay as they are."""
        ...

    @route("GET /datasets/{name}", needs=Role.viewer)
    def dataset(self, name: str) -> DatasetInfo:
        """What a dataset is made of, its newest version and its tags."""
        ...

    @route("POST /datasets/{name}/releases", needs=Role.editor)
    def release(self, name: str, *, why: str = "") -> DatasetVersion:
        """Make a version that pins each member as it is now, with its figures.

        Where the newest version pins the same, it is the answer. Refused where a table is not as expected.
        What a version pins is not vacuumed.
        """
        ...

    @route("GET /datasets/{name}/release", needs=Role.viewer)
    def released(self, name: str, *, version: int | None = None, tag: str | None = None) -> DatasetVersion:
        """The newest version, or one named by number or tag."""
        ...

    @route("GET /datasets/{name}/releases", needs=Role.viewer)
    def releases(self, name: str, *, limit: int = 1000) -> tuple[DatasetVersion, ...]:
        """The versions, newest first."""
        ...

    @route("GET /datasets/{name}/diff", needs=Role.viewer)
    def diff_releases(self, name: str, *, before: int, after: int | None = None) -> DatasetDiff:
        """Members that are others, and how far columns of tables moved (to the newest, if not said)."""
        ...

    @route("POST /datasets/{name}/tags/{tag}", needs=Role.editor)
    def tag_release(
        self, name: str, tag: str, *, version: int | None = None, why: str = ""
    ) -> DatasetVersion:
        """Give a version a name of its own (the newest, if none is given); the tag may move later."""
        ...

    @route("POST /datasets/{name}/check", needs=Role.viewer)
    def check_dataset(self, name: str, *, version: int | None = None) -> tuple[Check, ...]:
        """The tables of a version, or as they are now, held against what is expected of them."""
        ...
