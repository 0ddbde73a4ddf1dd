"""Training sets: labels with features as of each row's time, and what makes one the same again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.features import FeatureService, Join, Kind, Source, TrainingSetInfo, Use
from fourfold.core.wire import decode, encode
from fourfold.mlplatform.features.columns import kind_of, normal
from fourfold.mlplatform.features.kernel import Numbers
from fourfold.mlplatform.features.offline import Answer, Asked, Known, Lens, id_ranks, outside

if TYPE_CHECKING:
    from fourfold.mlplatform.features.tables import ViewRecord

FORMAT = 1
_METADATA = b"fourfold.training_set"


@dataclass(frozen=True, slots=True)
class Tables:
    """The events of each source that a service needs, in normal types and each once, by source name."""

    events: Mapping[str, pa.Table]


def training_set_info(data: pa.Table) -> TrainingSetInfo:
    """The record that a training set carries in its schema."""
    held = (data.schema.metadata or {}).get(_METADATA)
    if held is None:
        raise Refused("this table is not a training set", ways_on=["make one: training_set(service, labels)"])
    return decode(held, TrainingSetInfo, what="the training set's record")


def with_info(data: pa.Table, info: TrainingSetInfo) -> pa.Table:
    """The table with its record in the schema."""
    return data.replace_schema_metadata({_METADATA: encode(info)})


def check_entities(service: FeatureService, entities: pa.Table, at: str) -> None:
    """Refuse labels that lack a column or have one of a feature's name."""
    for column in (at, *service.key_columns, *service.request):
        if column not in entities.schema.names:
            raise Refused(
                f"service '{service.name}' needs column '{column}' beside the labels",
                ways_on=did_you_mean(column, entities.schema.names, what="columns"),
                column=column,
            )
    taken = sorted(set(service.feature_names) & set(entities.schema.names))
    if taken:
        raise Refused(
            f"the labels already have columns named as features: {', '.join(taken)}",
            ways_on=["drop or rename them"],
            columns=taken,
        )


def times_of(table: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of times as microseconds UTC: zoned timestamps, or integers that are instants already."""
    found = table.column(column)
    if pa.types.is_integer(found.type) or pa.types.is_null(found.type):
        return found.cast(pa.int64())
    kind = kind_of(found.type, what=f"column '{column}'")
    if kind is not Kind.time:
        raise Refused(f"column '{column}' holds {kind} values where times are wanted")
    return normal(found, Kind.time, what=f"column '{column}'")


def by_source(records: Iterable[ViewRecord]) -> dict[Source, list[ViewRecord]]:
    """The views of each source, by the source's name."""
    found: dict[Source, list[ViewRecord]] = {}
    for record in sorted(records, key=lambda r: (r.info.view.source.name, r.info.view.name)):
        found.setdefault(record.info.view.source, []).append(record)
    return found


class ServiceJoin:
    """Evaluates the views of a service; views of one source and entity share one sorted timeline."""

    def __init__(self, tables: Tables, records: Mapping[str, ViewRecord], known: Known) -> None:
        self._tables = tables
        self._records = records
        self._known = known
        self._lenses: dict[tuple[str, tuple[str, ...]], Lens] = {}
        self._ranks: dict[str, list[Numbers]] = {}

    def evaluate(
        self,
        use: Use,
        rows: pa.Table,
        times: pa.ChunkedArray,
        watermark: pa.ChunkedArray | None = None,
        *,
        scales: bool = False,
    ) -> Answer:
        """The features of one view of the service, for all rows."""
        record = self._records[use.version]
        view = record.info.view
        column_of = {key.key: key.column for key in use.keys}
        keys = tuple(
            normal(rows.column(column_of[key]), record.columns[key], what=f"key column '{column_of[key]}'")
            for key in view.entity.keys
        )
        lens = self._lens(view.source, view.entity.keys)
        return lens.evaluate(view, record.columns, Asked(keys, times, watermark), scales=scales)

    def _lens(self, source: Source, keys: tuple[str, ...]) -> Lens:
        place = (source.name, keys)
        if place not in self._lenses:
            self._lenses[place] = Lens(
                self._tables.events[source.name],
                source,
                keys,
                self._known,
                ranks=lambda: self._ranks_of(source),
            )
        return self._lenses[place]

    def _ranks_of(self, source: Source) -> list[Numbers]:
        if source.name not in self._ranks:
            self._ranks[source.name] = id_ranks(self._tables.events[source.name], source)
        return self._ranks[source.name]


def join_features(
    service: FeatureService,
    records: Mapping[str, ViewRecord],
    tables: Tables,
    entities: pa.Table,
    *,
    at: str,
    join: Join,
) -> pa.Table:
    """The rows of `entities`, all and in order, and behind them the service's features."""
    known = Known.available if join is Join.point_in_time else Known.all
    times = times_of(entities, at)
    joined = ServiceJoin(tables, records, known)
    names, columns = list(entities.schema.names), list(entities.columns)
    for use in service.uses:
        answer = joined.evaluate(use, entities, times)
        kinds = records[use.version].info.kinds
        for pick in use.picks:
            names.append(pick.name)
            columns.append(outside(answer.features[pick.feature], kinds[pick.feature]))
    return pa.table(columns, names=names)


def digest_of(table: pa.Table) -> str:
    """A digest of a table's columns and rows, whatever its chunks."""
    digest = hashlib.blake2b(digest_size=20)
    plain = table.combine_chunks().replace_schema_metadata(None)
    with pa.PythonFile(_Hashing(digest), mode="w") as sink, pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_table(plain)
    return digest.hexdigest()


def fingerprint_of(
    service: FeatureService, labels_digest: str, versions: Mapping[str, int], *, at: str, join: Join
) -> str:
    """What makes a training set the same again."""
    meaning = (FORMAT, service.name, service.version, labels_digest, versions, at, join)
    return hashlib.blake2b(encode(meaning), digest_size=16).hexdigest()


class _Hashing:
    """A file that keeps nothing but a digest of what is written."""

    closed = False

    def __init__(self, digest: hashlib.blake2b) -> None:
        self._digest = digest
        self._written = 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
