"""The conformance kit of the flow store port, and an in-memory store that passes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fourfold.core.errors import Conflict
from fourfold.core.flows import (
    BODY,
    Attempt,
    CallKey,
    CallKind,
    CallState,
    Code,
    DeployedFlow,
    FlowRun,
    RunEvent,
    RunId,
    RunState,
    StepCall,
    Stored,
)
from fourfold.core.jobs import Exit, ExitKind
from fourfold.core.ports.flow_store import CacheEntry, Changes, Fenced, FlowStore, OpenRun
from fourfold.core.times import Instant
from fourfold.testing.raising import raising


@dataclass(slots=True)
class FlowRows:
    """What a flow store holds; survives the objects that read it, as a database does."""

    epoch: int = 0
    runs: dict[str, FlowRun] = field(default_factory=dict)
    calls: dict[str, dict[CallKey, StepCall]] = field(default_factory=dict)
    attempts: dict[str, dict[tuple[CallKey, int], Attempt]] = field(default_factory=dict)
    deployments: dict[str, DeployedFlow] = field(default_factory=dict)
    cache: dict[str, CacheEntry] = field(default_factory=dict)
    events: list[RunEvent] = field(default_factory=list)
    run_of_key: dict[str, str] = field(default_factory=dict)


class MemoryFlowStore:
    """A flow store in dictionaries. Objects made from the same `rows` share one store."""

    def __init__(self, rows: FlowRows | None = None) -> None:
        self.rows = FlowRows() if rows is None else rows

    def take_over(self, owner: str, now: Instant) -> int:  # noqa: ARG002 - whose it is, nobody asks here
        self.rows.epoch += 1
        return self.rows.epoch

    def commit(self, epoch: int, changes: Changes) -> None:
        rows = self.rows
        if epoch != rows.epoch:
            raise Fenced("another owner has taken over", epoch=epoch)
        for run in changes.runs.values():
            if run.key and rows.run_of_key.get(run.key, run.id) != run.id:
                raise Conflict(f"an idempotency key is taken: {run.key}")
        for run in changes.runs.values():
            rows.runs[run.id] = run
            if run.key:
                rows.run_of_key[run.key] = run.id
        for call in changes.calls.values():
            rows.calls.setdefault(call.run, {})[call.key] = call
        for attempt in changes.attempts.values():
            rows.attempts.setdefault(attempt.run, {})[attempt.call, attempt.n] = attempt
        rows.deployments.update(changes.deployments)
        rows.cache.update(changes.cache)
        rows.events.extend(changes.events)

    def load_open(self) -> tuple[OpenRun, ...]:
        found = [self._open(run) for _, run in sorted(self.rows.runs.items())]
        return tuple(each for each in found if each.run.state.is_open or each.attempts)

    def load(self, run: RunId) -> OpenRun | None:
        found = self.rows.runs.get(run)
        return None if found is None else self._open(found)

    def _open(self, run: FlowRun) -> OpenRun:
        calls = sorted(self.rows.calls.get(run.id, {}).values(), key=lambda call: call.seq)
        attempts = sorted(self.rows.attempts.get(run.id, {}).items())
        live = tuple(attempt for _, attempt in attempts if attempt.ended_at is None)
        return OpenRun(run, tuple(calls), live)

    def run_by_key(self, key: str) -> FlowRun | None:
        found = self.rows.run_of_key.get(key)
        return None if found is None else self.rows.runs[found]

    def cached(self, key: str) -> CacheEntry | None:
        return self.rows.cache.get(key)

    def deployments(self) -> Sequence[DeployedFlow]:
        return [deployment for _, deployment in sorted(self.rows.deployments.items())]


def check_flow_store(open_store: Callable[[], FlowStore]) -> None:
    """Hold an adapter to the port. `open_store` opens the same, at first empty, store each time."""
    store = open_store()
    _an_empty_store_answers_nothing(store)
    _what_was_committed_is_loaded_again(store, open_store)
    _writing_twice_is_writing_once(store)
    _an_ended_run_is_no_longer_open(store)
    _an_ended_run_is_open_while_an_attempt_of_it_is(store)
    _a_taken_key_is_refused_whole(store)
    _an_earlier_owner_cannot_write(store, open_store())


_CODE = Code("digest", "module", "flow")


def _run(run: str, *, key: str = "") -> FlowRun:
    return FlowRun(RunId(run), "nightly", RunState.queued, _CODE, "env", Instant(1), {"day": 1}, key=key)


def _call(run: str, key: str, seq: int, state: CallState) -> StepCall:
    kind = CallKind.body if key == BODY else CallKind.step
    return StepCall(RunId(run), CallKey(key), seq, kind, key, state, Instant(1), deps=(CallKey("a#0"),))


def _changes(run: FlowRun, *calls: StepCall, attempts: Sequence[Attempt] = ()) -> Changes:
    return Changes(
        runs={run.id: run},
        calls={(call.run, call.key): call for call in calls},
        attempts={(attempt.run, attempt.call, attempt.n): attempt for attempt in attempts},
    )


def _an_empty_store_answers_nothing(store: FlowStore) -> None:
    assert store.load_open() == ()
    assert store.load(RunId("run_1")) is None
    assert store.run_by_key("monday") is None
    assert store.cached("digest") is None
    assert list(store.deployments()) == []


def _what_was_committed_is_loaded_again(store: FlowStore, open_store: Callable[[], FlowStore]) -> None:
    epoch = store.take_over("first", Instant(1))
    run = _run("run_1", key="monday")
    # Written out of order, so that the order read back is the store's doing.
    calls = (_call("run_1", "b#0", 2, CallState.blocked), _call("run_1", BODY, 0, CallState.running))
    live = Attempt(run.id, BODY, 2, Instant(5), worker="w", unit="u", started_at=Instant(6))
    ended = Attempt(run.id, BODY, 1, Instant(2), ended_at=Instant(4), exit=Exit(ExitKind.failed, "no", 1))
    changes = _changes(run, *calls, attempts=(live, ended))
    changes.events.append(RunEvent(run.id, Instant(1), "run", state="queued"))
    entry = CacheEntry("digest", "run_1/a#0", Stored("d", 3, b"\x00\xff!"), (), (), Instant(3))
    changes.cache[entry.key] = entry
    for name in ("weekly", "nightly"):
        changes.deployments[name] = DeployedFlow(name, _CODE, Instant(1), {"day": 1}, cron="0 3 * * *")
    store.commit(epoch, changes)
    for each in (store, open_store()):
        (found,) = each.load_open()
        assert found.run == run
        assert [call.key for call in found.calls] == [BODY, "b#0"], "calls come in the order they were made"
        assert set(found.calls) == set(calls)
        assert found.attempts == (live,), "only attempts that have not ended"
        assert each.load(run.id) == found
        assert each.run_by_key("monday") == run
        assert each.run_by_key("") is None
        assert each.cached("digest") == entry
        assert [deployment.flow for deployment in each.deployments()] == ["nightly", "weekly"]
        assert each.deployments()[0] == changes.deployments["nightly"]


def _writing_twice_is_writing_once(store: FlowStore) -> None:
    epoch = store.take_over("second", Instant(2))
    before = store.load(RunId("run_1"))
    assert before is not None
    changes = _changes(before.run, *before.calls, attempts=before.attempts)
    store.commit(epoch, changes)
    store.commit(epoch, changes)
    assert store.load(RunId("run_1")) == before
    store.commit(epoch, Changes())
    assert store.load_open() == (before,)


def _an_ended_run_is_no_longer_open(store: FlowStore) -> None:
    epoch = store.take_over("third", Instant(3))
    for name in ("run_3", "run_2"):
        store.commit(epoch, _changes(_run(name), _call(name, BODY, 0, CallState.ready)))
    assert [found.run.id for found in store.load_open()] == ["run_1", "run_2", "run_3"], "oldest first"
    run = replace(_run("run_2"), state=RunState.failed, ended_at=Instant(9))
    store.commit(epoch, _changes(run, _call("run_2", BODY, 0, CallState.failed)))
    assert [found.run.id for found in store.load_open()] == ["run_1", "run_3"]
    found = store.load(RunId("run_2"))
    assert found is not None
    assert found.run == run
    assert found.calls[0].state is CallState.failed


def _an_ended_run_is_open_while_an_attempt_of_it_is(store: FlowStore) -> None:
    """Else nobody would ever close what was being stopped when its owner died."""
    epoch = store.take_over("later", Instant(3))
    run = replace(_run("run_0"), state=RunState.cancelled, ended_at=Instant(9))
    attempt = Attempt(run.id, BODY, 1, Instant(5))
    store.commit(epoch, _changes(run, _call("run_0", BODY, 0, CallState.cancelled), attempts=(attempt,)))
    assert store.load_open()[0].run == run
    assert store.load_open()[0].attempts == (attempt,)
    ended = replace(attempt, ended_at=Instant(10), exit=Exit(ExitKind.cancelled))
    store.commit(epoch, Changes(attempts={(run.id, BODY, 1): ended}))
    assert [found.run.id for found in store.load_open()] == ["run_1", "run_3"]


def _a_taken_key_is_refused_whole(store: FlowStore) -> None:
    epoch = store.take_over("fourth", Instant(4))
    changes = _changes(_run("run_4", key="monday"))
    changes.runs["run_5"] = _run("run_5", key="tuesday")
    with raising(Conflict):
        store.commit(epoch, changes)
    assert store.load(RunId("run_4")) is None
    assert store.load(RunId("run_5")) is None, "a commit is all or nothing"
    assert store.run_by_key("tuesday") is None
    found = store.run_by_key("monday")
    assert found is not None
    assert found.id == "run_1"


def _an_earlier_owner_cannot_write(store: FlowStore, other: FlowStore) -> None:
    mine = store.take_over("fifth", Instant(5))
    theirs = other.take_over("sixth", Instant(5))
    assert theirs > mine, "epochs only grow"
    with raising(Fenced):
        store.commit(mine, _changes(_run("run_6")))
    assert store.load(RunId("run_6")) is None
    other.commit(theirs, _changes(_run("run_6")))
    assert store.load(RunId("run_6")) is not None
