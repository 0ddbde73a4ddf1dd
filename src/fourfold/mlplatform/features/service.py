"""The feature store's service: definitions, training sets, the online side, and the proof of both."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.errors import Conflict, NotFound, Refused, Unavailable, did_you_mean
from fourfold.core.features import (
    Applied,
    AuditReport,
    Definitions,
    Explanation,
    FeatureService,
    Freshness,
    Join,
    Kind,
    Materialized,
    Pushed,
    Scalar,
    ServiceInfo,
    Source,
    TrainingSetInfo,
    Vector,
    Vectors,
    View,
    ViewInfo,
)
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.online import OnlineStore
from fourfold.core.services.storage import Storage
from fourfold.core.times import Instant
from fourfold.core.wire import number_out
from fourfold.mlplatform.features import audit as auditing
from fourfold.mlplatform.features import validate
from fourfold.mlplatform.features.columns import ints
from fourfold.mlplatform.features.explanation import explain
from fourfold.mlplatform.features.ingest import (
    CHUNK_EVENTS,
    Batch,
    Feed,
    Ingest,
    Progress,
    batch_of,
    source_id,
)
from fourfold.mlplatform.features.kernel import Ints
from fourfold.mlplatform.features.offline import SEQUENCE
from fourfold.mlplatform.features.plan import ServicePlan
from fourfold.mlplatform.features.sources import SourceTables, kinds_of_records, pushed
from fourfold.mlplatform.features.state import NEVER, Program
from fourfold.mlplatform.features.tables import FeatureRecords, ViewRecord
from fourfold.mlplatform.features.training import Tables, by_source
from fourfold.mlplatform.features.training_sets import TrainingSets

MOST_PUSHED = 100_000
"""Events in one push: they are applied in one commit."""

FLUSH_EVENTS = 20_000
"""Pushed events that may wait in the buffer; the push that goes beyond moves them to the table."""

MOST_TRAINING_SETS = 1000
"""Training sets listed."""

_TRIES = 20
_UNAPPLIED = int(np.iinfo(np.int64).max)


class FeatureStore:
    """Fulfils `core.services.features.Features`.

    Definitions and records of training sets are in the catalog, events in the tables of `storage`, what is
    read online in `online`, cached training sets in `blobs`. It keeps nothing of its own but compiled
    definitions, which it checks against the online store's stamp: any number of processes may work on one
    project at once.
    """

    def __init__(
        self, catalog: Catalog, *, storage: Storage, online: OnlineStore, blobs: BlobStore, clock: Clock
    ) -> None:
        self._records = FeatureRecords(catalog)
        self._storage = storage
        self._online = online
        self._clock = clock
        self._ingest = Ingest(online, clock)
        self._tables = SourceTables(storage, self._ingest)
        self._sets = TrainingSets(self._records, self._tables, blobs, clock)
        self._programs: dict[str, Program] = {}
        self._feeds: dict[str, tuple[Feed, dict[str, Kind]]] = {}
        self._plans: dict[tuple[str, str | None], tuple[int, ServicePlan]] = {}

    def __repr__(self) -> str:
        return f"<FeatureStore over {self._online!r}>"

    # Definitions

    def apply(self, definitions: Definitions) -> Applied:
        now = self._clock.now()
        present = self._records.views()
        for view in definitions.views:
            validate.check_names(view)
        gone = validate.check_sources(definitions.views, [r.info.view for r in present.values()])
        views = [self._checked(view, now) for view in definitions.views]
        known = {record.info.version: record.info for record in views}
        used = {use.version for service in definitions.services for use in service.uses}
        for version, record in self._records.views_by_version(used - set(known)).items():
            known[version] = record.info
        services = [
            ServiceInfo(service, service.version, validate.check_service(service, known), now, True)
            for service in definitions.services
        ]
        created, unchanged = self._records.apply(now, views, services)
        self._ingest.redefine(gone)
        for info in services:
            context.record_write(context.Ref("feature_service", info.service.name, info.version))
        return Applied(tuple(created), tuple(unchanged))

    def _checked(self, view: View, now: Instant) -> ViewRecord:
        try:
            schema = self._tables.schema(view.source.table)
        except NotFound as error:
            raise validate.no_table(view, error) from error
        columns, kinds = validate.check_view(view, schema)
        return ViewRecord(ViewInfo(view, view.version, kinds, now, True), columns)

    def list_views(self) -> tuple[ViewInfo, ...]:
        return tuple(record.info for record in self._records.views().values())

    def view(self, name: str, *, version: str | None = None) -> ViewInfo:
        return self._view(name, version).info

    def _view(self, name: str, version: str | None = None) -> ViewRecord:
        found = self._records.view(name, version)
        if found is not None:
            return found
        raise _unknown("view", name, version, self._records.views())

    def list_services(self) -> tuple[ServiceInfo, ...]:
        return tuple(self._records.services().values())

    def service(self, name: str, *, version: str | None = None) -> ServiceInfo:
        found = self._records.service(name, version)
        if found is not None:
            return found
        raise _unknown("feature service", name, version, self._records.services())

    def _named(self, name: str) -> ServiceInfo:
        """The service of a name, or of `name@version`."""
        plain, _, version = name.partition("@")
        return self.service(plain, version=version or None)

    def _views_of(self, service: FeatureService) -> dict[str, ViewRecord]:
        return self._records.views_by_version(use.version for use in service.uses)

    # Training sets

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
        info = self._named(service)
        records = self._views_of(info.service)
        return self._sets.make(info, records, entities, at=at, join=join, pinned=versions or {}, cache=cache)

    def training_sets(self, *, service: str | None = None) -> tuple[TrainingSetInfo, ...]:
        return tuple(self._records.training_sets(service, MOST_TRAINING_SETS))

    # Events in

    def push(self, source: str, events: pa.Table, *, record: bool = True) -> Pushed:
        if len(events) > MOST_PUSHED:
            raise Refused(
                f"{len(events)} events in one push; at most {MOST_PUSHED}",
                ways_on=["push them in parts, or append them to the source's table and run materialize"],
            )
        for _ in range(_TRIES):
            feed, kinds = self._feed(source)
            batch = pushed(feed.source, kinds, events)
            rows = self._tables.recorded(feed.source, events) if record else None
            outcome = self._ingest.apply(batch, feed, record=rows)
            if outcome is not None:
                break
        else:
            raise _definitions_move(source)
        if record and self._ingest.counts(feed.source).buffered >= FLUSH_EVENTS:
            self._tables.flush(feed.source)
        return Pushed(
            source=source,
            events=len(events),
            applied=len(outcome.fresh),
            duplicates=outcome.duplicates,
            null_keys=outcome.null_keys,
            too_late=outcome.too_late,
            watermark=outcome.watermark,
        )

    def flush(self, source: str) -> int:
        feed, _ = self._feed(source)
        return self._tables.flush(feed.source)

    def materialize(
        self, *, sources: Sequence[str] = (), until: Instant | None = None, rebuild: bool = False
    ) -> tuple[Materialized, ...]:
        known = self._clock.now() if until is None else until
        names = self._source_names(sources)
        if rebuild:
            for name in names:
                feed, _ = self._feed(name)
                self._tables.flush(feed.source)
                self._ingest.forget(feed)
        return tuple(self._materialize(name, known) for name in names)

    def _materialize(self, name: str, until: Instant) -> Materialized:
        began = time.perf_counter()
        feed, kinds = self._feed(name)
        source = feed.source
        for _ in range(_TRIES):
            self._tables.flush(source)
            since = self._ingest.progress(source)
            version = self._tables.newest_version(source.table)
            rows = self._tables.rows(source, kinds, version)
            rows = rows.sort_by([(source.known, "ascending"), (source.time, "ascending")])
            applied, duplicates, null_keys, watermark = self._load(name, rows, until)
            feed, kinds = self._feed(name)
            if self._backfill(feed, kinds, rows, since):
                break
        else:
            raise Unavailable(
                f"events of source '{name}' came faster than a new view could read those before",
                ways_on=["run materialize again when fewer come", "push with record=True"],
                source=name,
            )
        return Materialized(
            source=name,
            table_version=version,
            events=len(rows),
            applied=applied,
            duplicates=duplicates,
            null_keys=null_keys,
            watermark=watermark,
            seconds=time.perf_counter() - began,
        )

    def _load(self, name: str, rows: pa.Table, until: Instant) -> tuple[int, int, int, int]:
        """Apply a table's events that were known by `until`, in parts; what was applied before is skipped."""
        feed, _ = self._feed(name)
        source = feed.source
        is_known = np.asarray(ints(rows.column(source.known)) <= until)
        batch = batch_of(source, rows.filter(pa.array(is_known)))
        newest = int(ints(batch.table.column(source.time)).max(initial=NEVER))
        applied = duplicates = null_keys = 0
        watermark = self._ingest.progress(source).watermark
        for start in range(0, len(batch.ids), CHUNK_EVENTS):
            part = Batch(
                source, batch.table.slice(start, CHUNK_EVENTS), batch.ids[start : start + CHUNK_EVENTS]
            )
            for _ in range(_TRIES):
                outcome = self._ingest.apply(part, feed, history_until=newest)
                if outcome is not None:
                    break
                feed, _ = self._feed(name)
            else:
                raise _definitions_move(name)
            applied += len(outcome.fresh)
            duplicates += outcome.duplicates
            null_keys += outcome.null_keys
            watermark = outcome.watermark
        return applied, duplicates, null_keys, watermark

    def _backfill(self, feed: Feed, kinds: Mapping[str, Kind], rows: pa.Table, since: Progress) -> bool:
        """Build the views that came after events of their source."""
        with self._online.read() as reader:
            late = [p for p in feed.programs if self._ingest.needs_backfill(reader, p)]
        if not late:
            return True
        if not set(kinds) <= set(rows.schema.names):
            return False  # a view was defined just now, over columns that were not read
        batch = batch_of(feed.source, rows)
        return all(
            self._ingest.backfill(
                batch, program, since=since, prepare=lambda table: pushed(feed.source, kinds, table)
            )
            for program in late
        )

    def _feed(self, name: str) -> tuple[Feed, dict[str, Kind]]:
        """The views that the source's events go to, and the columns that they read."""
        with self._online.read() as reader:
            stamp = self._ingest.stamp(reader)
        kept = self._feeds.get(name)
        if kept is not None and kept[0].stamp == stamp:
            return kept
        records = self._records.fed_views(name)
        if not records:
            raise NotFound(
                f"source '{name}' is unknown: no view reads it",
                ways_on=did_you_mean(name, self._source_names(()), what="sources"),
                source=name,
            )
        present = next((r for r in records if r.info.is_current), records[0]).info.view.source
        fed = [r for r in records if source_id(r.info.view.source) == source_id(present)]
        feed = Feed(present, tuple(self._program(record) for record in fed), stamp)
        self._feeds[name] = feed, kinds_of_records(fed)
        return self._feeds[name]

    def _program(self, record: ViewRecord) -> Program:
        version = record.info.version
        if version not in self._programs:
            self._programs[version] = Program(record.info.view, dict(record.columns))
        return self._programs[version]

    def _source_names(self, wanted: Sequence[str]) -> list[str]:
        """The sources asked for, or all of the present views, by name."""
        known = {record.info.view.source.name for record in self._records.views().values()}
        for name in wanted:
            if name not in known:
                raise NotFound(
                    f"source '{name}' is unknown: no view reads it",
                    ways_on=did_you_mean(name, known, what="sources"),
                    source=name,
                )
        return list(dict.fromkeys(wanted)) or sorted(known)

    # Reads

    def online(
        self, service: str, keys: Sequence[Mapping[str, Scalar]], *, at: Instant | None = None
    ) -> Vectors:
        name, _, version = service.partition("@")
        plan = self._plan(name, version or None)
        t = self._clock.now() if at is None else at
        vectors, watermark = plan.read(keys, t)
        return Vectors(
            service=plan.service,
            version=plan.version,
            names=plan.names,
            rows=tuple(_plain(vector) for vector in vectors),
            at=t,
            watermark=watermark,
            kinds=plan.kinds,
        )

    def plan(self, service: str, *, version: str | None = None) -> ServicePlan:
        return self._plan(service, version)

    def _plan(self, name: str, version: str | None) -> ServicePlan:
        with self._online.read() as reader:
            stamp = self._ingest.stamp(reader)
        kept = self._plans.get((name, version))
        if kept is not None and kept[0] == stamp:
            return kept[1]
        info = self.service(name, version=version)
        programs = {v: self._program(record) for v, record in self._views_of(info.service).items()}
        plan = ServicePlan(info.service, programs, self._online, self._ingest, self._clock)
        self._plans[name, version] = stamp, plan
        return plan

    # Proof

    def audit(
        self, service: str, served: pa.Table, *, at: str = "at", watermark: str = "watermark"
    ) -> AuditReport:
        began = time.perf_counter()
        info = self._named(service)
        auditing.check_served(info.service, served, at, watermark)
        records = self._views_of(info.service)
        events: dict[str, pa.Table] = {}
        fresh = []
        for source, group in by_source(records.values()).items():
            self._tables.flush(source)
            version = self._tables.newest_version(source.table)
            found = self._tables.events(source, kinds_of_records(group), version)
            sequences = self._sequences(source, found)
            fresh.append(self._freshness(source, found, sequences))
            numbered = found.append_column(SEQUENCE, pa.array(sequences))
            events[source.name] = auditing.within_reach(numbered, source, group, served, at)
        features, skipped = auditing.compare(
            info.service, records, Tables(events), served, at=at, watermark=watermark
        )
        return AuditReport(
            service=info.service.name,
            version=info.version,
            rows=len(served) - skipped,
            skipped=skipped,
            features=features,
            freshness=tuple(fresh),
            seconds=time.perf_counter() - began,
        )

    def freshness(self, *, sources: Sequence[str] = ()) -> tuple[Freshness, ...]:
        answer = []
        for name in self._source_names(sources):
            feed, kinds = self._feed(name)
            needed = (feed.source.time, feed.source.known, *feed.source.event_id)
            version = self._tables.newest_version(feed.source.table)
            found = self._tables.events(feed.source, {c: kinds[c] for c in needed}, version)
            answer.append(self._freshness(feed.source, found, self._sequences(feed.source, found)))
        return tuple(answer)

    def _sequences(self, source: Source, events: pa.Table) -> Ints:
        """The sequence number of each event, beyond every watermark for one that was not applied."""
        found = self._ingest.sequences(source, batch_of(source, events).ids)
        return np.array([_UNAPPLIED if sequence is None else sequence for sequence in found], np.int64)

    def _freshness(self, source: Source, events: pa.Table, sequences: Ints) -> Freshness:
        counts = self._ingest.counts(source)
        is_known = ints(events.column(source.known)) <= self._clock.now()
        return Freshness(
            source=source.name,
            newest_event_at=None if counts.newest == NEVER else Instant(counts.newest),
            newest_available_at=None if counts.newest_known == NEVER else Instant(counts.newest_known),
            events_waiting=int((is_known & (sequences == _UNAPPLIED)).sum()),
            applied=counts.applied,
            duplicates=counts.duplicates,
            null_keys=counts.null_keys,
            too_late=counts.too_late,
            buffered=counts.buffered,
        )

    def explain(
        self, feature: str, key: Mapping[str, Scalar], *, at: Instant | None = None, limit: int = 100
    ) -> Explanation:
        view, _, name = feature.partition(".")
        record = self._view(view)
        self._tables.flush(record.info.view.source)
        t = self._clock.now() if at is None else at
        return explain(record, name, key, self._tables, at=t, limit=limit)


def _plain(vector: Vector) -> Vector:
    """The vector with non-finite floats as text, because JSON has none."""
    if all(not isinstance(v, float) or math.isfinite(v) for v in vector.values):
        return vector
    values = tuple(number_out(v) if isinstance(v, float) else v for v in vector.values)
    return Vector(values, vector.statuses)


def _unknown(what: str, name: str, version: str | None, known: Mapping[str, object]) -> NotFound:
    if version is not None and name in known:
        return NotFound(
            f"{what} '{name}' has no version '{version}'",
            ways_on=["leave the version out for the present one"],
            name=name,
            version=version,
        )
    return NotFound(f"{what} '{name}' is unknown", ways_on=did_you_mean(name, known), name=name)


def _definitions_move(source: str) -> Conflict:
    return Conflict(
        f"the views of source '{source}' were redefined again and again meanwhile",
        ways_on=["try again"],
        source=source,
    )
