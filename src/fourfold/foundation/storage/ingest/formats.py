"""One file as a stream of batches; what is wrong in it is said with its file, row and column."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from fourfold.core.decide.schemas import MOST_NESTED
from fourfold.core.errors import Refused
from fourfold.foundation.storage.ingest.paths import Format

BLOCK_BYTES = 4 * 2**20
LONGEST_LINE = 64 * 2**20
BATCH_ROWS = 65_536

_ENCODINGS = ("say its encoding: latin-1, cp1252, utf-16",)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Types = Mapping[str, pa.DataType]
"""Columns whose type is known before the file is read."""


class Source:
    """A file that is read, from its beginning as often as needed."""

    def __init__(self, path: Path, *, is_packed: bool = False) -> None:
        self.path = path
        self._is_packed = is_packed
        self._raw: IO[bytes] | None = None

    def stream(self) -> Any:
        """Its bytes as Arrow reads them, from the beginning."""
        self._raw = raw = self.path.open("rb")  # Arrow closes it
        return pa.CompressedInputStream(raw, "gzip") if self._is_packed else pa.PythonFile(raw, mode="r")

    def ended(self, end: bytes) -> Any:
        """The same with some bytes behind them."""
        return pa.PythonFile(_Ended(self.stream(), end), mode="r")

    def plain(self) -> IO[bytes]:
        """The same for Python's own readers."""
        return gzip.open(self.path, "rb") if self._is_packed else self.path.open("rb")  # type: ignore[return-value]

    def beginning(self, count: int) -> bytes:
        """Its first bytes."""
        with suppress(OSError, EOFError), self.plain() as file:
            return file.read(count)
        return b""

    def read_bytes(self) -> int:
        """How far it was read."""
        with suppress(ValueError):  # closed: to its end
            return 0 if self._raw is None else self._raw.tell()
        return self.path.stat().st_size

    def refuse(self, what: str, *ways_on: str, row: int | None = None, column: str | None = None) -> NoReturn:
        """Raise a refusal that names the file, and the row and column where they are known."""
        place = "".join([f", row {row}" if row is not None else "", f", column '{column}'" if column else ""])
        facts: dict[str, object] = {"path": str(self.path)}
        facts |= {} if row is None else {"row": row}
        facts |= {} if column is None else {"column": column}
        raise Refused(f"{self.path}{place}: {what}", ways_on=ways_on, **facts)


class _Ended:
    """A file with some bytes behind its own."""

    def __init__(self, under: Any, end: bytes) -> None:
        self._under = under
        self._end = end

    def read(self, count: int = -1) -> bytes:
        data: bytes = self._under.read(count)
        if not data:
            data, self._end = self._end, b""
        return data

    @property
    def closed(self) -> bool:
        return bool(self._under.closed)

    def close(self) -> None:
        self._under.close()


def schema_of(source: Source, kind: Format, types: Types, encoding: str) -> pa.Schema:
    """The columns of a file; those whose type is not known get one by its first rows."""
    match kind:
        case Format.parquet:
            return _parquet(source).schema_arrow
        case Format.jsonl:
            return _json_schema(source, types)
        case _:
            _check_encoding(source, encoding)
            with _read(source, kind, encoding):
                found = _csv(source, kind, types, encoding).schema
                return _as_text(found, types)


def batches_of(source: Source, kind: Format, schema: pa.Schema, encoding: str) -> Iterator[pa.RecordBatch]:
    """The rows of a file in these columns, in the file's order of columns."""
    match kind:
        case Format.parquet:
            return _parquet_batches(source)
        case Format.jsonl:
            return _json_batches(source, schema)
        case _:
            return _csv_batches(source, kind, schema, encoding)


# Parquet


def _parquet(source: Source) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source.path)
    except (pa.ArrowException, OSError) as error:
        source.refuse(f"it is no whole Parquet file: {error}", "was it copied to its end?")


def _parquet_batches(source: Source) -> Iterator[pa.RecordBatch]:
    row = 0
    try:
        for batch in _parquet(source).iter_batches(BATCH_ROWS):
            row += batch.num_rows
            yield batch
    except (pa.ArrowException, OSError) as error:
        source.refuse(f"it cannot be read further: {error}", "was it copied to its end?", row=row + 1)


# CSV. The header is row 1.


def _csv(source: Source, kind: Format, types: Types, encoding: str, *, check_utf8: bool = True) -> Any:
    # An empty line is none, but where a quote was never closed it is part of the last value.
    is_wide = encoding.lower().startswith(("utf-16", "utf_16", "utf16", "utf-32", "utf_32", "utf32"))
    return pyarrow.csv.open_csv(
        source.ended(b"" if is_wide else b"\n"),
        # In one thread, because only then does Arrow know in which row something is wrong.
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=encoding),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter="\t" if kind is Format.tsv else ",", newlines_in_values=True
        ),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict(types), check_utf8=check_utf8),
    )


