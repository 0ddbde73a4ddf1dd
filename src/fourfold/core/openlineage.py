"""OpenLineage: runs, jobs and datasets as the JSON that other catalogs of lineage understand.

Written by us after the specification (2-0-2, and the facets' own versions below); no library of theirs is
needed to speak it. What is not known is left out rather than made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from fourfold.core.context import Ref
from fourfold.core.lineage import ColumnEdge, How, MadeByQuery
from fourfold.core.package import VERSION
from fourfold.core.storage import Column
from fourfold.core.times import Instant, iso

Json: TypeAlias = dict[str, Any]

PRODUCER = f"urn:fourfold:{VERSION}"
EVENT_SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = {
    "ParentRunFacet": "1-2-0",
    "NominalTimeRunFacet": "1-0-1",
    "ErrorMessageRunFacet": "1-0-1",
    "ProcessingEngineRunFacet": "1-1-1",
    "JobTypeJobFacet": "2-0-4",
    "SourceCodeLocationJobFacet": "1-1-0",
    "OwnershipJobFacet": "1-0-1",
    "SQLJobFacet": "1-1-0",
    "SchemaDatasetFacet": "1-2-0",
    "DatasourceDatasetFacet": "1-0-1",
    "DatasetVersionDatasetFacet": "1-0-1",
    "DatasetTypeDatasetFacet": "1-0-1",
    "ColumnLineageDatasetFacet": "1-2-0",
    "OutputStatisticsOutputDatasetFacet": "1-0-2",
}
"""The facets that we write, each with the version of its schema."""


class Happened(StrEnum):
    """What an event says of its run."""

    start = "START"
    complete = "COMPLETE"
    fail = "FAIL"
    abort = "ABORT"


@dataclass(frozen=True, slots=True)
class Job:
    """What runs again and again: a flow, or a step of it."""

    namespace: str
    name: str

    def as_json(self) -> Json:
        return {"namespace": self.namespace, "name": self.name}


@dataclass(frozen=True, slots=True)
class Dataset:
    """A version of a thing that was read or written, and what is known of it."""

    ref: Ref
    namespace: str
    name: str
    columns: tuple[Column, ...] = ()
    rows_written: int | None = None

    def as_json(self) -> Json:
        return {"namespace": self.namespace, "name": self.name}


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events of some runs, and the run to go on after; empty when there are no more runs."""

    events: tuple[Mapping[str, Any], ...]
    last: str


@dataclass(frozen=True, slots=True)
class Outbox:
    """What another catalog of lineage has not taken yet."""

    address: str
    """Where events go; empty where nobody is told."""
    waiting: int
    """Events that are still to be sent."""
    oldest_at: Instant | None
    """When what the first of them tells happened; `None` where none waits or its record is gone."""
    refused: int
    """Events that never will be taken, and are put aside."""
    refused_at: Instant | None
    """When the last of them was refused."""
    refusal: str
    """Why it was."""


def dataset_name(store: str, table: str) -> tuple[str, str]:
    """The namespace and name of a table whose files are in a store, by OpenLineage's rules for file systems.

    >>> dataset_name("s3://lake/ml", "raw.flights")
    ('s3://lake', 'ml/tables/raw.flights')
    >>> dataset_name("file:///data/ml", "raw.flights")
    ('file', '/data/ml/tables/raw.flights')
    """
    scheme, _, rest = store.partition("://")
    place, _, folder = rest.partition("/")
    path = f"{folder.strip('/')}/tables/{table}".lstrip("/")
    return ("file", f"/{path}") if scheme == "file" else (f"{scheme}://{place}", path)


def event(
    happened: Happened,
    at: Instant,
    *,
    run_id: str,
    job: Job,
    run_facets: Mapping[str, Json],
    job_facets: Mapping[str, Json],
    inputs: Sequence[Json] = (),
    outputs: Sequence[Json] = (),
) -> Json:
    """One event about one run."""
    return {
        "eventType": happened.value,
        "eventTime": iso(at),
        "run": {"runId": run_id, "facets": dict(run_facets)},
        "job": {**job.as_json(), "facets": dict(job_facets)},
        "inputs": list(inputs),
        "outputs": list(outputs),
        "producer": PRODUCER,
        "schemaURL": EVENT_SCHEMA,
    }


# Facets of runs


def parent(run_id: str, job: Job) -> Json:
    """The run that this one is a part of. It is the root too: flows are not nested in what we tell."""
    above = {"run": {"runId": run_id}, "job": job.as_json()}
    return _facet("ParentRunFacet", {**above, "root": above})


