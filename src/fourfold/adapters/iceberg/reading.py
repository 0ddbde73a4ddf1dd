"""A version's data files, and their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.schema import Schema
from pyiceberg.table import DataScan, FileScanTask
from pyiceberg.table.metadata import TableMetadata

from fourfold.adapters.iceberg.columns import iceberg_schema, skipping
from fourfold.adapters.iceberg.errors import translating
from fourfold.adapters.iceberg.versions import State, Version
from fourfold.core.decide import schemas
from fourfold.core.storage import Condition


def files(state: State, version: Version, where: Sequence[Condition] = ()) -> list[FileScanTask]:
    """The data files of a version that may hold rows for which the conditions hold, sorted by path."""
    schema = state.schema_at(version)
    scan = DataScan(
        table_metadata=_as_of(state, version),
        io=state.table.io,
        row_filter=skipping(state.name, where, schema),
        snapshot_id=version.snapshot.snapshot_id,
    )
    with translating(state.name):
        return sorted(scan.plan_files(), key=lambda task: str(task.file.file_path))


def rows(
    state: State,
    version: Version,
    tasks: Iterable[FileScanTask],
    *,
    columns: Sequence[str] | None = None,
    where: Sequence[Condition] = (),
) -> Iterator[pa.Table]:
    """The rows of some files for which all conditions hold, a batch at a time and a file after the other."""
    schema = state.schema_at(version)
    wanted = list(schema.names if columns is None else columns)
    needed = set(wanted) | {column for column, _, _ in where}
    condition = schemas.expression(state.name, where, schema)
    metadata = _as_of(state, version)
    fields = [field for field in metadata.schema().fields if field.name in needed]
    # No filter is given to the scan: Arrow would judge NaN by the ranges of a file that leave it out.
    scan = ArrowScan(metadata, state.table.io, Schema(*fields), AlwaysTrue())
    kept = pa.schema([schema.field(field.name) for field in fields])
    for task in tasks:  # one by one, because a scan of many reads them all at once
        with translating(state.name):
            for batch in scan.to_record_batches([task]):
                table = _fitted(pa.Table.from_batches([batch]), kept)
                if condition is not None:
                    table = table.filter(condition)
                if len(table):
                    yield table.select(wanted)


def only(tasks: Sequence[FileScanTask], others: Sequence[FileScanTask]) -> list[FileScanTask]:
    """The files that the others are not."""
    known = {(task.file.file_path, _deletes(task)) for task in others}
    return [task for task in tasks if (task.file.file_path, _deletes(task)) not in known]


def has_deletes(tasks: Iterable[FileScanTask]) -> bool:
    """Whether another program deleted rows of these files by files that say so."""
    return any(task.delete_files for task in tasks)


def reader(schema: pa.Schema, tables: Iterator[pa.Table]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(
        schema, (batch for table in tables for batch in table.to_batches())
    )


def keeping(condition: pc.Expression) -> pc.Expression:
    """For which rows a condition does not hold: also those that it cannot judge."""
    return ~condition | condition.is_null()


def _as_of(state: State, version: Version) -> TableMetadata:
    """The metadata with the columns of then, so that all that is asked is asked of these."""
    schema = iceberg_schema(state.metadata, version.snapshot.schema_id)
    return state.metadata.model_copy(update={"current_schema_id": schema.schema_id})


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The batch in the columns' own types: Iceberg has fewer, and wider ones."""
    columns = [table.column(field.name).cast(field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _deletes(task: FileScanTask) -> frozenset[str]:
    return frozenset(file.file_path for file in task.delete_files)
