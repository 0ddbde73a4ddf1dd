"""Kills at random any of a project's processes; nothing is left over, nothing lost, nothing counted twice.

One project runs as people run it: `fourfold up` with the loop and a service, clients that wait for their
flows, jobs that another process submits. Each round starts some of that, kills at chosen moments, starts
again what a person would, and looks at what is left. `FOURFOLD_CHAOS_ROUNDS` and `FOURFOLD_CHAOS_SEED`
choose how many rounds and which; a failure prints what to set. The engine alone is tried harder in
`tests/compute/test_chaos.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.compute.test_local_engine import UNIT, is_gone

from fourfold.adapters.local_engine import LocalEngine, groups
from fourfold.adapters.local_engine.journal import is_alive, read_json
from fourfold.adapters.local_engine.strays import marked
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.core.flows import Attempt, CallState, StepCall
from fourfold.core.ports.engine import ExitKind, Phase
from fourfold.core.serving import ServicePhase
from fourfold.foundation.compute.serving.asking import asked
from fourfold.foundation.compute.serving.pools import ServicePool, ServicePools
from fourfold.foundation.compute.serving.service import ServiceDesk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

ROUNDS = int(os.environ.get("FOURFOLD_CHAOS_ROUNDS", "30"))
SEED = int(os.environ.get("FOURFOLD_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
ORPHAN_S = 5.0
PATIENCE_S = 90.0
"""So long may a round take until all its runs have ended, on a busy machine."""

FLOWS = """
import os, subprocess, sys, time
import fourfold as ff

