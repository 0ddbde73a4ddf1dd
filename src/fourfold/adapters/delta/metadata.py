"""What a table is beside its files: columns, partitions, properties, and what its users must understand."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
from deltalake import Schema

from fourfold.adapters.delta.actions import Json
from fourfold.core.errors import Refused

READ = frozenset({"timestampNtz", "vacuumProtocolCheck"})
"""Features of a table that we can read."""
WRITTEN = READ | {"appendOnly", "invariants", "checkConstraints", "generatedColumns", "changeDataFeed"}
"""Features that a table may have for us to write to it; some only as long as nobody uses them."""
_IMPLIED = (
    # by which writer version, in tables from before features had names
    (2, "appendOnly"), (2, "invariants"), (3, "checkConstraints"), (4, "changeDataFeed"),
    (4, "generatedColumns"), (5, "columnMapping"), (6, "identityColumns"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metadata:
    """A table's `metaData` action, read."""

    action: Json
    schema: pa.Schema
    partition_by: tuple[str, ...]

    @property
    def properties(self) -> Mapping[str, str]:
        found = self.action.get("configuration") or {}
        return dict(found)

    def with_schema(self, schema: pa.Schema) -> Metadata:
        """The same table with other columns."""
        return read({**self.action, "schemaString": _text(schema)})


def read(action: Json) -> Metadata:
    return Metadata(
        action=action,
        schema=_schema(action["schemaString"]),
        partition_by=tuple(action.get("partitionColumns") or ()),
    )


def created(schema: pa.Schema, partition_by: tuple[str, ...], at_ms: int) -> Metadata:
    """The metadata of a new table."""
    return read({
        "id": str(uuid.uuid4()),
        "name": None,
        "description": None,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": _text(schema),
        "partitionColumns": list(partition_by),
        # Every version stays readable: nobody else is to clean the log by age.
        "configuration": {"delta.enableExpiredLogCleanup": "false"},
        "createdTime": at_ms,
    })  # fmt: skip


def protocol_for(schema: pa.Schema, present: Json | None = None) -> Json:
    """What a reader and a writer of a table with these columns must understand."""
    now = present or {"minReaderVersion": 1, "minWriterVersion": 2}
    if not any(_has_zoneless_times(field.type) for field in schema):
        return now
    if "timestampNtz" in (now.get("readerFeatures") or ()):
        return now
    implied = {
        name
        for version, name in _IMPLIED
        if present and now["minWriterVersion"] < 7 and version <= now["minWriterVersion"]
    }
    return {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": sorted({*(now.get("readerFeatures") or ()), "timestampNtz"}),
        "writerFeatures": sorted({*(now.get("writerFeatures") or ()), *implied, "timestampNtz"}),
    }


def check_readable(name: str, metadata: Metadata, protocol: Json, used: frozenset[str]) -> None:
    """Refuse what we would read wrongly."""
    unknown = {*(set(protocol.get("readerFeatures") or ()) - READ), *used}
    if metadata.properties.get("delta.columnMapping.mode", "none") != "none":
        unknown.add("columnMapping")
    if protocol["minReaderVersion"] > 3:
        unknown.add(f"reader version {protocol['minReaderVersion']}")
    if unknown:
        raise Refused(
            f"table '{name}' uses what we cannot read: {', '.join(sorted(unknown))}",
            ways_on=["let the program that wrote it write plain Delta, or read it with that program"],
            table=name,
        )


def check_writable(name: str, metadata: Metadata, protocol: Json, *, only_adds: bool) -> None:
    """Refuse what we would break: rules that other programs put on the table and we do not check."""
    properties, version = metadata.properties, protocol["minWriterVersion"]
    unknown = set(protocol.get("writerFeatures") or ()) - WRITTEN
    if version > 7:
        unknown.add(f"writer version {version}")
    unknown |= {"checkConstraints" for key in properties if key.startswith("delta.constraints.")}
    if properties.get("delta.appendOnly", "").lower() == "true" and not only_adds:
        unknown.add("appendOnly")
    if properties.get("delta.enableChangeDataFeed", "").lower() == "true" and not only_adds:
        unknown.add("changeDataFeed")
    unknown |= _kept_by_columns(metadata.action["schemaString"])
    if unknown:
        raise Refused(
            f"table '{name}' uses what we cannot write: {', '.join(sorted(unknown))}",
            ways_on=["write to it with the program that made it so, or take the feature off the table"],
            table=name,
        )


@lru_cache(maxsize=256)
def _kept_by_columns(text: str) -> frozenset[str]:
    """Rules that columns carry in their own metadata."""
    rules = {
        "delta.invariants": "invariants",
        "delta.generationExpression": "generatedColumns",
        "delta.identity.start": "identityColumns",
    }
    fields = json.loads(text)["fields"]
    return frozenset(rules[key] for field in fields for key in rules if key in (field.get("metadata") or {}))


@lru_cache(maxsize=256)
def _schema(text: str) -> pa.Schema:
    try:
        return pa.schema(Schema.from_json(text).to_arrow())
    except ValueError as error:
        raise Refused(
            f"a table has columns of a type that we cannot read: {error}",
            ways_on=["read it with the program that wrote it"],
        ) from error


@lru_cache(maxsize=256)
def _text(schema: pa.Schema) -> str:
    return str(Schema.from_arrow(schema).to_json())


def _has_zoneless_times(kind: pa.DataType) -> bool:
    if pa.types.is_timestamp(kind):
        return kind.tz is None
    return any(_has_zoneless_times(kind.field(index).type) for index in range(kind.num_fields))
