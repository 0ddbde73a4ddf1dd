"""Many files as one stream in a table's columns, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fourfold.core.decide import schemas
from fourfold.core.errors import Refused
from fourfold.foundation.storage.ingest.formats import Source, batches_of, schema_of
from fourfold.foundation.storage.ingest.paths import Format, files, format_of


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the reading of files is."""

    file: Path
    file_index: int
    file_count: int
    rows: int
    read_bytes: int
    total_bytes: int


OnProgress = Callable[[Progress], None]


def read_files(
    name: str,
    paths: Path | str | Sequence[Path | str],
    schema: pa.Schema | None,
    *,
    format: Format | None = None,  # noqa: A002 - it is the word
    types: Mapping[str, pa.DataType] | None = None,
    encoding: str = "utf-8",
    on_progress: OnProgress | None = None,
) -> pa.RecordBatchReader:
    """The rows of all files in the table's columns, read once and bit by bit.

    Without a schema (the table is new) the first file's columns decide, with `types` for those whose type
    its first rows do not show. Every other file must have the same.
    """
    named = files(paths)
    kinds = [format_of(path, format) for path in named]
    known = dict(types or {})
    if schema is not None:
        known = {field.name: field.type for field in schema}
    else:
        schema = _first_schema(name, named, kinds, known, encoding)
        known = {field.name: field.type for field in schema}
    wanted, sizes = schema, [path.stat().st_size for path in named]

    def batches() -> Iterator[pa.RecordBatch]:
        rows, done = 0, 0
        for index, (path, (kind, is_packed)) in enumerate(zip(named, kinds, strict=True)):
            source, own, first = Source(path, is_packed=is_packed), wanted, rows
            if kind is not Format.jsonl:  # whose lines may lack what is null
                own = schema_of(source, kind, known, encoding)
                with _in_file(path):
                    schemas.fitting(name, own, wanted)
            for batch in batches_of(source, kind, own, encoding):
                with _in_file(path):
                    piece = pa.Table.from_batches([batch])
                    fitted = schemas.fit(name, piece, wanted, first_row=rows - first + 1)
                yield from fitted.to_batches()
                rows += batch.num_rows
                if on_progress is not None:
                    at = min(source.read_bytes(), sizes[index])
                    on_progress(Progress(path, index, len(named), rows, done + at, sum(sizes)))
            done += sizes[index]

    return pa.RecordBatchReader.from_batches(wanted, batches())


def _first_schema(
    name: str,
    named: Sequence[Path],
    kinds: Sequence[tuple[Format, bool]],
    types: Mapping[str, pa.DataType],
    encoding: str,
) -> pa.Schema:
    for path, (kind, is_packed) in zip(named, kinds, strict=True):
        with _in_file(path):
            own = schema_of(Source(path, is_packed=is_packed), kind, types, encoding)
            if len(own):
                schemas.check_columns(name, tuple(types), own)
                return schemas.own(name, pa.schema([f.with_type(types.get(f.name, f.type)) for f in own]))
    raise Refused(
        f"table '{name}' is new, and the files have no row to see its columns by",
        ways_on=["say its types, or append an Arrow table without rows"],
        table=name,
    )


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Within the block, a refusal names the file."""
    try:
        yield
    except Refused as error:
        if "path" in error.facts:
            raise
        facts = {**error.facts, "path": str(path)}
        raise Refused(f"{path}: {error.message}", ways_on=error.ways_on, **facts) from error
