"""Starts and kills at random points: nothing is left running, no job is lost, none starts twice.

`FOURFOLD_CHAOS_ROUNDS` and `FOURFOLD_CHAOS_SEED` choose how many rounds and which; a failure prints both.
The loop, its workers and their runners are killed in `tests/flows/test_kills.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.compute.test_local_engine import UNIT, eventually, is_gone

from fourfold.adapters.local_engine import LocalEngine, groups
from fourfold.adapters.local_engine.strays import marked
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.core.ports.engine import ExitKind, Phase
from fourfold.core.serving import ServicePhase
from fourfold.foundation.compute.serving.asking import asked
from fourfold.foundation.compute.serving.pools import ServicePool, ServicePools
from fourfold.foundation.compute.serving.service import ServiceDesk
from fourfold.foundation.compute.serving.tables import ServiceTables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("FOURFOLD_CHAOS_ROUNDS", "40"))
SEED = int(os.environ.get("FOURFOLD_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
ORPHAN_S = 5.0

JOB = """
import os, signal, sys, time
who, told, style, lasts = sys.argv[1:]
def tell(word):
    fd = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{word} {who} {os.getpid()}\\n".encode())
    os.close(fd)
tell("start")
if style == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if style == "forks" and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        tell("child")
        time.sleep(600)
    os._exit(0)
time.sleep(float(lasts))
tell("end")
"""

CONTROL = """
import random, sys, time
from pathlib import Path
from fourfold.adapters.local_engine import LocalEngine
from fourfold.core.compute import Unit
from fourfold.core.ports.engine import Launch
folder, told, script, seed = sys.argv[1:]
dice = random.Random(int(seed))
engine = LocalEngine(Path(folder), unit=Unit("local", cores=2, memory_bytes=8 << 30))
engine.prepare()
print("supervisor", engine._supervisor._process.pid, flush=True)
for number in range(dice.randrange(2, 7)):
    key = f"job/{number}"
    style = dice.choice(["plain", "forks", "stubborn"])
    lasts = dice.choice(["0", "0.05", "600"])
    print("asked", key, flush=True)
    engine.submit(Launch(key, (sys.executable, "-I", "-S", "-c", script, key, told, style, lasts)))
    print("accepted", key, flush=True)
    time.sleep(dice.random() * 0.03)
