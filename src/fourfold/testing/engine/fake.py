"""An engine in memory on an invented clock.

It starts nothing: a job's course (how long, what it prints, how it ends) is told beforehand, either
in its command (`course_command`) or by a function given to the fake, and time is whatever its clock says.
So a loop can be driven through years of jobs in seconds, and through every fault twice the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from fourfold.core.decide.match import check_abilities, match, refusal
from fourfold.core.errors import Unavailable
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import (
    Capabilities,
    Exit,
    ExitKind,
    JobStatus,
    Launch,
    LogChunk,
    Offer,
    Phase,
    Resources,
    Usage,
)
from fourfold.core.times import Instant, after, seconds_between


@dataclass(frozen=True, slots=True)
class Course:
    """What a job does when nobody disturbs it."""

    duration_s: float = 0.0
    exit_code: int = 0
    output: str = ""
    memory_bytes: int = 0
    cpu_s: float = 0.0
    ignores_stop: bool = False
    """Whether it has to be ended by force."""


def course_command(course: Course) -> tuple[str, ...]:
    """A command that the fake understands."""
    fields = {name: getattr(course, name) for name in Course.__slots__}
    return ("course", json.dumps(fields))


def course_of(launch: Launch) -> Course:
    """The course that a launch's command tells; any other command does nothing and ends well."""
    return Course(**json.loads(launch.argv[1])) if launch.argv[:1] == ("course",) else Course()


@dataclass(slots=True)
class _Job:
    launch: Launch
    course: Course
    started_at: Instant
    ends_at: Instant
    exit: Exit


class FakeEngine:
    """An engine in memory: `clock` is its time, `course` says what each launch does.

    Faults for the simulator: `lose` (a job's machine dies), `crash` (all of them do), `fail_next` (the next
    call raises `Unavailable`, before it has an effect or after).
    """

    def __init__(
        self,
        clock: Clock,
        *,
        offers: tuple[Offer, ...] = (Offer("fake", 4, 16 << 30),),
        course: Callable[[Launch], Course] = course_of,
        move: Callable[[Instant], None] | None = None,
    ) -> None:
        """`move` moves the clock, if anything may: `wait` then jumps to the next end instead of returning."""
        self._clock = clock
        self._offers = offers
        self._course = course
        self._move = move
        self._jobs: dict[str, _Job] = {}
        self._failing: dict[str, Literal["before", "after"]] = {}

    def __repr__(self) -> str:
        return f"<FakeEngine: {len(self._running())} running, {len(self._jobs)} known>"

    # For the simulator.

    @property
    def launched(self) -> tuple[str, ...]:
        """Every key that ever started, in order."""
        return tuple(self._jobs)

    def next_change_at(self) -> Instant | None:
        """When the next job ends, if any runs."""
        return min((job.ends_at for job in self._running()), default=None)

    def lose(self, key: str, reason: str = "the machine under it died") -> None:
        """End a running job as lost."""
        job = self._jobs.get(key)
        if job is not None and job in self._running():
            self._end(job, self._clock.now(), Exit(ExitKind.worker_lost, reason))

    def crash(self) -> None:
        """End every running job as lost."""
        for job in self._running():
            self.lose(job.launch.key, "the engine crashed")

    def fail_next(self, method: str, *, effect: Literal["before", "after"] = "before") -> None:
        """Let the next call of `method` raise `Unavailable`: before it has its effect, or after."""
        self._failing[method] = effect

    # The port.

    def capabilities(self) -> Capabilities:
        return Capabilities(
            services=True,
            memory_limit="enforced",
            time_limit=True,
            gpus=True,
            survives_control_restart=True,
            listens=True,
            nodes=True,
            nodes_share_units=True,
            images=True,
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        return match(request, self._offers)

    def submit(self, launch: Launch) -> None:
        check_abilities(launch, self.capabilities(), engine="fake")
        if not self.offers(launch.resources):
            raise refusal(launch.resources, self._offers, who=f"job '{launch.key}'")
        self._fail("submit", "before")
        if launch.key not in self._jobs:
            self._jobs[launch.key] = self._planned(launch)
        self._fail("submit", "after")

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        self._fail("status", "before")
        return {key: self._status(key) for key in keys}

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        if self._move is not None:
            now = self._clock.now()
            ends = [self._jobs[key].ends_at if key in self._jobs else now for key in keys]
            self._move(max(now, min([after(now, timeout_s), *ends])))
        return self.status(keys)

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        job = self._jobs.get(key)
        written = b"" if job is None else job.course.output.encode()
        data = written[offset : offset + limit_bytes]
        next_offset = offset + len(data)
        has_ended = job is None or self._clock.now() >= job.ends_at
        return LogChunk(data, next_offset, has_ended and next_offset >= len(written))

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        self._fail("stop", "before")
        job = self._jobs.get(key)
        if job is not None and job in self._running():
            at = after(self._clock.now(), grace_s if job.course.ignores_stop else 0.0)
            if at < job.ends_at:
                self._end(job, at, Exit(ExitKind.cancelled, "stopped"))
        self._fail("stop", "after")

    def usage(self, key: str) -> Usage:
        job = self._jobs.get(key)
        if job is None:
            return Usage()
        wall_s = max(0.0, seconds_between(job.started_at, min(self._clock.now(), job.ends_at)))
        cpu_s = min(job.course.cpu_s, wall_s)
        return Usage(wall_s, cpu_s, job.course.memory_bytes, 0, len(job.course.output))

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        strays = sorted(job.launch.key for job in self._running() if job.launch.key not in keep)
        for key in strays:
            self.stop(key, 0)
        return tuple(strays)

    def close(self) -> None:
        """Its jobs survive their control, so nothing ends."""

    # How.

    def _planned(self, launch: Launch) -> _Job:
        course, now = self._course(launch), self._clock.now()
        limit_s, limit_bytes = launch.resources.time_limit_s, launch.resources.memory_bytes.high
        duration_s = course.duration_s
        code = course.exit_code
        exit_ = Exit(
            ExitKind.ok if code == 0 else ExitKind.failed, "" if code == 0 else f"exit status {code}", code
        )
        if limit_bytes is not None and course.memory_bytes > limit_bytes:
            duration_s, exit_ = 0.0, Exit(ExitKind.out_of_memory, "over its memory limit")
        elif limit_s is not None and duration_s > limit_s:
            duration_s, exit_ = limit_s, Exit(ExitKind.over_time, f"ran longer than {limit_s:g} s")
        return _Job(launch, course, now, after(now, duration_s), exit_)

    def _status(self, key: str) -> JobStatus:
        job = self._jobs.get(key)
        if job is None:
            return JobStatus(key, Phase.unknown)
        unit = self._offers[0].unit
        if self._clock.now() < job.ends_at:
            address = f"fake:{1024 + list(self._jobs).index(key)}" if job.launch.listens else ""
            return JobStatus(key, Phase.running, unit, job.started_at, address=address)
        return JobStatus(key, Phase.ended, unit, job.started_at, job.ends_at, job.exit)

    def _running(self) -> list[_Job]:
        now = self._clock.now()
        return [job for job in self._jobs.values() if now < job.ends_at]

    def _end(self, job: _Job, at: Instant, exit_: Exit) -> None:
        job.ends_at, job.exit = at, exit_

    def _fail(self, method: str, effect: Literal["before", "after"]) -> None:
        if self._failing.get(method) == effect:
            del self._failing[method]
            raise Unavailable(f"the engine's answer to '{method}' was lost")
