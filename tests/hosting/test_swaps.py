"""A version takes over only when it is warm, and nobody is stopped before."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fourfold.core.decide import swap as swaps
from fourfold.core.decide.swap import (
    Asked,
    Drain,
    Drained,
    Ended,
    Loaded,
    Route,
    Start,
    Stop,
    Swap,
    Tick,
    Unasked,
    Warm,
    Warmed,
    decide,
    health,
    next_due,
)
from fourfold.core.hosting import Duty, Health, Phase
from fourfold.core.times import Instant, after

T0 = Instant(0)


def _serve(swap: Swap, id_: str, now: Instant = T0, *, duty: Duty = Duty.live) -> Swap:
    swap, commands = decide(swap, Asked(id_, duty), now)
    (start,) = (c for c in commands if isinstance(c, Start) and c.id == id_)
    swap, _ = decide(swap, Loaded(id_, start.generation), now)
    swap, _ = decide(swap, Warmed(id_, start.generation), now)
    return swap


def test_the_new_is_warm_before_the_old_is_drained_and_drained_before_it_is_stopped() -> None:
    swap = _serve(Swap(), "old")
    swap, commands = decide(swap, Asked("new", Duty.live), T0)
    assert [type(c) for c in commands] == [Start]
    swap, commands = decide(swap, Loaded("new", 1), T0)
    assert [type(c) for c in commands] == [Warm]
    assert swap.serving(Duty.live).id == "old"  # type: ignore[union-attr]
    swap, commands = decide(swap, Warmed("new", 1), T0)
    assert [(type(c), c.id) for c in commands] == [(Route, "new"), (Drain, "old")]
    swap, commands = decide(swap, Drained("old"), T0)
    assert [(type(c), c.id) for c in commands] == [(Stop, "old")]


def test_a_version_that_does_not_get_warm_leaves_the_old_one_live() -> None:
    swap = _serve(Swap(), "old")
    swap, _ = decide(swap, Asked("new", Duty.live), T0)
    swap, commands = decide(swap, Ended("new", 1, "its example failed"), T0)
    assert [(type(c), c.id) for c in commands] == [(Stop, "new")]
    assert swap.slot("new").phase is Phase.failed  # type: ignore[union-attr]
    assert health(swap, T0)[0] is Health.ready


def test_a_second_deploy_at_once_supersedes_the_first_and_spares_who_serves() -> None:
    swap = _serve(Swap(), "old")
    swap, _ = decide(swap, Asked("a", Duty.live), T0)
    swap, commands = decide(swap, Asked("b", Duty.live), T0)
    assert [(type(c), c.id) for c in commands] == [(Stop, "a"), (Start, "b")]
    assert "superseded by b" in swap.slot("a").reason  # type: ignore[union-attr]
    assert swap.serving(Duty.live).id == "old"  # type: ignore[union-attr]


def test_a_dead_worker_is_started_again_with_growing_pauses_and_called_a_crash_loop() -> None:
    swap, now, pauses = _serve(Swap(), "a"), T0, []
    for generation in range(1, 9):
        swap, _ = decide(swap, Ended("a", generation, "killed"), now)
        due = next_due(swap)
        assert due is not None
        pauses.append((due - now) / 1e6)
        now = due
        swap, commands = decide(swap, Tick(), now)
        assert commands == (Start("a", generation + 1, "restarted after: killed"),)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]
    assert health(swap, now)[0] is Health.crash_looping
    swap, _ = decide(swap, Loaded("a", 9), now)
    swap, _ = decide(swap, Warmed("a", 9), now)
    assert health(swap, now)[0] is Health.crash_looping  # one start does not prove it well
    assert health(swap, after(now, 61))[0] is Health.ready


def test_a_late_word_from_a_dead_process_changes_nothing() -> None:
    swap = _serve(Swap(), "a")
    swap, _ = decide(swap, Ended("a", 1, "killed"), T0)
    swap, _ = decide(swap, Tick(), after(T0, 0.1))
    same, commands = decide(swap, Warmed("a", 1), after(T0, 0.1))
    assert (same, commands) == (swap, ())
    same, commands = decide(swap, Ended("a", 1, "killed"), after(T0, 0.1))
    assert (same, commands) == (swap, ())


def test_a_shadow_and_the_live_version_do_not_replace_each_other() -> None:
    swap = _serve(_serve(Swap(), "live"), "shadow", duty=Duty.shadow)
    assert {slot.phase for slot in swap.slots} == {Phase.serving}
    swap, commands = decide(swap, Unasked("shadow", "enough seen"), T0)
    assert [type(c) for c in commands] == [Route, Drain]
    assert swap.serving(Duty.live).id == "live"  # type: ignore[union-attr]


def test_what_has_drained_and_stopped_has_no_duty_any_more() -> None:
    swap = _serve(Swap(), "a")
    swap, _ = decide(swap, Unasked("a", "stopped by ada"), T0)
    swap, _ = decide(swap, Drained("a"), T0)
    assert swap.serving(Duty.live) is None
    assert health(swap, T0)[0] is Health.stopped


class Endpoints(RuleBasedStateMachine):
    """An endpoint under any order of deploys, deaths, delays and stops."""

    @initialize()
    def begin(self) -> None:
        self.swap, self.now, self.count = Swap(), T0, 0
        self.routed = ""
        self.running: set[tuple[str, int]] = set()
        self.ever_live = False
        self.was_ended = False

    def do(self, event: swaps.Event) -> None:
        before = self.swap.serving(Duty.live)
        self.swap, commands = decide(self.swap, event, self.now)
        for command in commands:
            match command:
                case Start():
                    assert not any(id_ == command.id for id_, _ in self.running)
                    self.running.add((command.id, command.generation))
                case Stop():
                    self.running.discard((command.id, command.generation))
                    assert command.reason
                case Route():
                    self.routed = command.id
                    slot = self.swap.slot(command.id)
                    assert command.id == "" or (slot is not None and slot.phase is Phase.serving)
                case _:
                    pass
        after_ = self.swap.serving(Duty.live)
        if before is not None and not isinstance(event, Unasked):
            assert after_ is not None  # what serves is replaced, never just ended

    def draw_slot(self, data: st.DataObject) -> swaps.Slot:
        return data.draw(st.sampled_from(self.swap.slots))

    @rule()
    def deploy(self) -> None:
        self.count += 1
        self.do(Asked(f"d{self.count}", Duty.live))

    @precondition(lambda self: self.swap.slots)
    @rule(data=st.data(), kind=st.sampled_from(["loaded", "warmed", "ended"]), late=st.booleans())
    def hear(self, data: st.DataObject, kind: str, late: bool) -> None:
        slot = self.draw_slot(data)
        generation = slot.generation - 1 if late else slot.generation
        match kind:
            case "loaded":
                self.do(Loaded(slot.id, generation))
            case "warmed":
                self.do(Warmed(slot.id, generation))
            case _:
                self.do(Ended(slot.id, generation, "killed"))

    @precondition(lambda self: self.swap.slots)
    @rule(data=st.data())
    def drained(self, data: st.DataObject) -> None:
        self.do(Drained(self.draw_slot(data).id))

    @precondition(lambda self: self.swap.slots)
    @rule(data=st.data())
    def unask(self, data: st.DataObject) -> None:
        self.do(Unasked(self.draw_slot(data).id, "stopped"))

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds: float) -> None:
        self.now = after(self.now, seconds)
        self.do(Tick())

    @invariant()
    def at_most_one_has_the_duty(self) -> None:
        holders = [
            slot
            for slot in self.swap.slots
            if slot.has_served and not slot.phase.is_over and slot.phase is not Phase.draining
        ]
        assert len(holders) <= 1
        if holders:
            assert self.routed == holders[0].id

    @invariant()
    def nothing_runs_that_nobody_knows(self) -> None:
        known = {(slot.id, slot.generation) for slot in self.swap.slots if not slot.phase.is_over}
        assert self.running <= known

    @invariant()
    def patience_ends(self) -> None:
        for slot in self.swap.slots:
            if slot.phase not in {Phase.serving, Phase.stopped, Phase.failed}:
                assert slot.due_at is not None
            assert slot.reason


TestEndpoints = Endpoints.TestCase
TestEndpoints.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
