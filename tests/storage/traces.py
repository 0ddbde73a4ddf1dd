"""Looking for a value everywhere in a folder: in raw bytes, and in everything that can be decoded."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def traces(folder: Path, text: str = "", number: int | None = None) -> list[str]:
    """The files below a folder that hold a text or a number, each with where.

    A number is looked for as digits, as eight bytes in either order, as a float, and among the decoded values
    of every Parquet file and its statistics.
    """
    found = []
    raw = [text.encode()] if text else []
    if number is not None:
        raw += [
            str(number).encode(),
            number.to_bytes(8, "little", signed=True),
            number.to_bytes(8, "big", signed=True),
            struct.pack("<d", number),
        ]
    for path in sorted(folder.rglob("*")):
        if (text and text in path.name) or (number is not None and str(number) in path.name):
            found.append(f"{path.relative_to(folder)}: its name")
        if not path.is_file():
            continue
        data = path.read_bytes()
        if any(each in data for each in raw):
            found.append(f"{path.relative_to(folder)}: its bytes")
        if data[:4] == b"PAR1" and any(_is(value, text, number) for value in _parquet(data)):
            found.append(f"{path.relative_to(folder)}: its rows")
    return found


def _parquet(data: bytes) -> list[Any]:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
    except pa.ArrowException:  # one that was never whole
        return []
    values: list[Any] = []
    for group in range(file.metadata.num_row_groups):
        for column in range(file.metadata.num_columns):
            stats = file.metadata.row_group(group).column(column).statistics
            if stats is not None and stats.has_min_max:
                values += [stats.min, stats.max]
    for row in file.read().to_pylist():
        values += _leaves(row)
    return values


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


def _is(value: Any, text: str, number: int | None) -> bool:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return bool(text and text in value) or (number is not None and str(number) in value)
    return number is not None and not isinstance(value, bool) and value == number
