"""The engine in memory keeps the port's promises too."""

from __future__ import annotations

from fourfold.testing.clock import MovableClock
from fourfold.testing.engine import Course, EngineKit, FakeEngine, course_command


class TestFakeEngineKeepsTheKit(EngineKit):
    runs_commands = False

    def open(self) -> FakeEngine:
        clock = MovableClock()
        return FakeEngine(clock, move=clock.set)

    def command(self, course: Course) -> tuple[str, ...]:
        return course_command(course)
