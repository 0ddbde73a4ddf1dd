"""From the records of a flow run to OpenLineage events: pure, so that they can be told again at any time."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from fourfold.core import openlineage as ol
from fourfold.core.context import Ref
from fourfold.core.flows import (
    BODY,
    Attempt,
    CallKind,
    CallState,
    Failure,
    FlowRun,
    RunState,
    StepCall,
)
from fourfold.core.jobs import ExitKind
from fourfold.core.lineage import MadeByQuery
from fourfold.core.openlineage import Dataset, Happened, Job, Json
from fourfold.core.times import Instant

ENDS = {
    RunState.succeeded: Happened.complete,
    RunState.failed: Happened.fail,
    RunState.cancelled: Happened.abort,
}
"""How a flow run ended, in OpenLineage's words."""


class Facts(Protocol):
    """What is known of things, beside what the flows room knows itself."""

    @property
    def namespace(self) -> str:
        """Under which the project's jobs are known."""
        ...

    def datasets(self, refs: Iterable[Ref]) -> Mapping[Ref, Dataset]:
        """The things among these that are data."""
        ...

    def made(self, refs: Iterable[Ref]) -> Mapping[Ref, MadeByQuery]:
        """Which queries made these versions, with their column edges."""
        ...


def run_id(run: str, call: str = "", attempt: int = 0) -> str:
    """The UUID of a flow run, or of one attempt of a step: the same whenever it is asked for."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"fourfold:{run}/{call}@{attempt}"))


def of_run(run: FlowRun, calls: Sequence[StepCall], happened: Happened, facts: Facts) -> Json:
    """An event about a flow run. At its end it tells what the body itself read and wrote."""
    effects = [call for call in calls if call.kind is CallKind.effect and call.state.is_good]
    is_over = happened is not Happened.start
    reads, writes = _touched(effects) if is_over else ((), ())
    run_facets = {"processing_engine": ol.engine()}
    if run.scheduled_for is not None:
        run_facets["nominalTime"] = ol.nominal_time(run.scheduled_for)
    if happened is Happened.fail:
        run_facets["errorMessage"] = _error(run.failure, run.reason)
    return _event(
        happened, run_at(run, happened), run_id(run.id), run, "flow", reads, writes, run_facets, facts
    )


def of_attempt(run: FlowRun, call: StepCall, attempt: Attempt, happened: Happened, facts: Facts) -> Json:
    """An event about one attempt of a step. The one that succeeded tells what it read and wrote."""
    is_good = (
        happened is Happened.complete and call.attempt == attempt.n and call.state is CallState.succeeded
    )
    reads, writes = _touched([call]) if is_good else ((), ())
    run_facets = {
        "processing_engine": ol.engine(),
        "parent": ol.parent(run_id(run.id), Job(facts.namespace, run.flow)),
    }
    if happened is Happened.fail:
        is_last = call.attempt == attempt.n
        reason = attempt.exit.reason if attempt.exit is not None else call.reason
        run_facets["errorMessage"] = _error(call.failure if is_last else None, reason)
    identity = run_id(run.id, call.key, attempt.n)
    return _event(
        happened,
        attempt_at(attempt, happened),
        identity,
        run,
        "step",
        reads,
        writes,
        run_facets,
        facts,
        call,
    )


def of_attempt_end(attempt: Attempt) -> Happened | None:
    """How an attempt ended; `None` while it has not, and for one that never began."""
    if attempt.ended_at is None or attempt.started_at is None:
        return None
    match attempt.exit.kind if attempt.exit is not None else ExitKind.failed:
        case ExitKind.ok:
            return Happened.complete
        case ExitKind.cancelled:
            return Happened.abort
        case _:
            return Happened.fail


def all_of(
    run: FlowRun, calls: Sequence[StepCall], attempts: Sequence[Attempt], facts: Facts
) -> tuple[Json, ...]:
    """Every event about a flow run so far, in the order of their times."""
    told: list[tuple[Instant, Json]] = []

    def tell(happened: Happened) -> None:
        told.append((run_at(run, happened), of_run(run, calls, happened, facts)))

    def tell_attempt(call: StepCall, attempt: Attempt, happened: Happened) -> None:
        at = attempt_at(attempt, happened)
        told.append((at, of_attempt(run, call, attempt, happened, facts)))

    if run.started_at is not None or not run.state.is_open:
        tell(Happened.start)
    by_key = {call.key: call for call in calls}
    for attempt in attempts:
        if attempt.call == BODY or attempt.started_at is None:
            continue
        tell_attempt(by_key[attempt.call], attempt, Happened.start)
        if (end := of_attempt_end(attempt)) is not None:
            tell_attempt(by_key[attempt.call], attempt, end)
    if (over := ENDS.get(run.state)) is not None:
        tell(over)
    return tuple(event for _, event in sorted(told, key=lambda each: each[0]))


def run_at(run: FlowRun, happened: Happened) -> Instant:
    """When this happened to a flow run."""
    return (run.started_at if happened is Happened.start else run.ended_at) or run.created_at


def attempt_at(attempt: Attempt, happened: Happened) -> Instant:
    """When this happened to an attempt."""
    return (attempt.started_at if happened is Happened.start else attempt.ended_at) or attempt.leased_at


def _event(
    happened: Happened,
    at: Instant,
    identity: str,
    run: FlowRun,
    kind: str,
    reads: Sequence[Ref],
    writes: Sequence[Ref],
    run_facets: Mapping[str, Json],
    facts: Facts,
    call: StepCall | None = None,
) -> Json:
    datasets = facts.datasets([*reads, *writes])
    made = facts.made([ref for ref in writes if ref in datasets])
    sources = {edge.source for one in made.values() for edge in one.edges}
    others = {**facts.datasets(sources - datasets.keys()), **datasets}
    name = run.flow if call is None else f"{run.flow}.{call.name}"
    job_facets = {
        "jobType": ol.job_type(kind),
        "sourceCodeLocation": ol.source_code(run.code.digest, call.module if call else run.code.module),
    }
    if run.user:
        job_facets["ownership"] = ol.ownership(run.user)
    queries = {one.sql for one in made.values() if one.sql}
    if len(queries) == 1:
        job_facets["sql"] = ol.sql(queries.pop())
    return ol.event(
        happened,
        at,
        run_id=identity,
        job=Job(facts.namespace, name),
        run_facets=run_facets,
        job_facets=job_facets,
        # A consumer looks the fields of column lineage up among the event's inputs.
        inputs=[
            ol.dataset(others[ref]) for ref in dict.fromkeys((*reads, *sorted(sources))) if ref in others
        ],
        outputs=[
            ol.output(datasets[ref], others=others, made=made.get(ref)) for ref in writes if ref in datasets
        ],
    )


def _touched(calls: Iterable[StepCall]) -> tuple[tuple[Ref, ...], tuple[Ref, ...]]:
    reads: dict[Ref, None] = {}
    writes: dict[Ref, None] = {}
    for call in calls:
        reads.update(dict.fromkeys(call.reads))
        writes.update(dict.fromkeys(call.writes))
    return tuple(reads), tuple(writes)


def _error(failure: Failure | None, reason: str) -> Json:
    if failure is None:
        return ol.error_message(reason or "it failed")
    message = f"{failure.type}: {failure.message}" if failure.type else failure.message
    return ol.error_message(message or reason or "it failed", failure.traceback)