def _csv_batches(source: Source, kind: Format, schema: pa.Schema, encoding: str) -> Iterator[pa.RecordBatch]:
    with _read(source, kind, encoding):
        last = None
        for batch in _csv(source, kind, {field.name: field.type for field in schema}, encoding):
            if batch.num_rows:
                yield batch
                last = batch
        # A value that the file's end leaves open holds all that follows it, and so ends with an end of line.
        value = None if last is None else last.column(last.num_columns - 1)[-1].as_py()
        if isinstance(value, str) and value.endswith("\n"):
            _check_closed(source, kind, encoding)


def _check_encoding(source: Source, encoding: str) -> None:
    """UTF-16 taken for another encoding is rows of NULs, and told as such."""
    if encoding.lower().replace("_", "-").startswith(("utf-16", "utf16")):
        return
    if source.beginning(2) in _UTF_16:
        source.refuse("it is UTF-16", "say so: encoding utf-16")


def _check_closed(source: Source, kind: Format, encoding: str) -> None:
    """Refuse a quote that the file's end leaves open: Arrow takes all that follows it for one value.

    A quote inside a value that was not begun with one is a sign like others, so each is looked at where it
    stands; slowly, which is why it is done only where something speaks for it.
    """
    cut, row, opened, at_start = ("\t" if kind is Format.tsv else ","), 1, 0, True
    with io.TextIOWrapper(source.plain(), encoding, errors="replace", newline="") as text:
        while piece := text.read(BLOCK_BYTES):
            for sign in re.findall(f'["\r\n{cut}]|[^"\r\n{cut}]+', piece):
                if sign == '"' and (opened or at_start):
                    opened = 0 if opened else row
                elif opened:
                    at_start = False
                    row += sign == "\n"
                    continue
                else:
                    row += sign == "\n"
                # After a closing quote another one begins again: two of them stand for one.
                at_start = sign in {cut, "\n", "\r"} or (sign == '"' and not opened)
    if opened:
        source.refuse("a quote is never closed, so the rest of the file is one value", row=opened)


@contextmanager
def _read(source: Source, kind: Format, encoding: str) -> Iterator[None]:
    """Within the block, what Arrow says of a CSV file is said with its row and column."""
    try:
        yield
    except pa.ArrowException as error:
        says = str(error)
        row = _number(r"Row #(\d+)", says)
        at = _number(r"CSV column #(\d+)", says)
        column = None if at is None else _header(source, kind, encoding)[at]
        what = re.sub(r"^.*(Row #\d+|CSV parse error): ?", "", says).splitlines()[0]
        what = what.encode("unicode_escape").decode() if "\0" in what else what
        if "Empty CSV file" in says:
            source.refuse("it is empty: a CSV file has a header at least")
        if "straddling" in says:
            source.refuse(f"a row is longer than {BLOCK_BYTES:,} bytes", "is a quote never closed?")
        if "UTF8" in says:
            source.refuse("it is not UTF-8", *_ENCODINGS, row=row, column=column)
        source.refuse(what, row=row, column=column)
    except (UnicodeDecodeError, LookupError) as error:
        source.refuse(f"its encoding is another: {error}", *_ENCODINGS)
    except OSError as error:
        source.refuse(f"it cannot be read further: {error}", "was it copied to its end?")


def _header(source: Source, kind: Format, encoding: str) -> list[str]:
    return list(_csv(source, kind, {}, encoding, check_utf8=False).schema.names)


def _number(pattern: str, text: str) -> int | None:
    found = re.search(pattern, text)
    return None if found is None else int(found[1])


# JSON lines. Dates and decimals are written as text; a key that a line lacks is null.


def _json_schema(source: Source, types: Types) -> pa.Schema:
    for _, block in _blocks(source):
        known = pa.schema([(name, _written(kind)) for name, kind in types.items()])
        try:
            found = _parsed(block, known, "infer").schema
        except (pa.ArrowException, UnicodeDecodeError) as error:
            _locate(source, block, 1, known, "infer", error)
        typed = pa.schema([field.with_type(types.get(field.name, field.type)) for field in found])
        return _as_text(typed, types)
    return pa.schema([])


def _json_batches(source: Source, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    written = pa.schema([field.with_type(_written(field.type)) for field in schema])
    for row, block in _blocks(source):
        try:
            rows = _parsed(block, written, "error")
        except (pa.ArrowException, UnicodeDecodeError) as error:
            _locate(source, block, row, written, "error", error)
        try:
            yield from rows.cast(schema).to_batches(BATCH_ROWS)
        except pa.ArrowException as error:
            _locate_cast(source, block, row, rows, schema, error)


def _parsed(block: bytes, schema: pa.Schema, unexpected: str) -> pa.Table:
    rows = pyarrow.json.read_json(
        io.BytesIO(block),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=max(len(block), 1) + 1),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=schema if len(schema) else None,
            unexpected_field_behavior=unexpected if len(schema) else "infer",
        ),
    )
    rows.validate(full=True)  # or text that is not UTF-8 would pass
    return rows


