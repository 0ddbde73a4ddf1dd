"""What all parts of the engine kit share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from fourfold.core.ports.engine import Engine, JobStatus, Launch, Phase, Resources
from fourfold.testing.engine.fake import Course, course_command

TAKES_COURSE = """
import json, signal, sys, time
course = json.loads(sys.argv[1])
if course["ignores_stop"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
block = bytearray(course["memory_bytes"])
sys.stdout.write(course["output"]); sys.stdout.flush()
time.sleep(course["duration_s"])
sys.exit(course["exit_code"])
"""


class EngineKitBase:
    """How the kit opens an engine, and waits."""

    patience_s = 20.0
    """How long a job of nothing may take to end."""
    most_output_bytes = 64 << 20
    """About so much of one job's output is kept by the engine that `open` opens; at least 16 MiB."""
    runs_commands = True
    """Whether it starts what it is given; the engine in memory does not."""
    gaps: ClassVar[Mapping[str, str]] = {}
    """Promises known to be broken: the test's name, and why. A gap that has closed fails its test."""

    def open(self) -> Engine:
        """A fresh engine; the test closes it."""
        raise NotImplementedError

    def open_in(self, folder: Path) -> Engine | None:
        """A fresh engine that keeps its files in a folder; `None` where it keeps none on this machine."""
        del folder
        return None

    def command(self, course: Course) -> tuple[str, ...]:
        """A command that takes this course on this engine."""
        return self.python(TAKES_COURSE, course_command(course)[1])

    def python(self, script: str, *arguments: str) -> tuple[str, ...]:
        """A command that runs a script of the standard library on this engine."""
        return (sys.executable, "-I", "-S", "-c", script, *arguments)

    def launch(self, key: str, course: Course | None = None, resources: Resources | None = None) -> Launch:
        """A launch that takes a course."""
        return Launch(key, self.command(course or Course()), resources=resources or Resources())

    def ended(self, engine: Engine, key: str) -> JobStatus:
        """Wait for a job's end."""
        status = engine.wait([key], self.patience_s)[key]
        assert status.phase is Phase.ended, f"{key} has not ended: {status}"
        return status

    def output(self, engine: Engine, key: str) -> bytes:
        """All that a job has printed so far, read piece by piece."""
        pieces, offset = b"", 0
        while True:
            chunk = engine.logs(key, offset)
            pieces += chunk.data
            if chunk.is_end or chunk.next_offset == offset:
                return pieces
            offset = chunk.next_offset

    def eventually(self, claim: Callable[[], object], what: str) -> None:
        """Wait until a claim about another process holds: there is no event to await."""
        deadline = time.monotonic() + self.patience_s
        while not claim():
            assert time.monotonic() < deadline, f"{what}: not within {self.patience_s:g} s"
            time.sleep(0.02)
