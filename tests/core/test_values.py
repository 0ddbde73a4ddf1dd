"""A changed value is what `dataclasses.replace` would have made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from fourfold.core.flows import BODY, CallKind, CallState, RunId, StepCall
from fourfold.core.times import Instant
from fourfold.core.values import replace

CALL = StepCall(RunId("run_1"), BODY, 0, CallKind.body, "nightly", CallState.ready, Instant(3))


def test_a_change_is_the_standard_librarys() -> None:
    for changes in ({}, {"state": CallState.running}, {"seq": 4, "reason": "why", "ended_at": Instant(9)}):
        made = replace(CALL, **changes)
        assert made == dataclasses.replace(CALL, **changes)
        assert hash(made.key) == hash(CALL.key)
    assert CALL.state is CallState.ready


def test_what_could_not_be_copied_by_its_slots_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Checked:
        low: int
        high: int

        def __post_init__(self) -> None:
            assert self.low <= self.high

    @dataclass(frozen=True)
    class Open:
        low: int
        high: int

    with pytest.raises(TypeError, match="checks itself"):
        replace(Checked(1, 2), low=3)
    with pytest.raises(TypeError, match="two slots"):
        replace(Open(1, 2), low=3)
