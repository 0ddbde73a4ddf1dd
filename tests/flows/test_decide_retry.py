"""When a failed attempt is tried again."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fourfold.core.decide.retry import MOST_LOSSES, Again, GiveUp, after_failure, backoff_s
from fourfold.core.flows import Backoff, CallKey, CallKind, CallState, Failure, Policy, RunId, StepCall
from fourfold.core.jobs import ExitKind
from fourfold.core.times import Instant, seconds_between

pytestmark = pytest.mark.property

NOW = Instant(1_000_000_000)
OWN_FAULTS = (ExitKind.failed, ExitKind.out_of_memory, ExitKind.over_time)

backoffs = st.builds(
    Backoff,
    first_s=st.sampled_from([0.0, 0.01, 1.0, 77.7]),
    most_s=st.floats(0, 1000),
    jitter=st.sampled_from([0.0, 0.2, 1.0]),
)


def call(*, tries: int = 0, losses: int = 0, retries: int = 0, backoff: Backoff | None = None) -> StepCall:
    policy = Policy(retries=retries, backoff=backoff or Backoff())
    return StepCall(
        RunId("run"), CallKey("a#0"), 1, CallKind.step, "a", CallState.running, Instant(0),
        policy=policy, tries=tries, losses=losses,
    )  # fmt: skip


def failure(kind: ExitKind, *, is_permanent: bool = False) -> Failure:
    return Failure(kind, "ValueError", "no such column", is_permanent=is_permanent)


@given(kind=st.sampled_from(OWN_FAULTS), retries=st.integers(0, 20), backoff=backoffs)
def test_a_step_that_always_fails_is_tried_once_more_than_its_retries(
    kind: ExitKind, retries: int, backoff: Backoff
) -> None:
    tries = 0
    while isinstance(
        answer := after_failure(call(tries=tries, retries=retries, backoff=backoff), failure(kind), NOW),
        Again,
    ):
        assert answer.uses_try
        assert not answer.is_loss
        assert answer.at >= NOW
        assert "no such column" in answer.reason
        tries += 1
        assert tries <= retries
    assert tries == retries
    assert "no such column" in answer.reason


@given(kind=st.sampled_from(OWN_FAULTS), retries=st.integers(0, 20), tries=st.integers(0, 20))
def test_what_cannot_get_better_is_not_tried_again(kind: ExitKind, retries: int, tries: int) -> None:
    answer = after_failure(call(tries=tries, retries=retries), failure(kind, is_permanent=True), NOW)
    assert isinstance(answer, GiveUp)
    assert "cannot help" in answer.reason


@given(retries=st.integers(0, 5), tries=st.integers(0, 5), losses=st.integers(0, MOST_LOSSES - 1))
def test_a_lost_worker_uses_up_no_try_until_it_was_lost_too_often(
    retries: int, tries: int, losses: int
) -> None:
    answer = after_failure(
        call(tries=tries, retries=retries, losses=losses), failure(ExitKind.worker_lost), NOW
    )
    if losses + 1 < MOST_LOSSES:
        assert answer == Again(NOW, answer.reason, uses_try=False, is_loss=True)
    else:
        assert isinstance(answer, GiveUp)
        assert f"{MOST_LOSSES} times" in answer.reason


def test_a_pre_empted_attempt_starts_again_at_once_and_costs_nothing() -> None:
    answer = after_failure(call(), failure(ExitKind.preempted), NOW)
    assert answer == Again(NOW, answer.reason, uses_try=False, is_loss=False)


def test_a_cancelled_attempt_is_not_tried_again() -> None:
    assert isinstance(after_failure(call(retries=5), failure(ExitKind.cancelled), NOW), GiveUp)


def test_what_ended_well_is_no_failure() -> None:
    with pytest.raises(AssertionError):
        after_failure(call(), failure(ExitKind.ok), NOW)


@given(backoff=backoffs, tries=st.integers(1, 10_000), seed=st.text(max_size=5))
def test_a_wait_stays_within_its_jitter_of_the_doubled_and_bounded_one(
    backoff: Backoff, tries: int, seed: str
) -> None:
    plain = min(backoff.first_s * 2.0 ** min(tries - 1, 1000), backoff.most_s)
    wait_s = backoff_s(backoff, tries, seed=seed)
    assert plain * (1 - backoff.jitter) <= wait_s <= plain * (1 + backoff.jitter)
    assert wait_s == backoff_s(backoff, tries, seed=seed), "a loop that is restarted waits as long"


@given(tries=st.integers(1, 8))
def test_waits_of_different_calls_differ(tries: int) -> None:
    backoff = Backoff(first_s=1.0, jitter=0.2)
    waits = {backoff_s(backoff, tries, seed=f"run/{index}") for index in range(20)}
    assert len(waits) > 15


@given(backoff=backoffs)
def test_the_next_try_is_when_the_words_say(backoff: Backoff) -> None:
    answer = after_failure(call(retries=3, backoff=backoff), failure(ExitKind.failed), NOW)
    assert isinstance(answer, Again)
    wait_s = backoff_s(backoff, 1, seed="run/a#0")
    assume(wait_s < 1e9)
    assert abs(seconds_between(NOW, answer.at) - wait_s) <= 1e-6
    assert answer.reason.startswith("try 1 of 4 failed")
