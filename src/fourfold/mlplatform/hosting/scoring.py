"""Batch prediction: a table in, a table out, with the featurize and predict that an endpoint would use."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from fourfold.core.context import Ref
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.hosting import Scalar, Scored
from fourfold.core.services.features import Features
from fourfold.core.services.storage import Storage
from fourfold.core.times import Instant
from fourfold.foundation.storage.columns.made import Derived, part_of, remember, writing
from fourfold.mlplatform.hosting.provenance import Seen, predicted, with_features

if TYPE_CHECKING:
    from fourfold.core.storage import Condition
    from fourfold.mlplatform.models.loading import LoadedModel

BATCH_ROWS = 65_536

OWN = ("model_version", "scored_at")


@dataclass(frozen=True, slots=True)
class Scoring:
    """One batch prediction, as asked."""

    table: str
    out: str
    features: str = ""
    keep: tuple[str, ...] = ()
    where: Mapping[str, Scalar] | None = None
    version: int | None = None
    time_column: str = ""
    partition_by: tuple[str, ...] = ()


def score(
    asked: Scoring,
    model: LoadedModel,
    *,
    storage: Storage,
    features: Features,
    now: Instant,
) -> Scored:
    """Score a table batch by batch.

    The answers are collected in a temporary file and written to `out` in one commit, so memory holds one
    batch of inputs, and all answers only then: half a day's scores are never seen. Repeated by the same
    step, the commit is recognised.
    """
    pinned = asked.version if asked.version is not None else storage.flush(asked.table).version
    info = storage.describe(asked.table, version=pinned)
    columns = [column.name for column in info.columns]
    inputs = model.example.schema
    version = str(model.version)
    wanted = _wanted(asked, columns, inputs)
    conditions: tuple[Condition, ...] = tuple(
        (column, "==", value) for column, value in sorted((asked.where or {}).items())
    )
    began_s = time.monotonic()
    reader = storage.scan(asked.table, version=info.version, columns=wanted, where=conditions)
    featurize = _lookup(asked, features) if asked.features else None
    with tempfile.TemporaryDirectory(prefix="fourfold-score-") as folder:
        path = Path(folder) / "scores.parquet"
        row_count = 0
        writer: pq.ParquetWriter | None = None
        try:
            for rows in _batches(reader):
                scored = _score(rows, model, featurize, asked.keep, version, now)
                if writer is None:
                    writer = pq.ParquetWriter(path, scored.schema)
                writer.write_table(scored)
                row_count += scored.num_rows
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            empty = reader.schema.empty_table()
            scored = _score(empty, model, featurize, asked.keep, version, now)
        else:
            scored = pq.read_table(path, memory_map=True)
        _note_columns(scored, asked, Ref("table", info.name, str(info.version)), model, features, featurize)
        if asked.where and asked.partition_by:
            where = {c: v for c, v in asked.where.items() if c in asked.partition_by}
            with writing(scored):
                written = storage.overwrite(
                    asked.out, scored, where=where or None, partition_by=asked.partition_by
                )
        else:
            with writing(scored):
                written = storage.append(asked.out, scored, partition_by=asked.partition_by)
    took_s = time.monotonic() - began_s
    return Scored(
        model=version,
        table=asked.table,
        table_version=info.version,
        out=asked.out,
        out_version=written.version,
        row_count=row_count,
        rows_per_s=row_count / took_s if took_s > 0 else 0.0,
    )


def _wanted(asked: Scoring, columns: list[str], inputs: pa.Schema) -> tuple[str, ...] | None:
    """The columns to read: all of them where features are looked up (their keys are the service's matter)."""
    for name in (*asked.keep, *(asked.where or {}), *((asked.time_column,) if asked.time_column else ())):
        if name not in columns:
            raise Refused(
                f"table '{asked.table}' has no column '{name}'",
                ways_on=did_you_mean(name, columns, what="columns"),
            )
    for name in asked.keep:
        if name in OWN:
            raise Refused(f"column '{name}' is written by the scoring itself", ways_on=["do not keep it"])
    for name in asked.partition_by:
        if name not in (*asked.keep, *OWN):
            raise Refused(
                f"cannot partition '{asked.out}' by '{name}'", ways_on=[f"keep it: keep=('{name}', ...)"]
            )
    if asked.features:
        if not asked.time_column:
            raise Refused(
                "features are looked up as of a time, and none was named",
                ways_on=["name the column that holds it: time_column='scheduled_departure'"],
            )
        return None
    lacking = [name for name in inputs.names if name not in columns]
    if lacking:
        raise Refused(
            f"table '{asked.table}' lacks column '{lacking[0]}' of the model"
            + (f" (and {len(lacking) - 1} more)" if lacking[1:] else ""),
            ways_on=[
                *did_you_mean(lacking[0], columns, what="columns"),
                "or name the feature service that supplies it: features=...",
            ],
            lacking=lacking,
        )
    return tuple(dict.fromkeys((*inputs.names, *asked.keep)))


def _lookup(asked: Scoring, features: Features) -> Seen:
    return Seen(lambda rows: features.training_set(asked.features, rows, at=asked.time_column, cache=False))


def _note_columns(
    scored: pa.Table,
    asked: Scoring,
    source: Ref,
    model: LoadedModel,
    features: Features,
    seen: Seen | None,
) -> None:
    """Keep beside the predictions which columns of which versions they came from."""
    inputs = model.example.schema.names
    given: Derived | None
    if seen is None:
        given = part_of(source, dict.fromkeys((*inputs, *asked.keep)), filters=asked.where or ())
    else:
        table = part_of(source, seen.columns, filters=asked.where or ())
        given = with_features(table, features, asked.features, seen, at=asked.time_column)
    if given is not None:
        answers = [name for name in scored.column_names if name not in (*asked.keep, *OWN)]
        remember(scored, predicted(given, inputs=inputs, keep=asked.keep, answers=answers))


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Record batches as tables of about `BATCH_ROWS` rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            piece = batch.slice(start, BATCH_ROWS)
            held.append(piece)
            rows += piece.num_rows
            if rows >= BATCH_ROWS:
                yield pa.Table.from_batches(held)
                held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)


def _score(
    rows: pa.Table,
    model: LoadedModel,
    lookup: Callable[[pa.Table], pa.Table] | None,
    keep: tuple[str, ...],
    version: str,
    now: Instant,
) -> pa.Table:
    looked_up = rows if lookup is None else lookup(rows)
    schema = model.example.schema
    lacking = [name for name in schema.names if name not in looked_up.column_names]
    if lacking:
        raise Refused(
            f"neither the table nor its features have column '{lacking[0]}' of model {version}",
            ways_on=did_you_mean(lacking[0], looked_up.column_names, what="columns"),
        )
    given = looked_up.select(schema.names)
    try:
        given = given.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused(f"the table's columns do not fit model {version}: {error}") from error
    answers: pa.Table = model.predict(given)
    kept: dict[str, Any] = {name: looked_up.column(name) for name in keep}
    for name in answers.column_names:
        if name in kept:
            raise Refused(f"column '{name}' is both kept and an output", ways_on=["do not keep it"])
        kept[name] = answers.column(name)
    count = rows.num_rows
    kept["model_version"] = pa.array([version] * count, pa.string())
    kept["scored_at"] = pa.array([now] * count, pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pa.table(kept)
