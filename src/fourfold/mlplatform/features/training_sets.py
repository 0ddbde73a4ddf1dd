"""Training sets made once: the same fingerprint is the same rows, read back from a blob."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import pyarrow as pa

from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import Corrupted, NotFound, Refused, did_you_mean
from fourfold.core.features import Join, ServiceInfo, TrainingSetInfo
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.clock import Clock
from fourfold.foundation.storage.columns.made import made_by, query_of
from fourfold.mlplatform.features.provenance import labels_known, training_set_columns
from fourfold.mlplatform.features.sources import SourceTables, kinds_of_records
from fourfold.mlplatform.features.tables import FeatureRecords, ViewRecord
from fourfold.mlplatform.features.training import (
    Tables,
    by_source,
    check_entities,
    digest_of,
    fingerprint_of,
    join_features,
    with_info,
)

_COMPRESSION = "lz4"


class TrainingSets:
    """Makes training sets, and keeps what it made."""

    def __init__(self, records: FeatureRecords, tables: SourceTables, blobs: BlobStore, clock: Clock) -> None:
        self._records = records
        self._tables = tables
        self._blobs = blobs
        self._clock = clock

    def make(
        self,
        service: ServiceInfo,
        views: Mapping[str, ViewRecord],
        entities: pa.Table,
        *,
        at: str,
        join: Join,
        pinned: Mapping[str, int],
        cache: bool,
    ) -> pa.Table:
        """The training set, made or read back; its record is in the schema's metadata.

        Without `cache` it is made anew and not kept: batch scoring looks features up this way.
        """
        began = time.perf_counter()
        check_entities(service.service, entities, at)
        versions = self._versions(views, pinned)
        digest = digest_of(entities)
        fingerprint = fingerprint_of(service.service, digest, versions, at=at, join=join)
        context.record_read(Ref("feature_service", service.service.name, service.version))
        if cache and (kept := self._kept(fingerprint)) is not None:
            for table, version in versions.items():
                context.record_read(Ref("table", table, str(version)))
            return kept
        events = {
            source.name: self._tables.events(source, kinds_of_records(group), versions[source.table])
            for source, group in by_source(views.values()).items()
        }
        data = join_features(service.service, views, Tables(events), entities, at=at, join=join)
        info = TrainingSetInfo(
            fingerprint=fingerprint,
            service=service.service.name,
            service_version=service.version,
            join=join,
            labels_digest=digest,
            table_versions=versions,
            rows=len(data),
            columns=tuple(data.schema.names),
            types=tuple(str(kind) for kind in data.schema.types),
            made_at=self._clock.now(),
            seconds=time.perf_counter() - began,
        )
        if cache:
            origin = query_of(entities, self._tables.columns)
            labels = labels_known(origin, entities.schema.names, digest)
            infos = {version: record.info for version, record in views.items()}
            columns = training_set_columns(service.service, infos, versions, labels, at=at)
            here = context.ambient()
            made = made_by(
                columns, Ref("training_set", fingerprint), None if here is None else here.executing.ref
            )
            self._records.keep_training_set(info, self._blobs.put(_packed(data)), made)
            context.record_write(made.target)
        return with_info(data, info)

    def _versions(self, views: Mapping[str, ViewRecord], pinned: Mapping[str, int]) -> dict[str, int]:
        """Each table's version: the pinned one, else the newest, with all pushed events in it."""
        sources = {source.table: source for source in by_source(views.values())}
        for table in pinned:
            if table not in sources:
                raise Refused(
                    f"version of table '{table}' is pinned, but the service does not read it",
                    ways_on=did_you_mean(table, sources, what="tables"),
                    table=table,
                )
        versions = {}
        for table, source in sorted(sources.items()):
            if table not in pinned:
                self._tables.flush(source)
            versions[table] = pinned[table] if table in pinned else self._tables.newest_version(table)
        return versions

    def _kept(self, fingerprint: str) -> pa.Table | None:
        """The training set as it was made, if its rows are still there."""
        found = self._records.training_set(fingerprint)
        if found is None or not found[1]:
            return None
        info, blob = found
        try:
            data = pa.ipc.open_stream(self._blobs.get(Digest(blob))).read_all()
        except (NotFound, Corrupted):
            return None  # it can be made again
        return with_info(data, dataclasses.replace(info, is_cached=True))


def _packed(data: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=_COMPRESSION)
    with pa.ipc.new_stream(sink, data.schema, options=options) as stream:
        stream.write_table(data)
    return bytes(sink.getvalue())
