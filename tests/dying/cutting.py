"""A case, cut at its steps: what must hold whatever step it was."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.dying import world
from tests.dying.case import Case, Told
from tests.dying.child import DONE, FULL, attempt
from tests.dying.kernel import Fate, Step, Watch, serve
from tests.dying.line import Line

from fourfold import wiring
from fourfold.core.errors import Refused

PATIENCE_S = 300.0
ALL = os.environ.get("FOURFOLD_DYING") == "all"
"""Whether every step is tried, and not some of them."""
MOST_SAMPLED = 4
LIBRARIES = {
    *(
        "fourfold",
        "alembic",
        "blake3",
        "deltalake",
        "duckdb",
        "fastcdc",
        "lmdb",
        "msgspec",
        "numpy",
        "pandas",
    ),
    *("polars", "pyarrow", "pyiceberg", "sqlalchemy", "sqlglot", "datasketches"),
}


ROOMS = [f"tests.dying.{room}" for room in ("tables", "folders", "bundles", "moving", "spilling")]


def cases(room: str) -> dict[str, Case]:
    """The cases of one room."""
    found: dict[str, Case] = importlib.import_module(room).CASES
    return found


class Server:
    """A process that has imported the package, and forks a child for each case and step."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.dying.child", str(theirs.fileno())]
        here = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], cwd=here, stdin=subprocess.PIPE, text=True
        )
        theirs.close()
        # What this process has come to need, by making the base, a child will need too.
        used = (name for name in sys.modules if name.partition(".")[0] in LIBRARIES)
        assert self._process.stdin is not None
        self._process.stdin.write("\n".join([*used, *ROOMS]))
        self._process.stdin.close()

    def close(self) -> None:
        self._socket.close()
        self._process.wait(timeout=PATIENCE_S)

    def run(
        self, name: str, place: Path, *, fate: Fate, at: int = 0, is_torn: bool = False, goes_on: bool = False
    ) -> Ran:
        """Let a child do the case, under this fate from this step on."""
        ours, theirs = socket.socketpair()
        with closing(ours):
            module = next(room for room in ROOMS if name in cases(room))
            request = "\0".join([module, name, str(place), str(goes_on)])
            socket.send_fds(self._socket, [request.encode()], [theirs.fileno()])
            theirs.close()
            process = int(self._socket.recv(100))
            _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
            watch = Watch(process, listener, (place,), fate, at, is_torn=is_torn)
            ran, line = Ran(watch), Line(ours)
            try:
                if not serve(
                    watch, ours.fileno(), lambda: ran.hear(line, goes_on=goes_on), timeout_s=PATIENCE_S
                ):
                    os.kill(process, signal.SIGKILL)
                    raise AssertionError(f"{name} at step {at}: nothing happened for {PATIENCE_S:g} s")
            finally:
                os.close(listener)
        return ran


@dataclass
class Ran:
    """What a child did until it died or was done."""

    watch: Watch
    heard: list[Any] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """What came of the verb; `killed` where it did not return."""
        return self.heard[0] if self.heard else "killed"

    def hear(self, line: Line, *, goes_on: bool) -> bool:
        try:
            said = line.receive()
        except EOFError:
            return False
        if isinstance(said, Exception):
            raise said
        if said == "ready":
            self.watch.begin()
            return True
        if not self.heard:
            self.steps = self.watch.steps or []
            self.watch.end()
        self.heard.append(said)
        if not goes_on:  # it was told that it is done, and is killed before it can tidy
            with contextlib.suppress(ProcessLookupError):  # it had nothing to tidy
                os.kill(self.watch.process, signal.SIGKILL)
            return False
        if len(self.heard) == 1:
            self.watch.fate = Fate.lives
            line.send("go on")
        return len(self.heard) < 2


@dataclass
class Undisturbed:
    """What a case comes to when nothing happens, done once and done twice."""

    before: Told
    after: Told
    twice: Told
    outcome: str
    again: str
    files: list[str]
    files_twice: list[str]
    steps: list[Step]


