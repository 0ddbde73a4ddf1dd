"""The feature store as others see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from fourfold.core.features import (
    Applied,
    AuditReport,
    Definitions,
    Explanation,
    Freshness,
    Join,
    Materialized,
    Pushed,
    Scalar,
    ServiceInfo,
    TrainingSetInfo,
    Vector,
    Vectors,
    ViewInfo,
)
from fourfold.core.routes import Role, route
from fourfold.core.times import Instant

if TYPE_CHECKING:
    import pyarrow as pa


class Plan(Protocol):
    """A service compiled for reading, held by whoever reads often (the hosting gateway).

    It is safe to use from several threads, and sees what other processes push. It keeps to the
    service version that it was made from.
    """

    @property
    def service(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The features of the vector, in order (without the request's columns)."""
        ...

    @property
    def request(self) -> tuple[str, ...]:
        """Columns that the model also needs and the request itself brings."""
        ...

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Columns that each row of keys must bring."""
        ...

    def read(
        self, keys: Sequence[Mapping[str, Scalar]], at: Instant | None = None
    ) -> tuple[list[Vector], int]:
        """The vectors of these entities at `at` (default: now), and the watermark they were read at."""
        ...


class Features(Protocol):
    """Definitions, training sets, the online store, and the proof that both sides agree."""

    @route("PUT /features", needs=Role.editor)
    def apply(self, definitions: Definitions) -> Applied:
        """Register views and services, checked against the real schemas of their tables.

        A changed meaning makes a new version beside the old one; the same content changes nothing.
        """
        ...

    @route("GET /features/views", needs=Role.viewer)
    def list_views(self) -> tuple[ViewInfo, ...]:
        """The present version of every view, by name."""
        ...

    @route("GET /features/views/{name}", needs=Role.viewer)
    def view(self, name: str, *, version: str | None = None) -> ViewInfo:
        """One view, at its present version or another."""
        ...

    @route("GET /features/services", needs=Role.viewer)
    def list_services(self) -> tuple[ServiceInfo, ...]:
        """The present version of every feature service, by name."""
        ...

    @route("GET /features/services/{name}", needs=Role.viewer)
    def service(self, name: str, *, version: str | None = None) -> ServiceInfo:
        """One feature service, at its present version or another."""
        ...

    @route("POST /features/services/{service}/training-set", needs=Role.editor)
    def training_set(
        self,
        service: str,
        entities: pa.Table,
        *,
        at: str = "at",
        join: Join = Join.point_in_time,
        versions: Mapping[str, int] | None = None,
        cache: bool = True,
    ) -> pa.Table:
        """The rows of `entities`, all and in order, with the service's features as of column `at` added.

        `versions` pins source tables by name; others are read at their newest version. The result's
        schema metadata holds the record (`training_set_info` reads it back from the table).
        """
        ...

    @route("GET /features/training-sets", needs=Role.viewer)
    def training_sets(self, *, service: str | None = None) -> tuple[TrainingSetInfo, ...]:
        """The training sets made so far, the newest first."""
        ...

    @route("POST /features/sources/{source}/events", needs=Role.editor)
    def push(self, source: str, events: pa.Table, *, record: bool = True) -> Pushed:
        """Apply events to every view of the source at once, each event once; durable when it returns.

        The events also reach the source's table, unless `record` is false (they are there already, or
        another way brings them).
        """
        ...

    @route("POST /features/sources/{source}/flush", needs=Role.editor)
    def flush(self, source: str) -> int:
        """Move pushed events that are still in the buffer to the source's table; returns how many."""
        ...

    @route("POST /features/materialize", needs=Role.editor)
    def materialize(
        self, *, sources: Sequence[str] = (), until: Instant | None = None, rebuild: bool = False
    ) -> tuple[Materialized, ...]:
        """Apply what the sources' tables hold and the online store has not seen; all sources by default.

        Only events known by `until` (default: now) are taken. It may be stopped and run again: what
        was applied is not applied twice. With `rebuild`, what the online store holds of the sources is
        dropped first, so that it stands as it did at `until` (to replay a day); meanwhile reads find less,
        and what was served before cannot be audited any more.
        """
        ...

    @route("POST /features/services/{service}/online", needs=Role.viewer)
    def online(
        self, service: str, keys: Sequence[Mapping[str, Scalar]], *, at: Instant | None = None
    ) -> Vectors:
        """The service's features of these entities at `at` (default: now). Non-finite floats are text."""
        ...

    def plan(self, service: str, *, version: str | None = None) -> Plan:
        """The service compiled for reading in this process."""
        ...

    @route("POST /features/services/{service}/audit", needs=Role.editor)
    def audit(
        self, service: str, served: pa.Table, *, at: str = "at", watermark: str = "watermark"
    ) -> AuditReport:
        """Recompute served vectors from the tables and compare, feature by feature.

        `served` has the service's key columns, its features under their names, the time `at` and the
        `watermark` of each row: what a prediction log holds.
        """
        ...

    @route("GET /features/freshness", needs=Role.viewer)
    def freshness(self, *, sources: Sequence[str] = ()) -> tuple[Freshness, ...]:
        """How far the online store is behind each source's table, and what was counted on the way."""
        ...

    @route("POST /features/explain/{feature}", needs=Role.viewer)
    def explain(
        self, feature: str, key: Mapping[str, Scalar], *, at: Instant | None = None, limit: int = 100
    ) -> Explanation:
        """Which events a feature's value at `at` is made of; `feature` is `view.feature`."""
        ...
