"""Checkpoints: a table's state as one Parquet file, so that opening it does not replay the whole log.

Written as the protocol's classic form, which every reader knows; read in that form, of one part or many.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fourfold.adapters.delta import metadata as meta
from fourfold.adapters.delta.actions import DataFile, Json, data_file, uses
from fourfold.adapters.delta.state import State
from fourfold.core.times import Instant

NAME = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")
POINTER = "_last_checkpoint"

_TEXTS = pa.map_(pa.string(), pa.string())
_NAMES = pa.list_(pa.field("element", pa.string(), nullable=False))


def _struct(**fields: pa.DataType) -> pa.DataType:
    """A struct whose fields, if their name ends in `_`, may be null."""
    return pa.struct([pa.field(name.rstrip("_"), kind, name.endswith("_")) for name, kind in fields.items()])


SCHEMA = pa.schema([
    ("txn", _struct(appId=pa.string(), version=pa.int64(), lastUpdated_=pa.int64())),
    ("add", _struct(
        path=pa.string(), partitionValues=_TEXTS, size=pa.int64(), modificationTime=pa.int64(),
        dataChange=pa.bool_(), stats_=pa.string(), tags_=_TEXTS,
    )),
    ("remove", _struct(
        path=pa.string(), deletionTimestamp_=pa.int64(), dataChange=pa.bool_(),
        extendedFileMetadata_=pa.bool_(), partitionValues_=_TEXTS, size_=pa.int64(),
    )),
    ("metaData", _struct(
        id=pa.string(), name_=pa.string(), description_=pa.string(),
        format=_struct(provider=pa.string(), options=_TEXTS), schemaString=pa.string(),
        partitionColumns=_NAMES, createdTime_=pa.int64(), configuration=_TEXTS,
    )),
    ("protocol", _struct(
        minReaderVersion=pa.int32(), minWriterVersion=pa.int32(), readerFeatures_=_NAMES,
        writerFeatures_=_NAMES,
    )),
])  # fmt: skip


def name_of(version: int) -> str:
    return f"{version:020d}.checkpoint.parquet"


def written(state: State, folder: str) -> tuple[bytes, bytes]:
    """The checkpoint of a state, and what `_last_checkpoint` says of it.

    It holds no tombstones: our vacuum goes by the log, and no other program is asked to clean this table.
    """
    metadata = {"name": None, "description": None, "createdTime": None, **state.metadata.action}
    metadata["configuration"] = list((metadata.get("configuration") or {}).items())
    given = metadata["format"]
    metadata["format"] = {**given, "options": list((given.get("options") or {}).items())}
    rows: list[dict[str, Any]] = [{"protocol": state.protocol}, {"metaData": metadata}]
    rows += [
        {"txn": {"appId": application, "version": version}}
        for application, version in state.transactions.items()
    ]
    rows += [{"add": _add(file, folder)} for file in state.files.values()]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="snappy")
    data = sink.getvalue()
    pointer = {
        "version": state.version,
        "size": len(rows),
        "sizeInBytes": len(data),
        "numOfAddFiles": len(state.files),
    }
    return data, json.dumps(pointer).encode()


def read(version: int, parts: Sequence[bytes], folder: str, at: Instant, tag: str) -> State:
    """The state that a checkpoint holds; `ValueError` or an Arrow error where it is torn."""
    metadata = protocol = None
    files: dict[str, DataFile] = {}
    transactions: dict[str, int] = {}
    used: set[str] = set()
    for part in parts:
        table = pq.read_table(pa.BufferReader(part))
        for kind in ("metaData", "protocol", "txn", "add"):
            if kind not in table.column_names:
                continue
            column = table[kind]
            for found in _actions(column.filter(column.is_valid())):
                if kind == "metaData":
                    metadata = found
                elif kind == "protocol":
                    protocol = _without_nulls(found)
                elif kind == "txn":
                    transactions[found["appId"]] = found["version"]
                else:
                    file = data_file(found, folder)
                    used |= uses(found)
                    files[file.path] = file
    if metadata is None or protocol is None:
        raise ValueError("the checkpoint does not say what the table's columns are")
    return State(
        version=version,
        at=at,
        metadata=meta.read(metadata),
        protocol=protocol,
        files=files,
        transactions=transactions,
        used=frozenset(used),
        rows=sum(file.rows for file in files.values()),
        size_bytes=sum(file.size_bytes for file in files.values()),
        tag=tag,
    )


def _actions(column: pa.ChunkedArray) -> Iterator[Json]:
    """The actions of one kind, of which there may be very many: read field by field, nulls left out."""
    kept = [column.type.field(index).name for index in range(column.type.num_fields)]
    fields = {}
    for name in kept:
        values = pc.struct_field(column, name)
        if values.null_count < len(values):
            fields[name] = values.to_pylist(maps_as_pydicts="strict")
    return (dict(zip(fields, found, strict=True)) for found in zip(*fields.values(), strict=True))


def _add(file: DataFile, folder: str) -> Json:
    add: Json = file.add(folder, is_change=False)["add"]
    add["partitionValues"] = list(add["partitionValues"].items())
    add["tags"] = list(add["tags"].items()) if "tags" in add else None
    return add


def _without_nulls(action: Json) -> Json:
    return {key: value for key, value in action.items() if value is not None}