time.sleep(600)
"""


def lines(path: Path) -> list[list[str]]:
    """The whole lines so far: the last may be half written."""
    try:
        return [line.split() for line in path.read_text().rpartition("\n")[0].splitlines()]
    except FileNotFoundError:
        return []


def pids_of(told: Path) -> list[int]:
    return [int(line[2]) for line in lines(told) if line[0] in ("start", "child")]


def below(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_kills_at_random_points_leave_nothing_running_and_lose_nothing(number: int, tmp_path: Path) -> None:
    seed = SEED + number
    print(f"seed: FOURFOLD_CHAOS_SEED={seed} FOURFOLD_CHAOS_ROUNDS=1")
    dice = random.Random(seed)
    folder, told, said = tmp_path / "jobs", tmp_path / "told", tmp_path / "said"
    with said.open("wb") as out:
        control = subprocess.Popen(
            [sys.executable, "-c", CONTROL, str(folder), str(told), JOB, str(seed)], stdout=out
        )
    eventually(lambda: lines(said))
    supervisor = int(lines(said)[0][1])
    time.sleep(dice.random() * 0.25)  # the point at which it is hit
    victim = dice.choice(["control", "supervisor", "keeper", "leader", "all"])
    keepers = below(supervisor)
    if victim in ("keeper", "leader") and keepers:
        keeper = dice.choice(keepers)
        for pid in [keeper] if victim == "keeper" else below(keeper):
            kill(pid)
    if victim in ("supervisor", "all"):
        kill(supervisor)
    if victim == "all":
        for pid in keepers:
            kill(pid)
    time.sleep(dice.random() * 0.1)
    kill(control.pid)
    control.wait()
    # The next start finds, within five seconds, nothing that runs and an end for every job.
    began = time.monotonic()
    engine = LocalEngine(folder, unit=UNIT)
    while True:
        engine.reap(())
        left = [pid for pid in [supervisor, *pids_of(told)] if not is_gone(pid)]
        left += [pid for pid, of in marked() if of.startswith(str(folder))]
        if not left or time.monotonic() - began > ORPHAN_S:
            break
        time.sleep(0.02)
    assert not left, f"{victim}: processes {left} outlived their job"
    names = [groups.name_of(str(each)) for each in folder.iterdir()] if folder.exists() else []
    assert [each for name in names for each in groups.left_by(groups.find_place(), name)] == []
    accepted = [line[1] for line in lines(said) if line[0] == "accepted"]
    starts = [line[1] for line in lines(told) if line[0] == "start"]
    ends = [line[1] for line in lines(told) if line[0] == "end"]
    assert len(starts) == len(set(starts)), f"{victim}: a job started twice"
    found = engine.status(accepted)
    for key in accepted:
        status = found[key]
        assert status.phase is Phase.ended, f"{victim}: {status}"
        assert status.exit is not None
        if status.exit.kind is ExitKind.ok:
            assert key in ends, f"{victim}: {key} is told to have ended well and did not"
    engine.close()


KEEPER = """
import sys
from pathlib import Path
from fourfold.adapters.local_engine import LocalEngine
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.core.compute import Unit
from fourfold.foundation.compute.serving import keeper
from fourfold.foundation.compute.serving.pools import ServicePool, ServicePools
from fourfold.foundation.compute.serving.tables import ServiceTables
import time
url, folder, name = sys.argv[1:]
keeper.LEASE_S = 0.5
keeper.LOOK_S = 0.05
unit = Unit("local", cores=2, memory_bytes=8 << 30)
pool = ServicePool("local", lambda: LocalEngine(Path(folder), unit=unit))
pools = ServicePools({"local": pool}, here="local")
one = keeper.ServiceKeeper(
    ServiceTables(Catalog(url)), pools, SystemClock(), name=name, record=lambda reports: None
)
one.start()
print("keeping", flush=True)
time.sleep(600)
"""

SERVICE = """
import os, socket, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(fd, f"start web {os.getpid()}\\n".encode())
listener = socket.create_server(("127.0.0.1", int(os.environ["FOURFOLD_PORT"])))
while True:
    listener.accept()[0].close()
"""


def is_served(desk: ServiceDesk, told: Path) -> bool:
    alive = [pid for pid in pids_of(told) if not is_gone(pid)]
    assert len(alive) <= 1, f"two of one service: {alive}"
    return len(alive) == 1 and desk.service("web").state.phase is ServicePhase.ready


def test_a_service_outlives_the_kills_of_its_keeper_and_is_never_doubled(tmp_path: Path) -> None:
    print(f"seed: FOURFOLD_CHAOS_SEED={SEED}")
    dice = random.Random(SEED)
    url, folder, told = f"sqlite:///{tmp_path}/catalog.db", tmp_path / "jobs", tmp_path / "told"
    catalog = Catalog.open(url)
    pool = ServicePool("local", lambda: LocalEngine(folder, unit=UNIT))
    desk = ServiceDesk(catalog, SystemClock(), ServicePools({"local": pool}, here="local"))
    argv = (sys.executable, "-I", "-S", "-c", SERVICE, str(told))
    desk.start(asked("web", argv, cwd=str(tmp_path)))
    for number in range(max(3, ROUNDS // 8)):
        process = subprocess.Popen([sys.executable, "-c", KEEPER, url, str(folder), f"keeper {number}"])
        if dice.random() < 0.6:
            eventually(lambda: is_served(desk, told), within_s=60)
        else:
            time.sleep(dice.random() * 1.5)
        process.kill()
        process.wait()
        eventually(lambda: all(is_gone(pid) for pid in pids_of(told)), within_s=ORPHAN_S)
    state = desk.service("web").state
    assert state.is_wanted
    assert len(pids_of(told)) <= state.generation
    assert state.failures_in_row == 0
    assert ServiceTables(catalog).get("web") is not None
