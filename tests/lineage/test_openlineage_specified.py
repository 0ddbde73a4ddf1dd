"""Our reading of OpenLineage, held against the classes that its project generates from its own schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import attr
import pytest
from openlineage.client.generated import base
from openlineage.client.generated.column_lineage_dataset import Fields, InputField, Transformation
from openlineage.client.generated.ownership_job import Owner
from openlineage.client.generated.parent_run import Job, Root, RootJob, RootRun, Run
from openlineage.client.generated.schema_dataset import SchemaDatasetFacetFields

from fourfold.core import openlineage as ol
from fourfold.core import wire
from fourfold.core.flows import Failure, RunState
from fourfold.core.jobs import ExitKind
from fourfold.core.lineage import ColumnEdge, How, MadeByQuery
from fourfold.resources.flows.openlineage import events

from . import openlineage_2 as ours
from .test_openlineage import OUT, RAW, KnownFacts, a_call, a_run, an_attempt

HOMES = {
    "parent": "parent_run.ParentRunFacet",
    "nominalTime": "nominal_time_run.NominalTimeRunFacet",
    "errorMessage": "error_message_run.ErrorMessageRunFacet",
    "processing_engine": "processing_engine_run.ProcessingEngineRunFacet",
    "jobType": "job_type_job.JobTypeJobFacet",
    "sourceCodeLocation": "source_code_location_job.SourceCodeLocationJobFacet",
    "ownership": "ownership_job.OwnershipJobFacet",
    "sql": "sql_job.SQLJobFacet",
    "dataSource": "datasource_dataset.DatasourceDatasetFacet",
    "datasetType": "dataset_type_dataset.DatasetTypeDatasetFacet",
    "version": "dataset_version_dataset.DatasetVersionDatasetFacet",
    "schema": "schema_dataset.SchemaDatasetFacet",
    "columnLineage": "column_lineage_dataset.ColumnLineageDatasetFacet",
    "outputStatistics": "output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet",
}
"""Where the class of each facet is that we write, by the facet's key."""
FACETS = {**ours.RUN_FACETS, **ours.JOB_FACETS, **ours.DATASET_FACETS, **ours.OUTPUT_FACETS}
PARTS = {
    "a field of column lineage": (
        ours.DATASET_FACETS["columnLineage"]["properties"]["fields"]["additionalProperties"],
        Fields,
    ),
    "an input field": (ours.INPUT_FIELDS["items"], InputField),
    "a transformation": (ours.TRANSFORMATION, Transformation),
    "an owner": (ours.JOB_FACETS["ownership"]["properties"]["owners"]["items"], Owner),
    "a column": (ours.DATASET_FACETS["schema"]["properties"]["fields"]["items"], SchemaDatasetFacetFields),
    "a parent's run": (ours.RUN, Run),
    "a parent's job": (ours.NAMED, Job),
    "a root": (ours.ABOVE, Root),
    "a root's run": (ours.RUN, RootRun),
    "a root's job": (ours.NAMED, RootJob),
    "an event": (ours.RUN_EVENT, base.RunEvent),
    "a run": (ours.RUN_EVENT["properties"]["run"], base.Run),
    "a job": (ours.RUN_EVENT["properties"]["job"], base.Job),
    "an input": (ours.RUN_EVENT["properties"]["inputs"]["items"], base.InputDataset),
    "an output": (ours.RUN_EVENT["properties"]["outputs"]["items"], base.OutputDataset),
}


def class_of(key: str) -> Any:
    """The class of a facet."""
    home, _, name = HOMES[key].partition(".")
    return getattr(import_module(f"openlineage.client.generated.{home}"), name)


def asked_of(theirs: Any) -> tuple[set[str], set[str]]:
    """The fields that a class has, and those that it cannot do without."""
    fields = attr.fields(theirs)
    return {f.name for f in fields}, {f.name for f in fields if f.init and f.default is attr.NOTHING}


