"""The rules of a flow run: one table of moves, fences, bounds. A machine tries all events in all orders."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fourfold.core.decide import flow as rules
from fourfold.core.decide.flow import Slice
from fourfold.core.decide.retry import MOST_LOSSES, Again
from fourfold.core.decide.transitions import TRANSITIONS, Move
from fourfold.core.flows import (
    BODY,
    Attempt,
    Backoff,
    CallKey,
    CallKind,
    CallState,
    Code,
    Failure,
    FlowRun,
    Policy,
    RunId,
    RunState,
    StepCall,
    Stored,
)
from fourfold.core.jobs import ExitKind
from fourfold.core.times import Instant, after

RUN = RunId("run_1")
RESULT = Stored("digest", 2, b"{}")
KINDS = (
    ExitKind.failed,
    ExitKind.failed,
    ExitKind.out_of_memory,
    ExitKind.over_time,
    ExitKind.worker_lost,
    ExitKind.preempted,
    ExitKind.cancelled,
)
numbers = st.integers(0, 30)


class FlowRules(RuleBasedStateMachine):
    """One run, driven as the loop drives it, with words that come late, twice, or from an old attempt."""

    @initialize(retries=st.integers(0, 2))
    def a_run_is_submitted(self, retries: int) -> None:
        self.now = Instant(1_000_000)
        self.retries = retries
        code = Code("digest", "module", "flow")
        self.run = FlowRun(RUN, "nightly", RunState.queued, code, "env", self.now)
        body = StepCall(RUN, BODY, 0, CallKind.body, "nightly", CallState.ready, self.now, ready_at=self.now)
        self.calls: dict[CallKey, StepCall] = {BODY: body}
        self.attempts: dict[CallKey, Attempt] = {}
        self.closed: dict[tuple[CallKey, int], Attempt] = {}
        self.queued: set[CallKey] = {BODY}
        self.wakes: dict[CallKey, Instant] = {}
        self.told: set[CallKey] = set()
        self.waiting: dict[CallKey, dict[CallKey, None]] = {}
        self.overs = 0
        self.misses = 0

    # As the loop does it

    def _slice(self, event: rules.Event) -> Slice:
        match event:
            case rules.CallMade(call, _) | rules.EffectDone(call, _):
                keys = [BODY, call.key, *call.deps]
            case rules.InputSettled(key, dep):
                keys = [key, dep]
            case rules.CancelAsked():
                keys = [key for key, call in self.calls.items() if call.state.is_open]
            case rules.ResumeAsked():
                keys = list(self.calls)
            case _:
                keys = [event.key]
        calls = {key: self.calls[key] for key in keys if key in self.calls}
        attempts = {key: self.attempts[key] for key in calls if key in self.attempts}
        return Slice(self.run, calls, attempts)

    def _apply(self, event: rules.Event) -> None:
        events = deque([event])
        while events:
            event = events.popleft()
            before = self._slice(event)
            state, commands = rules.decide(before, event, self.now)
            assert (state, commands) == rules.decide(before, event, self.now), "a rule has no memory"
            self._compare(before, state, event, commands)
            self.run = state.run
            self.calls.update(state.calls)
            for key, call in state.calls.items():
                was = before.calls.get(key)
                if call.state is CallState.blocked and (was is None or was.state is not CallState.blocked):
                    for dep in call.deps:
                        if not self.calls[dep].state.is_good:
                            self.waiting.setdefault(dep, {})[key] = None
            for key, attempt in state.attempts.items():
                if attempt.ended_at is None:
                    self.attempts[key] = attempt
                elif attempt is not before.attempts.get(key):
                    del self.attempts[key]
                    self.closed[key, attempt.n] = attempt
            for command in commands:
                events.extend(self._obey(command))

    def _obey(self, command: rules.Command) -> list[rules.Event]:
        match command:
            case rules.Queue(key):
                assert self.calls[key].state is CallState.ready
                self.queued.add(key)
            case rules.LookUp(key):
                self.misses += 1
                if self.misses % 2:
                    return [rules.CacheAnswer(key, "cache", reason="not in the cache")]
                return [rules.CacheAnswer(key, "cache", "run_0/a#0", RESULT, reason="same code")]
            case rules.Wake(key, at):
                assert self.calls[key].state is CallState.retry_wait
                assert at > self.now
                self.wakes[key] = at
            case rules.Tell(key):
                assert not self.calls[key].state.is_open, "only what has settled is told"
                self.told.add(key)
                return [rules.InputSettled(each, key) for each in self.waiting.pop(key, ())]
            case rules.Stop(key, n, reason):
                assert self.attempts[key].n == n
                assert reason
            case rules.Refuse(_, reason):
                assert reason
            case rules.RunOver():
                assert not self.run.state.is_open
                self.overs += 1
            case rules.Cancel(reason):
                return [rules.CancelAsked(reason)]
        return []

    def _compare(
        self, before: Slice, state: Slice, event: rules.Event, commands: tuple[rules.Command, ...]
    ) -> None:
        """No move that is not in the table; no attempt but by a lease; nothing that ended well changes."""
        for key, call in state.calls.items():
            old = before.calls.get(key)
            if old is None or call is old:
                continue
            if old.state is not call.state:
                moves = [move for move in Move if TRANSITIONS.get((old.state, move)) is call.state]
                assert moves, f"{old.state} became {call.state}"
                assert call.reason or call.state is CallState.succeeded, "a decision says why"
                if not old.state.is_open:
                    assert isinstance(event, rules.ResumeAsked)
                if call.state.is_live and not old.state.is_live:
                    assert isinstance(event, rules.Leased)
            if not isinstance(event, rules.ResumeAsked):
                assert old.state.is_open, f"{old.key} has {old.state}, and was changed"
            if old.state.is_good and old.kind is not CallKind.body:
                raise AssertionError(f"{old.key} had ended well")
            if isinstance(event, rules.EffectDone):
                assert call.attempt == event.body_attempt, "what the body did itself bears the body's fence"
            else:
                assert call.attempt == old.attempt + isinstance(event, rules.Leased), "leases move the fence"
        if not before.run.state.is_open and not isinstance(event, rules.ResumeAsked):
            assert state.run.state is before.run.state
        if isinstance(event, rules.Finished | rules.Failed | rules.Interrupted | rules.Began):
            old = before.calls[event.key]
            if event.n != old.attempt or not old.state.is_live:
                assert state.calls[event.key] is old, "only the present attempt's word counts"
                assert commands == (), "and nobody is told of it: the flow's body has done nothing wrong"

    # What can happen

    @rule(index=numbers, deps=st.lists(numbers, max_size=3), cache=st.booleans(), stale=st.booleans())
    def the_body_calls_a_step(self, index: int, deps: list[int], cache: bool, stale: bool) -> None:
        made = [call.key for call in self.calls.values() if call.kind is not CallKind.body]
        key = CallKey(f"step#{index}")
        if key in self.calls:
            known = self.calls[key]
            call, deps_of = known, known.deps
        else:
            deps_of = tuple(dict.fromkeys(made[dep % len(made)] for dep in deps)) if made else ()
            policy = Policy(retries=self.retries, backoff=Backoff(first_s=2.0, jitter=0), cache=cache)
            call = StepCall(
                RUN, key, 0, CallKind.step, "step", CallState.blocked, self.now,
                policy=policy, arguments=RESULT, deps=deps_of,
            )  # fmt: skip
        was, body = self.calls.get(key), self.calls[BODY]
        self._apply(rules.CallMade(call, body.attempt - stale))
        if stale or not body.state.is_live:
            assert self.calls.get(key) is was, "an old body makes no calls"

    @rule(index=numbers, fails=st.booleans())
    def the_body_does_something_itself(self, index: int, fails: bool) -> None:
        failure = Failure(ExitKind.failed, "ValueError", "no") if fails else None
        call = StepCall(
            RUN, CallKey(f"now#{index}"), 0, CallKind.effect, "now", CallState.ready, self.now,
            arguments=RESULT, result=None if fails else RESULT, failure=failure,
        )  # fmt: skip
        self._apply(rules.EffectDone(call, self.calls[BODY].attempt))

    @precondition(lambda self: self.queued)
    @rule(index=numbers)
    def a_worker_is_found(self, index: int) -> None:
        key = sorted(self.queued)[index % len(self.queued)]
        if key in self.attempts:
            return  # its earlier attempt has not ended yet: the loop waits for that
        self.queued.discard(key)
        if self.calls[key].state is CallState.ready:
            self._apply(rules.Leased(key, "worker", "unit", 0, "1 cpu free on unit"))

    @rule(index=numbers, back=st.integers(0, 2))
    def a_worker_says_that_it_began(self, index: int, back: int) -> None:
        self._word(index, back, lambda key, n: rules.Began(key, n))

    @rule(index=numbers, back=st.integers(0, 2), unit=st.sampled_from(["unit", "other"]))
    def a_worker_is_found_to_be_elsewhere(self, index: int, back: int, unit: str) -> None:
        self._word(index, back, lambda key, n: rules.Placed(key, n, unit))
        for call in self.calls.values():
            if call.state is CallState.running and call.reason.startswith("on "):
                assert call.reason == f"on {self.attempts[call.key].unit}"

    @rule(index=numbers, back=st.sampled_from([0, 0, 0, 1, 2]))
    def a_worker_finishes(self, index: int, back: int) -> None:
        self._word(index, back, lambda key, n: rules.Finished(key, n, RESULT))

    @rule(
        index=numbers, back=st.sampled_from([0, 0, 0, 1]), kind=st.sampled_from(KINDS), for_ever=st.booleans()
    )
    def an_attempt_fails(self, index: int, back: int, kind: ExitKind, for_ever: bool) -> None:
        failure = Failure(kind, "", "it broke", is_permanent=for_ever)
        self._word(index, back, lambda key, n: rules.Failed(key, n, failure))

    @rule(index=numbers, back=st.integers(0, 1))
    def the_loop_was_restarted(self, index: int, back: int) -> None:
        self._word(index, back, lambda key, n: rules.Interrupted(key, n, "the loop was restarted"))

    def _word(self, index: int, back: int, event: object) -> None:
        """A word about an attempt: the open one, or one before, or one that was never made."""
        keys = sorted(self.attempts) or sorted(self.calls)
        key = keys[index % len(keys)]
        n = self.attempts[key].n if key in self.attempts else self.calls[key].attempt
        self._apply(event(key, n - back))  # type: ignore[operator]

    @precondition(lambda self: self.wakes)
    @rule(index=numbers)
    def a_wait_is_over(self, index: int) -> None:
        key = sorted(self.wakes)[index % len(self.wakes)]
        self.now = max(self.now, self.wakes.pop(key))
        self._apply(rules.Due(key))

    @rule(index=numbers)
    def no_unit_can_ever_give_it(self, index: int) -> None:
        ready = sorted(key for key in self.queued if key != BODY)
        if ready:
            self._apply(rules.Unmet(ready[index % len(ready)], "asks for 99 cpu"))

    @rule(is_sure=st.integers(0, 5))
    def somebody_cancels(self, is_sure: int) -> None:
        if is_sure == 0:
            self._apply(rules.CancelAsked("changed my mind"))

    @rule(is_sure=st.integers(0, 2))
    def somebody_resumes(self, is_sure: int) -> None:
        if is_sure == 0:
            self._apply(rules.ResumeAsked())

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.now = after(self.now, seconds)

    # What always holds

    @invariant()
    def an_ended_run_has_no_open_call(self) -> None:
        if not self.run.state.is_open:
            assert [call.key for call in self.calls.values() if call.state.is_open] == []
            assert self.run.ended_at is not None

    @invariant()
    def a_live_call_has_its_one_open_attempt(self) -> None:
        for call in self.calls.values():
            if call.state.is_live:
                assert self.attempts[call.key].n == call.attempt
            assert (
                call.attempt
                <= len([key for key, _ in self.closed if key == call.key]) + (call.key in self.attempts)
                or call.kind is CallKind.effect
            )

    @invariant()
    def tries_and_losses_are_bounded(self) -> None:
        for call in self.calls.values():
            assert call.tries <= call.policy.retries + 1
            assert call.losses <= MOST_LOSSES

    @invariant()
    def nothing_runs_before_its_inputs_are_there(self) -> None:
        for call in self.calls.values():
            inputs = [self.calls[dep] for dep in call.deps]
            if call.attempt and call.state is not CallState.blocked:
                assert all(dep.state.is_good for dep in inputs) or not call.state.is_live
            if call.state is CallState.blocked:
                assert call.deps_left == sum(not dep.state.is_good for dep in inputs)
                assert all(dep.state.is_open for dep in inputs if not dep.state.is_good)

    @invariant()
    def every_settled_call_was_told(self) -> None:
        if self.run.state.is_open:
            for call in self.calls.values():
                if not call.state.is_open and call.kind is not CallKind.body:
                    assert call.key in self.told

    @invariant()
    def what_is_ready_waits_for_a_worker_and_what_waits_will_be_woken(self) -> None:
        for call in self.calls.values():
            if call.state is CallState.ready and call.kind is not CallKind.effect:
                assert call.key in self.queued
            if call.state is CallState.retry_wait:
                assert call.key in self.wakes


TestFlowRules = FlowRules.TestCase
TestFlowRules.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


class Deeper(FlowRules):
    """The same, for longer."""


TestDeeper = pytest.mark.slow(Deeper.TestCase)
TestDeeper.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


# The table itself


def test_the_table_leads_from_every_open_state_to_an_end() -> None:
    for state in CallState:
        if state.is_open:
            assert TRANSITIONS[state, Move.cancel] is CallState.cancelled


def test_only_a_resume_leads_out_of_an_end() -> None:
    out = {move for (state, move) in TRANSITIONS if not state.is_open}
    assert out == {Move.resume, Move.resume_blocked}


def test_a_worker_is_busy_only_after_a_lease() -> None:
    into = {(state, move) for (state, move), end in TRANSITIONS.items() if end.is_live and not state.is_live}
    assert into == {(CallState.ready, Move.lease)}


def test_a_move_that_is_not_in_the_table_cannot_be_made() -> None:
    call = StepCall(RUN, BODY, 0, CallKind.body, "nightly", CallState.succeeded, Instant(0))
    with pytest.raises(KeyError):
        rules._move(call, Move.start, "")
    lease = rules.Leased(BODY, "worker", "unit", 0, "free")
    run = FlowRun(RUN, "nightly", RunState.running, Code("d", "m", "f"), "env", Instant(0))
    ready = replace(call, state=CallState.ready)
    twice = Slice(run, {BODY: ready}, {BODY: Attempt(RUN, BODY, 1, Instant(0))})
    with pytest.raises(AssertionError, match="one live attempt per call"):
        rules.decide(twice, lease, Instant(0))


# The machine notices


def _any_attempt_counts(state: Slice, key: CallKey, n: int, *rest: Any) -> tuple[Slice, bool]:
    state, _ = _END_ATTEMPT(state, key, n, *rest)
    return state, state.calls[key].state.is_live


def _tries_for_ever(call: StepCall, failure: Failure, now: Instant) -> Again:
    return Again(now, "once more", uses_try=True)


def _cancels_only_what_runs(state: Slice, why: str, now: Instant) -> Any:
    live = {key: call for key, call in state.calls.items() if call.state.is_live}
    after_it, commands = _CANCEL(replace(state, calls=live), why, now)
    return replace(after_it, calls={**state.calls, **after_it.calls}), commands


_END_ATTEMPT, _CANCEL = rules._end_attempt, rules._cancel


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("_end_attempt", _any_attempt_counts),
        ("after_failure", _tries_for_ever),
        ("_cancel", _cancels_only_what_runs),
    ],
)
def test_a_broken_rule_is_noticed(name: str, broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, name, broken)
    hunt = settings(
        max_examples=200, stateful_step_count=30, deadline=None, phases=[Phase.generate], derandomize=True
    )
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(FlowRules, settings=hunt)
