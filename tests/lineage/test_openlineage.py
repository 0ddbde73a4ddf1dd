"""Flow runs as OpenLineage events: whole, in order, told at least once, and told again when asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from fourfold.catalog.database import Catalog
from fourfold.core import wire
from fourfold.core.context import Ref
from fourfold.core.errors import Refused, Unavailable
from fourfold.core.flows import (
    BODY,
    Attempt,
    CallKey,
    CallKind,
    CallState,
    Code,
    Failure,
    FlowRun,
    RunEvent,
    RunId,
    RunState,
    StepCall,
)
from fourfold.core.jobs import Exit, ExitKind
from fourfold.core.lineage import ColumnEdge, How, MadeByQuery
from fourfold.core.openlineage import Dataset, Happened, Outbox
from fourfold.core.ports.flow_store import Changes
from fourfold.core.storage import Column
from fourfold.core.times import Instant
from fourfold.resources.flows.openlineage import events, sender, tables
from fourfold.resources.flows.openlineage.service import LineageEvents
from fourfold.resources.flows.tables import FlowTables
from fourfold.testing.clock import MovableClock
from fourfold.testing.event_sink import MemoryEvents

from .openlineage_2 import RUN_EVENT

VALIDATOR = Draft202012Validator(RUN_EVENT)
T0 = Instant(1_767_225_600_000_000)
RAW, OUT = Ref("table", "raw.flights", "3"), Ref("table", "out", "0")
MODEL = Ref("model", "delays", "2")


@dataclass
class KnownFacts:
    """What is known of things, in a test."""

    namespace: str = "lab"
    queries: dict[Ref, MadeByQuery] = field(default_factory=dict)

    def datasets(self, refs: Iterable[Ref]) -> Mapping[Ref, Dataset]:
        columns = (Column("delay", "double"), Column("tail", "string", is_nullable=False))
        return {
            ref: Dataset(ref, "file", f"/data/tables/{ref.name}", columns, 12)
            if ref.kind == "table"
            else Dataset(ref, "fourfold://lab", f"{ref.kind}/{ref.name}")
            for ref in refs
            if ref.kind in ("table", "model")
        }

    def made(self, refs: Iterable[Ref]) -> Mapping[Ref, MadeByQuery]:
        return {ref: self.queries[ref] for ref in refs if ref in self.queries}


def a_run(state: RunState = RunState.succeeded, **more: Any) -> FlowRun:
    known: dict[str, Any] = {
        "started_at": Instant(T0 + 1_000_000),
        "ended_at": None if state.is_open else Instant(T0 + 9_000_000),
        "user": "ada",
        "scheduled_for": T0,
    }
    code = Code("c0de" * 16, "nightly", "nightly", "blake3:" + "ab" * 32)
    return FlowRun(RunId("run_1"), "nightly", state, code, "env", T0, **(known | more))


def a_call(state: CallState = CallState.succeeded, **more: Any) -> StepCall:
    known: dict[str, Any] = {"reads": (RAW, Ref("flow_run", "x")), "writes": (OUT, MODEL), "attempt": 2}
    return StepCall(
        RunId("run_1"), CallKey("build#0"), 1, CallKind.step, "build", state, T0, module="steps.build",
        **(known | more),
    )  # fmt: skip


def an_attempt(n: int = 2, kind: ExitKind | None = ExitKind.ok, **more: Any) -> Attempt:
    known: dict[str, Any] = {
        "started_at": Instant(T0 + n * 2_000_000),
        "ended_at": None if kind is None else Instant(T0 + n * 2_000_000 + 500),
        "exit": None if kind is None else Exit(kind, "killed by the kernel"),
    }
    return Attempt(RunId("run_1"), CallKey("build#0"), n, T0, "worker_1", "local", **(known | more))


BODY_CALL = StepCall(RunId("run_1"), BODY, 0, CallKind.body, "nightly", CallState.succeeded, T0)


def valid(event: Any) -> dict[str, Any]:
    travelled: dict[str, Any] = json.loads(wire.encode(event))
    VALIDATOR.validate(travelled)
    return travelled


def test_the_schema_is_one_and_refuses_what_openlineage_would() -> None:
    Draft202012Validator.check_schema(RUN_EVENT)
    whole = valid(events.of_run(a_run(), (), Happened.complete, KnownFacts()))
    for broken in (
        {**whole, "eventTime": "yesterday"},
        {**whole, "eventType": "DONE"},
        {**whole, "run": {"runId": "run_1"}},
        {**whole, "job": {"name": "x"}},
        {key: value for key, value in whole.items() if key != "schemaURL"},
        {**whole, "run": {**whole["run"], "facets": {"parent": {"run": {}, "job": {}}}}},
    ):
        assert not VALIDATOR.is_valid(broken)


def test_a_step_tells_what_it_read_and_wrote_and_which_run_it_is_part_of() -> None:
    edges = (
        ColumnEdge(RAW, "delay", OUT, "late", How.transformation),
        ColumnEdge(RAW, "tail", OUT, "tail", How.transformation, is_masked=True),
        ColumnEdge(RAW, "year", OUT, "", How.filter),
    )
    facts = KnownFacts(queries={OUT: MadeByQuery(OUT, "SELECT delay > ? AS late FROM raw", edges)})
    told = valid(events.of_attempt(a_run(), a_call(), an_attempt(), Happened.complete, facts))
    assert told["job"]["name"] == "nightly.build"
    assert told["job"]["facets"]["sql"]["query"] == "SELECT delay > ? AS late FROM raw"
    assert told["job"]["facets"]["sourceCodeLocation"]["path"] == "steps/build.py"
    assert told["job"]["facets"]["ownership"]["owners"] == [{"name": "user:ada"}]
    assert told["run"]["facets"]["parent"]["run"]["runId"] == events.run_id("run_1")
    assert [(d["namespace"], d["name"]) for d in told["inputs"]] == [("file", "/data/tables/raw.flights")]
    table, model = told["outputs"]
    assert table["facets"]["version"]["datasetVersion"] == "0"
    assert [f["name"] for f in table["facets"]["schema"]["fields"]] == ["delay", "tail"]
    assert table["outputFacets"]["outputStatistics"]["rowCount"] == 12
    assert model["name"] == "model/delays"
    assert model["facets"]["datasetType"]["datasetType"] == "MODEL"
    lineage = table["facets"]["columnLineage"]
    (late,) = lineage["fields"]["late"]["inputFields"]
    assert late["field"] == "delay"
    assert late["transformations"] == [{"type": "DIRECT", "subtype": "TRANSFORMATION", "masking": False}]
    assert lineage["fields"]["tail"]["inputFields"][0]["transformations"][0]["masking"] is True
    assert [each["field"] for each in lineage["dataset"]] == ["year"]
    assert lineage["dataset"][0]["transformations"][0] == {
        "type": "INDIRECT",
        "subtype": "FILTER",
        "masking": False,
    }


def test_a_query_that_could_not_be_followed_claims_no_columns() -> None:
    unknown = MadeByQuery(OUT, "", (ColumnEdge(RAW, "", OUT, "", How.unknown),), "PIVOT is not followed")
    facts = KnownFacts(queries={OUT: unknown})
    told = valid(events.of_attempt(a_run(), a_call(), an_attempt(), Happened.complete, facts))
    assert "columnLineage" not in told["outputs"][0]["facets"]


def test_a_failure_tells_its_message_and_an_attempt_that_was_lost_its_reason() -> None:
    failed = a_call(CallState.failed, failure=Failure(ExitKind.failed, "ValueError", "no rows", "Traceback…"))
    last = valid(
        events.of_attempt(a_run(), failed, an_attempt(2, ExitKind.failed), Happened.fail, KnownFacts())
    )
    error = last["run"]["facets"]["errorMessage"]
    assert (error["message"], error["stackTrace"]) == ("ValueError: no rows", "Traceback…")
    assert last["outputs"] == []
    lost = an_attempt(1, ExitKind.out_of_memory)
    first = valid(events.of_attempt(a_run(), failed, lost, Happened.fail, KnownFacts()))
    assert first["run"]["facets"]["errorMessage"]["message"] == "killed by the kernel"
    assert first["run"]["runId"] != last["run"]["runId"]


def test_all_events_of_a_run_come_in_order_and_pair_up() -> None:
    run = a_run(RunState.failed, failure=Failure(ExitKind.failed, "ValueError", "no rows"))
    attempts = (
        an_attempt(1, ExitKind.worker_lost),
        an_attempt(2, ExitKind.cancelled),
        an_attempt(3, None, started_at=None),
    )
    body = replace(an_attempt(1), call=BODY)
    told = [
        valid(each) for each in events.all_of(run, (BODY_CALL, a_call()), (body, *attempts), KnownFacts())
    ]
    assert [(e["job"]["name"], e["eventType"]) for e in told] == [
        ("nightly", "START"),
        ("nightly.build", "START"),
        ("nightly.build", "FAIL"),
        ("nightly.build", "START"),
        ("nightly.build", "ABORT"),
        ("nightly", "FAIL"),
    ]
    assert told[0]["run"]["facets"]["nominalTime"]["nominalStartTime"] == "2026-01-01T00:00:00Z"


# What is to be told


@dataclass
class Told:
    """A flow store whose commits are noted, and a sender that is turned by hand."""

    store: FlowTables
    sink: MemoryEvents
    sender: sender.Sender
    tellings: tables.Tellings
    epoch: int

    def commit(self, *, run: FlowRun, states: Iterable[RunState] = (), calls: Iterable[StepCall] = (),
               attempts: Iterable[Attempt] = ()) -> None:  # fmt: skip
        changes = Changes(
            runs={run.id: run},
            calls={(call.run, call.key): call for call in calls},
            attempts={(a.run, a.call, a.n): a for a in attempts},
            events=[RunEvent(run.id, T0, "run", state=state.value) for state in states],
        )
        self.store.commit(self.epoch, changes)

    def words(self) -> list[tuple[str, str]]:
        found = [json.loads(event) for event in self.sink.events]
        return [(event["job"]["name"], event["eventType"]) for event in found]


@pytest.fixture
def told(catalog: Catalog, clock: MovableClock) -> Told:
    sink = MemoryEvents()
    service = LineageEvents(catalog, KnownFacts(), clock, sink=sink)
    store = FlowTables(catalog, also=service.note)
    assert service._sender is not None
    return Told(store, sink, service._sender, service._tellings, store.take_over("me", T0))


def test_a_run_and_its_attempts_are_told_once_each(told: Told) -> None:
    run = a_run(RunState.running)
    told.commit(run=run, states=[RunState.queued])
    told.sender.turn()
    assert told.words() == []
    told.commit(run=run, states=[RunState.running])
    told.commit(
        run=run, calls=[a_call(CallState.running, reads=(), writes=())], attempts=[an_attempt(2, None)]
    )
    told.sender.turn()
    told.commit(run=run, calls=[a_call()], attempts=[an_attempt()])
    told.commit(run=a_run(), states=[RunState.succeeded])
    told.sender.turn()
    told.sender.turn()
    assert told.words() == [
        ("nightly", "START"),
        ("nightly.build", "START"),
        ("nightly.build", "COMPLETE"),
        ("nightly", "COMPLETE"),
    ]
    assert told.tellings.waiting(10) == ()
    for event in told.sink.events:
        VALIDATOR.validate(json.loads(event))


def test_a_start_and_end_in_one_turn_of_the_loop_are_both_told(told: Told) -> None:
    told.commit(
        run=a_run(RunState.cancelled), states=[RunState.cancelled], calls=[a_call()], attempts=[an_attempt()]
    )
    told.sender.turn()
    assert [what for _, what in told.words()] == ["START", "ABORT", "START", "COMPLETE"]


def test_what_is_not_taken_waits_in_order_and_longer_each_time(told: Told) -> None:
    told.commit(run=a_run(), states=[RunState.succeeded])
    told.sink.faults = [Unavailable("down")] * 10
    waits = [told.sender.turn() for _ in range(10)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert told.words() == []
    told.sender.turn()
    assert [what for _, what in told.words()] == ["START", "COMPLETE"]


def test_those_before_one_that_is_not_taken_are_not_told_again(told: Told) -> None:
    told.commit(run=a_run(), states=[RunState.succeeded])
    send = told.sink.send

    def once(event: bytes) -> None:
        if told.sink.events:
            raise Unavailable("down")
        send(event)

    told.sink.send = once  # type: ignore[method-assign]
    told.sender.turn()
    told.sink.send = send  # type: ignore[method-assign]
    told.sender.turn()
    assert [what for _, what in told.words()] == ["START", "COMPLETE"]


def test_what_never_will_be_taken_is_put_aside_and_holds_up_nothing(told: Told) -> None:
    told.commit(run=a_run(), states=[RunState.succeeded])
    told.sink.faults = [Refused("answered 400: no")]
    told.sender.turn()
    assert [what for _, what in told.words()] == ["COMPLETE"]
    (aside,) = told.tellings.refused()
    assert (aside.telling.what, aside.why) == (Happened.start, "answered 400: no")


def test_what_waits_is_bounded_and_can_be_told_again_from_the_records(
    told: Told, catalog: Catalog, clock: MovableClock
) -> None:
    for number in range(6):
        run = replace(a_run(), id=RunId(f"run_{number}"))
        told.commit(run=run, states=[RunState.succeeded])
    assert told.tellings.trim(most=4) == 8
    assert [each.run for each in told.tellings.waiting(10)] == ["run_4", "run_4", "run_5", "run_5"]
    again = LineageEvents(catalog, KnownFacts(), clock, sink=None)
    first = again.page(since=Instant(0), after="", limit=4)
    rest = again.page(since=Instant(0), after=first.last, limit=4)
    assert [len(first.events), len(rest.events)] == [8, 4]
    assert again.page(since=Instant(0), after=rest.last, limit=4).last == ""
    assert again.page(since=Instant(T0 + 1), after="", limit=4).events == ()


def test_it_is_known_how_much_waits_since_when_and_what_was_refused(
    told: Told, catalog: Catalog, clock: MovableClock
) -> None:
    service = LineageEvents(catalog, KnownFacts(), clock, sink=told.sink)
    assert service.outbox() == Outbox("memory://events", 0, None, 0, None, "")
    told.commit(run=a_run(), states=[RunState.succeeded], calls=[a_call()], attempts=[an_attempt()])
    told.sink.faults = [Refused("answered 400: no"), Unavailable("down")]
    told.sender.turn()
    now = clock.now()
    assert service.outbox() == Outbox(
        "memory://events", 3, Instant(T0 + 9_000_000), 1, now, "answered 400: no"
    )
    told.sink.faults = [Unavailable("down")]
    assert told.sender.turn() > 0
    told.sink.faults = []
    told.sender.turn()
    assert service.outbox() == Outbox("memory://events", 0, None, 1, now, "answered 400: no")


def test_of_an_attempt_that_waits_it_is_known_since_when(
    told: Told, catalog: Catalog, clock: MovableClock
) -> None:
    told.commit(run=a_run(RunState.running), calls=[a_call()], attempts=[an_attempt()])
    silent = LineageEvents(catalog, KnownFacts(), clock, sink=None)
    assert silent.outbox() == Outbox("", 2, an_attempt().started_at, 0, None, "")


def test_nothing_is_written_where_nobody_is_told(catalog: Catalog, clock: MovableClock) -> None:
    service = LineageEvents(catalog, KnownFacts(), clock, sink=None)
    store = FlowTables(catalog, also=service.note)
    store.commit(
        store.take_over("me", T0),
        Changes(runs={"run_1": a_run()}, events=[RunEvent(RunId("run_1"), T0, "run", state="succeeded")]),
    )
    assert tables.Tellings(catalog).waiting(1) == ()
    service.start()
    service.close()


def test_the_thread_sends_what_waits_and_says_its_last_words(told: Told) -> None:
    told.commit(run=a_run(RunState.running), states=[RunState.running])
    told.sender.start()
    told.commit(run=a_run(), states=[RunState.succeeded])
    told.sender.close(patience_s=20)
    assert [what for _, what in told.words()] == ["START", "COMPLETE"]
    told.sender.start()  # the process may own the loop again
    told.sender.close(patience_s=20)