def refused_by_client(event: Any) -> Iterator[str]:
    """What the client's own classes do not take of an event, or would write otherwise."""
    parts = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    facets = [item for part in parts for item in part["facets"].items()]
    facets += [item for part in event["outputs"] for item in part.get("outputFacets", {}).items()]
    for key, facet in facets:
        theirs = class_of(key)
        if theirs._get_schema() != facet["_schemaURL"]:
            yield f"{key} is of {theirs._get_schema()}, not {facet['_schemaURL']}"
        try:
            theirs(**{name: value for name, value in facet.items() if not name.startswith("_")})
        except (TypeError, ValueError) as error:
            yield f"{key}: {error}"
    try:
        made = base.RunEvent(
            eventTime=event["eventTime"],
            producer=event["producer"],
            eventType=base.EventType(event["eventType"]),
            run=base.Run(event["run"]["runId"]),
            job=base.Job(event["job"]["namespace"], event["job"]["name"]),
        )
    except (TypeError, ValueError) as error:
        yield str(error)
    else:
        if made.schemaURL != event["schemaURL"]:
            yield f"it is of {made.schemaURL}, not {event['schemaURL']}"


def test_our_list_of_facets_is_theirs_at_their_versions() -> None:
    assert set(FACETS) == set(HOMES)
    for key in HOMES:
        theirs = class_of(key)
        version = ol._FACETS[theirs.__name__]
        name = theirs.__name__
        assert (
            theirs._get_schema() == f"https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}"
        )
    assert len(ol._FACETS) == len(HOMES)


@pytest.mark.parametrize("key", HOMES)
def test_a_facet_needs_what_theirs_needs_and_has_no_field_that_theirs_has_not(key: str) -> None:
    _agree(FACETS[key], class_of(key))


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_events_agree_too(part: str) -> None:
    _agree(*PARTS[part])


def _agree(schema: Any, theirs: Any) -> None:
    fields, needed = asked_of(theirs)
    assert set(schema["properties"]) <= fields
    assert needed - {"_producer", "_schemaURL"} <= set(schema["required"])


def test_an_event_is_of_a_type_that_they_know() -> None:
    types = ours.RUN_EVENT["properties"]["eventType"]["enum"]
    assert types == [each.value for each in base.EventType]
    assert {each.value for each in ol.Happened} <= set(types)


def test_their_client_takes_every_kind_of_event() -> None:
    edges = (
        ColumnEdge(RAW, "delay", OUT, "delay", How.identity),
        ColumnEdge(RAW, "tail", OUT, "", How.filter),
        ColumnEdge(RAW, "", OUT, "tail", How.unknown),
    )
    facts = KnownFacts(queries={OUT: MadeByQuery(OUT, "SELECT 1", edges)})
    seen: set[str] = set()
    for state in (RunState.succeeded, RunState.failed, RunState.cancelled):
        failure = Failure(ExitKind.failed, "ValueError", "no rows") if state is RunState.failed else None
        for kind in (ExitKind.ok, ExitKind.failed, ExitKind.cancelled):
            attempts = (an_attempt(2, kind),)
            for event in events.all_of(a_run(state, failure=failure), (a_call(),), attempts, facts):
                travelled = json.loads(wire.encode(event))
                assert list(refused_by_client(travelled)) == []
                assert list(ours.lost_by_consumers(travelled)) == []
                seen.add(f"{travelled['job']['facets']['jobType']['jobType']} {travelled['eventType']}")
    ends = ("START", "COMPLETE", "FAIL", "ABORT")
    assert seen == {f"{kind} {end}" for kind in ("FLOW", "STEP") for end in ends}


def test_the_client_and_the_consumer_do_refuse() -> None:
    """So that nothing of the above holds because nothing is looked at."""
    facts = KnownFacts(
        queries={OUT: MadeByQuery(OUT, "", (ColumnEdge(RAW, "delay", OUT, "delay", How.identity),))}
    )
    told = events.all_of(a_run(), (a_call(),), (an_attempt(),), facts)
    event = json.loads(wire.encode(next(each for each in told if each["outputs"])))
    del event["job"]["facets"]["jobType"]["processingType"]
    event["run"]["runId"] = "run_1"
    event["outputs"][0]["facets"]["columnLineage"]["_schemaURL"] += "x"
    assert len(list(refused_by_client(event))) == 3
    event["inputs"] = []
    event["outputs"][0]["facets"]["schema"]["fields"] = []
    assert len(list(ours.lost_by_consumers(event))) == 2
