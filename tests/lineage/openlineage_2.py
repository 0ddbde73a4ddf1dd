"""What OpenLineage 2-0-2 and the facets that we write ask for, as a JSON schema in our own words.

The specification's own files are not part of this repository. This says what they require of an event of a
run, and is stricter: no field is let through that is not named here. `test_openlineage_specified.py` holds it
against the classes that the project generates from its files, and `lost_by_consumers` says what Marquez, the
reference consumer, would drop of an event that is valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def facet(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """A facet: who made it, which schema it follows, and its own fields."""
    return {
        "type": "object",
        "properties": {"_producer": URI, "_schemaURL": URI, **required, **(optional or {})},
        "required": ["_producer", "_schemaURL", *required],
        "additionalProperties": False,  # stricter than the specification: a misspelt field would be dropped
    }


TEXT: Schema = {"type": "string"}
URI: Schema = {"type": "string", "pattern": r"^[A-Za-z][A-Za-z0-9+.-]*:[^\s]+$"}
TIME: Schema = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
UUID: Schema = {
    "type": "string",
    "pattern": r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
}
NAMED: Schema = {
    "type": "object",
    "properties": {"namespace": TEXT, "name": TEXT},
    "required": ["namespace", "name"],
    "additionalProperties": False,
}
RUN: Schema = {
    "type": "object",
    "properties": {"runId": UUID},
    "required": ["runId"],
    "additionalProperties": False,
}
ABOVE: Schema = {
    "type": "object",
    "properties": {"run": RUN, "job": NAMED},
    "required": ["run", "job"],
    "additionalProperties": False,
}
TRANSFORMATION: Schema = {
    "type": "object",
    "properties": {
        "type": {"enum": ["DIRECT", "INDIRECT"]},
        "subtype": {
            "enum": [
                *("IDENTITY", "TRANSFORMATION", "AGGREGATION"),
                *("JOIN", "GROUP_BY", "FILTER", "SORT", "WINDOW", "CONDITIONAL"),
            ]
        },
        "masking": {"type": "boolean"},
        "description": TEXT,
    },
    "required": ["type"],
    "additionalProperties": False,
}
INPUT_FIELDS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "namespace": TEXT,
            "name": TEXT,
            "field": TEXT,
            "transformations": {"type": "array", "items": TRANSFORMATION},
        },
        "required": ["namespace", "name", "field"],
        "additionalProperties": False,
    },
}
RUN_FACETS: Schema = {
    "parent": facet({"run": RUN, "job": NAMED}, {"root": ABOVE}),
    "nominalTime": facet({"nominalStartTime": TIME}, {"nominalEndTime": TIME}),
    "errorMessage": facet({"message": TEXT, "programmingLanguage": TEXT}, {"stackTrace": TEXT}),
    "processing_engine": facet({"version": TEXT}, {"name": TEXT, "openlineageAdapterVersion": TEXT}),
}
JOB_FACETS: Schema = {
    "jobType": facet(
        {"processingType": {"enum": ["BATCH", "STREAMING", "SERVICE"]}, "integration": TEXT},
        {"jobType": TEXT},
    ),
    "sourceCodeLocation": facet({"type": TEXT, "url": URI}, {"path": TEXT, "version": TEXT, "repoUrl": TEXT}),
    "ownership": facet(
        {},
        {
            "owners": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"name": TEXT, "type": TEXT},
                    "required": ["name"],
                    "additionalProperties": False,
                },
            }
        },
    ),
    "sql": facet({"query": TEXT}, {"dialect": TEXT}),
}
DATASET_FACETS: Schema = {
    "dataSource": facet({}, {"name": TEXT, "uri": URI}),
    "datasetType": facet({"datasetType": TEXT}, {"subType": TEXT}),
    "version": facet({"datasetVersion": TEXT}),
    "schema": facet(
        {},
        {
            "fields": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": TEXT,
                        "type": TEXT,
                        "description": TEXT,
                        "ordinal_position": {"type": "integer", "minimum": 1},
                    },
                    "required": ["name"],
                    "additionalProperties": False,
                },
            }
        },
    ),
    "columnLineage": facet(
        {
            "fields": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "properties": {"inputFields": INPUT_FIELDS},
                    "required": ["inputFields"],
                    "additionalProperties": False,
                },
            }
        },
        {"dataset": INPUT_FIELDS},
    ),
}


def facets(known: Schema) -> Schema:
    return {"type": "object", "properties": known, "additionalProperties": False}


def dataset(more: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {"namespace": TEXT, "name": TEXT, "facets": facets(DATASET_FACETS), **more},
        "required": ["namespace", "name"],
        "additionalProperties": False,
    }


OUTPUT_FACETS: Schema = {
    "outputStatistics": facet(
        {}, {name: {"type": "integer", "minimum": 0} for name in ("rowCount", "size", "fileCount")}
    )
}
RUN_EVENT: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": TIME,
        "producer": URI,
        "schemaURL": URI,
        "run": {
            "type": "object",
            "properties": {"runId": UUID, "facets": facets(RUN_FACETS)},
            "required": ["runId"],
            "additionalProperties": False,
        },
        "job": {
            "type": "object",
            "properties": {"namespace": TEXT, "name": TEXT, "facets": facets(JOB_FACETS)},
            "required": ["namespace", "name"],
            "additionalProperties": False,
        },
        "inputs": {"type": "array", "items": dataset({"inputFacets": {"type": "object"}})},
        "outputs": {"type": "array", "items": dataset({"outputFacets": facets(OUTPUT_FACETS)})},
    },
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "additionalProperties": False,
}


def lost_by_consumers(event: Any) -> Iterator[str]:
    """What Marquez takes without keeping it: it looks column lineage up among fields that it was told of.

    An output's column must be in the output's schema; an input's field must be in the schema of a dataset
    that is an input of this event.
    """

    def columns(dataset: Any) -> set[str]:
        return {field["name"] for field in dataset["facets"].get("schema", {}).get("fields", ())}

    known = {(each["namespace"], each["name"]): columns(each) for each in event["inputs"]}
    for output in event["outputs"]:
        lineage = output["facets"].get("columnLineage", {"fields": {}, "dataset": []})
        for column in lineage["fields"].keys() - columns(output):
            yield f"{output['name']}#{column} is not in its schema"
        whole = {"": {"inputFields": lineage["dataset"]}}
        for column, acting in (lineage["fields"] | whole).items():
            for field in acting["inputFields"]:
                if field["field"] not in known.get((field["namespace"], field["name"]), set()):
                    yield f"{field['name']}#{field['field']} of {output['name']}#{column} is no input's"