def _blocks(source: Source) -> Iterator[tuple[int, bytes]]:
    """Whole lines, some MiB at a time, each with the number of its first; blank ones are left out."""
    row, rest = 1, b""
    stream = source.stream()
    while True:
        try:
            piece = stream.read(BLOCK_BYTES)
        except OSError as error:
            source.refuse(f"it cannot be read further: {error}", "was it copied to its end?", row=row)
        if row == 1 and not rest:
            piece = piece.removeprefix(b"\xef\xbb\xbf")
        block, newline, tail = (rest + piece).rpartition(b"\n") if piece else (rest, b"", b"")
        if piece and not newline:
            block, tail = b"", rest + piece
            if len(tail) > LONGEST_LINE:
                source.refuse(f"a line is longer than {LONGEST_LINE:,} bytes", "is it JSON lines?", row=row)
        if block.strip():
            _check_levels(source, block, row)
            yield row, block
        row += block.count(b"\n") + len(newline)
        rest = tail
        if not piece:
            return


def _locate(
    source: Source, block: bytes, first: int, schema: pa.Schema, unexpected: str, error: Exception
) -> NoReturn:
    """Say in which line and under which key it is."""
    seen = b""
    for row, line in enumerate(block.split(b"\n"), first):
        if not line.strip():
            continue
        twice: list[str] = []
        try:
            value = json.loads(line, object_pairs_hook=partial(_object, twice))
        except ValueError as broken:
            what = "it is not UTF-8" if isinstance(broken, UnicodeDecodeError) else f"it is no JSON: {broken}"
            source.refuse(what, row=row)
        if not isinstance(value, dict):
            what = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
            source.refuse(f"{what}, and no object", "write one object a line", row=row)
        if twice:
            source.refuse("this key is there twice", row=row, column=twice[0])
        for key, each in value.items():
            if unexpected == "error" and len(schema) and key not in schema.names:
                source.refuse("this key is no column", *_known(schema), row=row, column=key)
            one = seen + json.dumps({key: each}).encode() + b"\n"
            try:
                _parsed(one, schema, unexpected)
            except pa.ArrowException as wrong:
                kind = f"no {schema.field(key).type}" if key in schema.names else "of another type than above"
                source.refuse(f"{json.dumps(each)[:100]} is {kind} ({wrong})", row=row, column=key)
        try:
            _parsed(line + b"\n", schema, unexpected)
        except pa.ArrowException as wrong:  # what Python reads and Arrow does not: a number beyond all
            source.refuse(re.sub(r" in row \d+$", "", str(wrong)), row=row)
        seen = line + b"\n" if unexpected == "infer" and not seen else seen
    source.refuse(str(error), row=first)


def _object(twice: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            twice.append(key)
        found[key] = value
    return found


def _check_levels(source: Source, block: bytes, first: int) -> None:
    """Refuse a line whose lists and objects lie too deep in one another: Arrow's parser dies of it."""
    signs = np.frombuffer(block, np.uint8)
    is_open = (signs == ord("{")) | (signs == ord("["))
    starts = np.concatenate([[0], np.flatnonzero(signs == ord("\n")) + 1])
    starts = starts[starts < len(signs)]
    opened = np.add.reduceat(is_open, starts, dtype=np.int64)
    most = MOST_NESTED + 1  # the line itself is an object
    for index in np.flatnonzero(opened > most):
        line = block[starts[index] :].split(b"\n", 1)[0]
        bare = np.frombuffer(_STRING.sub(b"", line), np.uint8)
        steps = np.isin(bare, (ord("{"), ord("["))).astype(np.int64)
        steps -= np.isin(bare, (ord("}"), ord("]")))
        if steps.cumsum().max(initial=0) > most:
            source.refuse(
                f"lists and objects lie in one another more than {MOST_NESTED} levels deep",
                "keep what is deeper as text",
                row=first + int(index),
            )


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def _locate_cast(
    source: Source, block: bytes, first: int, rows: pa.Table, schema: pa.Schema, error: Exception
) -> NoReturn:
    """Say which text is no date or decimal."""
    numbers = [number for number, line in enumerate(block.split(b"\n"), first) if line.strip()]
    for field in schema:
        for number, value in zip(numbers, rows.column(field.name), strict=False):
            try:
                value.cast(field.type)
            except pa.ArrowException:
                source.refuse(f"{value.as_py()!r} is no {field.type}", row=number, column=field.name)
    source.refuse(str(error), row=first)


def _written(kind: pa.DataType) -> pa.DataType:
    """The type as JSON holds it: Arrow reads no dates and decimals from it."""
    is_text = pa.types.is_date(kind) or pa.types.is_decimal(kind) or pa.types.is_binary(kind)
    return pa.string() if is_text else kind


def _known(schema: pa.Schema) -> tuple[str, ...]:
    return (f"columns: {', '.join(schema.names[:20])}",)


def _as_text(schema: pa.Schema, types: Types) -> pa.Schema:
    """A column of which the first rows hold nothing, or what is not UTF-8, is taken for text."""
    doubtful = {f.name for f in schema if pa.types.is_null(f.type) or pa.types.is_binary(f.type)} - set(types)
    return pa.schema([f.with_type(pa.string()) if f.name in doubtful else f for f in schema])