class Cutting:
    """One case on its way: a folder that is made anew from its base for every step."""

    def __init__(self, server: Server, base: Path, folder: Path, name: str, case: Case) -> None:
        self.server, self.name, self.case = server, name, case
        self.place, self._base = folder / "world", folder / "base"
        shutil.copytree(base, self.place)
        if case.needs_project:
            with closing(world.opened(self.place)) as project:
                case.prepare(project)
        else:
            case.prepare(self.place)
        shutil.copytree(self.place, self._base)
        self.undisturbed = self._undisturbed()

    def _undisturbed(self) -> Undisturbed:
        before = self.told()
        self.anew()
        once = self.server.run(self.name, self.place, fate=Fate.lives)
        after = self.told()
        assert self.case.only_reads or before != after, "what was acknowledged is not there"
        files = world.aged(self.case, self.place)
        self.anew()
        self.server.run(self.name, self.place, fate=Fate.lives)
        again = self.server.run(self.name, self.place, fate=Fate.lives)
        twice = self.told()
        return Undisturbed(
            self.said(before),
            self.said(after),
            self.said(twice),
            once.outcome,
            again.outcome,
            files,
            world.aged(self.case, self.place),
            once.steps,
        )

    def said(self, told: Told) -> Told:
        """Without the parts that may be left unsaid."""
        return {name: part for name, part in told.items() if name not in self.case.unsaid}

    def anew(self) -> None:
        shutil.rmtree(self.place)
        shutil.copytree(self._base, self.place)

    @contextmanager
    def opened(self) -> Iterator[wiring.Project]:
        here = os.getcwd()
        os.chdir(self.place)
        try:
            with closing(world.opened(self.place)) as project:
                yield project
        finally:
            os.chdir(here)

    def told(self) -> Told:
        try:
            with self.opened() as project:
                return world.told(self.case, project)
        except Refused as error:
            return {"closed": str(error)}

    def check(self, fate: Fate, at: int) -> None:
        """Cut it there, and see."""
        self.anew()
        calm = self.undisturbed
        goes_on = fate is Fate.full and self.case.needs_project
        ran = self.server.run(self.name, self.place, fate=fate, at=at, is_torn=at % 2 == 1, goes_on=goes_on)
        if fate is Fate.full:
            is_said = ran.outcome in (FULL, calm.outcome) or ran.outcome.startswith(self.case.also_says)
            assert is_said, ran.outcome
            assert not list((self.place / "tmp").iterdir()), "a temporary folder is left"
        if not self.case.needs_project:
            found = self.told()
            again = self.server.run(self.name, self.place, fate=Fate.lives).outcome
            last = self.told()
        elif goes_on:
            found, again, last = ran.heard[1]
            expect(self.said(self.told()), self.said(last), "another process sees")
        else:
            with self.opened() as project:
                found = world.told(self.case, project)
                again = attempt(self.case, self.place, project)
                last = world.told(self.case, project)
        found, last = self.said(found), self.said(last)
        if ran.outcome == calm.outcome:
            expect(found, calm.after, "it was acknowledged")
        is_done = self.stands(found)
        assert again == (calm.again if is_done else calm.outcome), again
        expect(last, calm.twice if is_done else calm.after, f"after it was done again (was done: {is_done})")
        files = world.aged(self.case, self.place)
        wanted = calm.files_twice if is_done else calm.files
        left, gone = Counter(files) - Counter(wanted), Counter(wanted) - Counter(files)
        if not self.case.leaves_files:
            assert not left, f"files are left: {dict(left)}"
            assert not gone, f"files are gone: {dict(gone)}"

    def stands(self, found: Told) -> bool:
        """Whether the deed is done; it must be done, or not be done, as a whole."""
        calm = self.undisturbed
        if found == calm.after:
            return calm.before != calm.after or calm.outcome == DONE
        if found == calm.before:
            return False
        if self.case.is_anything:
            return True
        if self.case.between is not None and self.case.between(calm.before, found, calm.after):
            return False
        try:
            expect(found, calm.after, "it is neither as before nor as after; of what was after")
        except AssertionError as error:
            expect(found, calm.before, f"{error}; and of what was before")
        raise AssertionError

    def samples(self) -> list[int]:
        """Steps to try: the first, the last, those at names and commits, and some between."""
        return sampled(self.undisturbed.steps)


def sampled(steps: Sequence[Step]) -> list[int]:
    if ALL or len(steps) <= MOST_SAMPLED:
        return list(range(len(steps)))
    named = [
        number
        for number, step in enumerate(steps)
        if step.call.startswith(("rename", "link"))
        or (
            step.path.endswith("-wal")
            and not (number + 1 < len(steps) and steps[number + 1].path == step.path)
        )
    ]
    middle = [number + 1 for number in named] + named
    chosen = sorted({number for number in middle if 0 < number < len(steps) - 1}) or list(
        range(1, len(steps) - 1)
    )
    count = MOST_SAMPLED - 2
    picked = [chosen[index * (len(chosen) - 1) // max(1, count - 1)] for index in range(count)]
    return sorted({0, *picked, len(steps) - 1})


def expect(found: Told, wanted: Told, why: str) -> None:
    """The parts in which two states differ, if they do."""
    differing = {name: (found.get(name), wanted.get(name)) for name in found.keys() | wanted.keys()}
    differing = {name: pair for name, pair in differing.items() if pair[0] != pair[1]}
    assert not differing, "; ".join(
        [why, *(f"{n}: {_short(a)} IS NOT {_short(b)}" for n, (a, b) in differing.items())]
    )


def _short(state: object) -> str:
    """What there is, or where it is long its beginning."""
    return repr(state)[:400]