def mark(*words):
    fd = os.open("marks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, " ".join(map(str, (*words, os.getpid()))).encode() + b"\\n")
    os.close(fd)

@ff.step
def work(run, i):
    mark("begin", run, i)
    time.sleep(0.02 * i)
    mark("end", run, i)
    return i

@ff.step(retries=1, backoff=0.05)
def fails_once(run):
    mark("begin", run, "fails_once")
    try:
        os.close(os.open(f"failed-{run}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 100
    raise ValueError("once")

@ff.step
def starts(run):
    program = "import os, time; os.setsid(); time.sleep(0.1)"
    subprocess.run([sys.executable, "-I", "-S", "-c", program])
    return 1000

@ff.flow
def chaos(run: str, number: int):
    ff.now()
    first = [work(run, i) for i in range(number)]
    tried, told = fails_once(run), starts(run)
    last = work(run, sum(each.result() for each in first) % 3)
    return sum(each.result() for each in first) + tried.result() + told.result() + 0 * last.result()
"""

JOB = """
import os, sys, time
def tell(word):
    fd = os.open("marks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{word} job {sys.argv[1]} {os.getpid()}\\n".encode())
    os.close(fd)
tell("start")
if sys.argv[1].endswith("1") and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        tell("child")
        time.sleep(600)
    os._exit(0)
time.sleep(0.1)
tell("end")
"""

SERVICE = """
import os, socket, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(fd, f"serve x x {os.getpid()}\\n".encode())
listener = socket.create_server(("127.0.0.1", int(os.environ["FOURFOLD_PORT"])))
while True:
    listener.accept()[0].close()
"""

VICTIMS = ("owner", "client", "jobs", "supervisor", "keeper", "command", "program", "all")
"""`command` is the first process of a job: a worker of steps, a body's runner, a service, a plain job.
`program` is what such a one has started. `all` is the owner with its supervisors and keepers: nobody is left
to clean up."""


@dataclass(frozen=True)
class Plan:
    """What a round does, chosen beforehand: the same seed makes the same choices."""

    flows: tuple[int, ...]
    """How many first steps each flow has."""
    job_count: int
    kills: tuple[tuple[float, str, float], ...]
    """So many seconds after the one before, which kind of process, and which of these (0 to 1)."""

    @staticmethod
    def of(seed: int) -> Plan:
        dice = random.Random(seed)
        flows = tuple(dice.randrange(1, 5) for _ in range(dice.choice((1, 1, 2))))
        kills = tuple(
            (round(dice.random() * 0.4, 3), dice.choice(VICTIMS), dice.random())
            for _ in range(dice.choice((1, 1, 2)))
        )
        return Plan(flows, dice.choice((0, 2)), kills)


@dataclass
class House:
    """The project, the processes that were started for it, and what they have said."""

    folder: Path
    nursery: subprocess.Popen[str]
    up: int = 0
    clients: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    hit: Counter[str] = field(default_factory=Counter)

    @property
    def home(self) -> Path:
        return self.folder / ".fourfold"

    def start(self, role: str, *arguments: str, says: str = "") -> int:
        asked = {
            "role": role,
            "arguments": arguments,
            "folder": str(self.folder),
            "said": str(self.folder / f"said-{says or role}"),
        }
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(json.dumps(asked) + "\n")
        self.nursery.stdin.flush()
        return int(self.nursery.stdout.readline())

    def said(self, what: str) -> str:
        path = self.folder / f"said-{what}"
        return path.read_text() if path.exists() else ""

    def marks(self) -> list[list[str]]:
        path = self.folder / "marks"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def keep_up(self) -> None:
        """Start `fourfold up` unless it runs, as whatever looks after servers does."""
        if not self.up or is_gone(self.up):
            self.up = self.start("up")

    def owner(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.home / "owner.lock").read_text())
            return None if is_gone(pid) else pid
        return None

    def victims(self, kind: str) -> list[int]:
        """The processes of a kind that run now, oldest first."""
        roots = [pid for pid in {self.up, self.owner() or 0, *self.clients.values(), self.jobs} if pid]
        supervisors = [pid for root in sorted(roots) for pid in below(root) if "supervisor" in command(pid)]
        keepers = [pid for each in supervisors for pid in below(each)]
        commands = [pid for each in keepers for pid in below(each)]
        owner = [pid for pid in (self.owner(),) if pid]
        return {
            "owner": owner,
            "client": [pid for pid in self.clients.values() if not is_gone(pid)],
            "jobs": [self.jobs] if self.jobs and not is_gone(self.jobs) else [],
            "supervisor": supervisors,
            "keeper": keepers,
            "command": commands,
            "program": [pid for each in commands for pid in below(each)],
            "all": [*owner, *supervisors, *keepers],
        }[kind]

    def kill(self, kind: str, which: float) -> None:
        found = self.victims(kind)
        for pid in found if kind == "all" else found[int(which * len(found)) :][:1]:
            self.hit[kind] += kind != "all"
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.hit["all"] += kind == "all"


def below(pid: int) -> list[int]:
    """The children of all threads of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return sorted(found)


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def until(holds: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "job.py").write_text(JOB)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FOURFOLD_")}
    nursery = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("chaos_processes.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert nursery.stdout is not None
    assert nursery.stdout.readline() == "ready\n"
    house = House(tmp_path, nursery)
    yield house
    for pid in (house.up, house.jobs, *house.clients.values()):
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGKILL)
    nursery.communicate()


def test_whatever_is_killed_nothing_is_left_over_or_lost_or_counted_twice(house: House) -> None:
    print(f"seed: FOURFOLD_CHAOS_SEED={SEED} FOURFOLD_CHAOS_ROUNDS={ROUNDS}")
    house.keep_up()
    until(lambda: house.said("up"), "up is up")
    pool = ServicePool("local", lambda: LocalEngine(house.home / "jobs" / "services", unit=UNIT))
    desk = ServiceDesk(
        Catalog.open(f"sqlite:///{house.home}/catalog.db"),
        SystemClock(),
        ServicePools({"local": pool}, here="local"),
    )
    argv = (sys.executable, "-I", "-S", "-c", SERVICE, str(house.folder / "marks"))
    web = asked("web", argv, cwd=str(house.folder), cpu="0.1")

    def serve() -> None:
        """Ask for the service; once more where it was given up, as one is that fails ten times in a row."""
        if all(each.state.phase is ServicePhase.given_up for each in desk.services()):
            desk.start(web)

    for number in range(SEED, SEED + ROUNDS):
        plan = Plan.of(number)
        try:
            serve()
            play(house, plan, str(number))
            check_left(house)
            check_results(house, plan, str(number))
            check_jobs(house)
            check_service(house)
        except BaseException as error:
            error.add_note(f"play it again: FOURFOLD_CHAOS_SEED={number} FOURFOLD_CHAOS_ROUNDS=1 ({plan})")
            raise
    print(f"{ROUNDS} rounds, killed: {dict(sorted(house.hit.items()))}")
    serve()
    until(lambda: is_served(house, desk), "the service is ready again", 3 * PATIENCE_S)
    check_catalog(house)


def is_served(house: House, desk: ServiceDesk) -> bool:
    house.keep_up()
    return bool(check_service(house)) and desk.service("web").state.phase is ServicePhase.ready


def play(house: House, plan: Plan, name: str) -> None:
    """Start, kill, and start again what a person would, until all flows have told their results."""
    keys = {f"{name}-{index}": steps for index, steps in enumerate(plan.flows)}
    for key, steps in keys.items():
        house.clients[key] = house.start("client", key, str(steps), says=key)
    if plan.job_count:
        house.jobs = house.start("jobs", name, str(plan.job_count))
    for pause_s, kind, which in plan.kills:
        time.sleep(pause_s)  # the moment at which it is hit
        house.kill(kind, which)

    def has_ended(key: str) -> bool:
        if "result" in house.said(key):
            return True
        house.keep_up()
        if is_gone(house.clients[key]):
            assert "Error" not in house.said(key), house.said(key)
            house.clients[key] = house.start("client", key, str(keys[key]), says=key)
        return False

    for key in keys:
        until(partial(has_ended, key), f"run {key} ends")
        until(partial(is_gone, house.clients[key]), f"the client of {key} ends")
    if plan.job_count:
        until(lambda: is_gone(house.jobs), "who submitted jobs ends")
    house.keep_up()
    house.clients.clear()


def check_left(house: House) -> None:
    """Nothing runs, and no control group is left, whose job has ended or whose control process is no more."""
    place = groups.find_place()

    def left() -> list[str]:
        with closing(LocalEngine(house.home / "jobs" / "plain", unit=UNIT)) as next_start:
            next_start.reap(())
        over = {str(folder) for folder in (house.home / "jobs").glob("*/*") if is_over(folder)}
        found = [f"{pid} {command(pid)}" for pid, of in marked() if of in over and not is_gone(pid)]
        return found + [of for of in over if groups.left_by(place, groups.name_of(of))]

    def is_up() -> bool:
        house.keep_up()
        return house.owner() == house.up

    until(is_up, "the next start")
    deadline = time.monotonic() + ORPHAN_S
    while found := left():
        assert time.monotonic() < deadline, f"left over: {found}"
        time.sleep(0.05)


def is_over(folder: Path) -> bool:
    launch = read_json(folder / "launch.json")
    return launch is None or (folder / "end.json").exists() or not is_alive(launch)


def check_results(house: House, plan: Plan, name: str) -> None:
    """Each flow gave its one result, to whoever asked, and one run did it."""
    for index, steps in enumerate(plan.flows):
        key = f"{name}-{index}"
        results = [line for line in house.said(key).splitlines() if line.startswith("result")]
        assert results == [f"result {sum(range(steps)) + 1100}"], house.said(key)


def check_jobs(house: House) -> None:
    """Each job that was accepted has an end, and none started twice."""
    marks = house.marks()
    starts = Counter(mark[2] for mark in marks if mark[:2] == ["start", "job"])
    assert not [key for key, count in starts.items() if count > 1], "a job started twice"
    accepted = [line.split()[1] for line in house.said("jobs").splitlines() if line.startswith("accepted")]
    with closing(LocalEngine(house.home / "jobs" / "plain", unit=UNIT)) as engine:
        for key, status in engine.status(accepted).items():
            assert status.phase is Phase.ended, f"job {key} has no end: {status}"
            assert status.exit is not None
            if status.exit.kind is ExitKind.ok:
                assert ["end", "job", key] in [mark[:3] for mark in marks]


def check_service(house: House) -> list[int]:
    pids = {int(mark[3]) for mark in house.marks() if mark[0] == "serve"}
    alive = [pid for pid in pids if "create_server" in command(pid)]  # else its number was used again
    assert len(alive) <= 1, f"two of one service: {alive}"
    return alive


def check_catalog(house: House) -> None:
    """All runs have ended well; each call has one result, of one attempt; each attempt one account."""
    with closing(sqlite3.connect(f"file:{house.home}/catalog.db?mode=ro", uri=True)) as catalog:
        assert catalog.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert catalog.execute("PRAGMA foreign_key_check").fetchall() == []
        runs = catalog.execute("SELECT id, state, idempotency_key FROM flow_run").fetchall()
        assert len({key for _, _, key in runs}) == len(runs)
        assert {state for _, state, _ in runs} == {"succeeded"}, runs
        calls = [
            msgspec.json.decode(record, type=StepCall)
            for (record,) in catalog.execute("SELECT record FROM flow_call")
        ]
        assert {call.state for call in calls} == {CallState.succeeded}
        assert catalog.execute("SELECT count(*) FROM flow_attempt WHERE ended_at_us IS NULL").fetchone() == (
            0,
        )
        attempts = [
            msgspec.json.decode(record, type=Attempt)
            for (record,) in catalog.execute("SELECT record FROM flow_attempt")
        ]
        good = Counter((each.run, each.call) for each in attempts if is_good(each))
        asked = {(call.run, call.key) for call in calls if call.kind != "effect"}
        assert set(good) == asked
        assert set(good.values()) == {1}, "a result was accepted twice"
        failed = Counter(each.run for each in attempts if each.exit and each.exit.kind is ExitKind.failed)
        assert set(failed.values()) <= {1}, "a kill used up a try"
        jobs = catalog.execute("SELECT count(*) FROM compute_job WHERE kind != 'service'").fetchone()
        assert jobs == (len(attempts),)


def is_good(attempt: Attempt) -> bool:
    return attempt.exit is not None and attempt.exit.kind is ExitKind.ok