def nominal_time(at: Instant) -> Json:
    return _facet("NominalTimeRunFacet", {"nominalStartTime": iso(at)})


def error_message(message: str, traceback: str = "") -> Json:
    told = {"message": message, "programmingLanguage": "python"}
    return _facet("ErrorMessageRunFacet", told | ({"stackTrace": traceback} if traceback else {}))


def engine() -> Json:
    return _facet(
        "ProcessingEngineRunFacet",
        {"name": "fourfold", "version": VERSION, "openlineageAdapterVersion": VERSION},
    )


# Facets of jobs


def job_type(kind: str) -> Json:
    return _facet(
        "JobTypeJobFacet", {"processingType": "BATCH", "integration": "FOURFOLD", "jobType": kind.upper()}
    )


def source_code(bundle: str, module: str) -> Json:
    """Where the code is: a bundle under its digest, and the module in it."""
    path = module.replace(".", "/") + ".py"
    return _facet(
        "SourceCodeLocationJobFacet",
        {"type": "bundle", "url": f"fourfold://bundles/{bundle}/{path}", "path": path, "version": bundle},
    )


def ownership(user: str) -> Json:
    return _facet("OwnershipJobFacet", {"owners": [{"name": f"user:{user}"}]})


def sql(query: str) -> Json:
    return _facet("SQLJobFacet", {"query": query, "dialect": "duckdb"})


# Datasets


def dataset(
    what: Dataset, *, others: Mapping[Ref, Dataset] | None = None, made: MadeByQuery | None = None
) -> Json:
    """A dataset as an input; with `made`, also which columns of which others went into its own."""
    facets: dict[str, Json] = {
        "dataSource": _facet("DatasourceDatasetFacet", {"name": what.namespace, "uri": _uri(what)}),
        "datasetType": _facet("DatasetTypeDatasetFacet", {"datasetType": what.ref.kind.upper()}),
    }
    if what.ref.version:
        facets["version"] = _facet("DatasetVersionDatasetFacet", {"datasetVersion": what.ref.version})
    if what.columns:
        fields = [
            {"name": column.name, **({"type": column.type} if column.type else {}), "ordinal_position": place}
            for place, column in enumerate(what.columns, start=1)
        ]
        facets["schema"] = _facet("SchemaDatasetFacet", {"fields": fields})
    if made is not None and not made.unknown:
        facets["columnLineage"] = _column_lineage(made.edges, others or {})
    return {**what.as_json(), "facets": facets}


def output(what: Dataset, *, others: Mapping[Ref, Dataset], made: MadeByQuery | None = None) -> Json:
    """A dataset as an output, with how many rows were written."""
    told = dataset(what, others=others, made=made)
    if what.rows_written is not None:
        statistics = _facet("OutputStatisticsOutputDatasetFacet", {"rowCount": what.rows_written})
        told["outputFacets"] = {"outputStatistics": statistics}
    return told


def _uri(what: Dataset) -> str:
    if what.namespace == "file":
        return f"file://{what.name}"
    return f"{what.namespace}/{what.name}"


def _column_lineage(edges: Iterable[ColumnEdge], others: Mapping[Ref, Dataset]) -> Json:
    onto: dict[str, dict[tuple[Ref, str], list[ColumnEdge]]] = {}
    for edge in sorted(edges):
        if edge.source in others and edge.how is not How.unknown:
            onto.setdefault(edge.column, {}).setdefault((edge.source, edge.source_column), []).append(edge)

    def fields(column: str) -> list[Json]:
        return [
            {
                **others[source].as_json(),
                "field": name,
                "transformations": [_transformation(each.how, each.is_masked) for each in acting],
            }
            for (source, name), acting in onto.get(column, {}).items()
        ]

    return _facet(
        "ColumnLineageDatasetFacet",
        {
            "fields": {column: {"inputFields": fields(column)} for column in sorted(onto) if column},
            "dataset": fields(""),
        },
    )


def _transformation(how: How, masked: bool) -> Json:
    return {
        "type": "DIRECT" if how.is_direct else "INDIRECT",
        "subtype": how.value.upper(),
        "masking": masked,
    }


def _facet(name: str, fields: Json) -> Json:
    schema = f"https://openlineage.io/spec/facets/{_FACETS[name]}/{name}.json#/$defs/{name}"
    return {"_producer": PRODUCER, "_schemaURL": schema, **fields}
