"""What the local engine's meter says is what `/usr/bin/time -v` and the kernel's own groups say."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.compute.test_local_engine import UNIT, eventually, python

from fourfold.adapters.local_engine import LocalEngine, groups
from fourfold.core import wire
from fourfold.core.compute import Bound, Held
from fourfold.core.decide.account import account
from fourfold.core.ports.engine import Launch, Resources, Usage
from fourfold.core.quantities import Range
from fourfold.runner.meter import Meter

pytestmark = pytest.mark.slow

WITHIN = 0.05
TIME = shutil.which("time")

LOADS = {
    "one process": "import time; block = bytearray(b'x') * (192 << 20)\n"
    "while time.process_time() < 1.2: pass",
    "children in turn": """
import os, time
for _ in range(3):
    if os.fork() == 0:
        block = bytearray(b'x') * (400 << 20)
        while time.process_time() < 0.5: pass
        os._exit(0)
    os.wait()
""",
    "bytes": "import time\nblock = bytearray(b'x') * (128 << 20)\nopen('out', 'wb').write(block)\n"
    "assert len(open('out', 'rb').read(32 << 20)) == 32 << 20\nwhile time.process_time() < 1: pass",
}


@pytest.fixture(params=[True, False], ids=["groups", "tree"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalEngine]:
    if request.param and groups.find_place() is None:
        pytest.skip("no control group can be made here")
    engine = LocalEngine(tmp_path / "jobs", unit=UNIT, cwd=tmp_path, may_group=request.param)
    yield engine
    engine.close()


def used(engine: LocalEngine, key: str, argv: tuple[str, ...]) -> Usage:
    engine.submit(Launch(key, argv, resources=Resources(memory_bytes=Range(0, 1 << 30))))
    status = engine.wait([key], 60)[key]
    assert status.exit is not None
    assert status.exit.code == 0, (status.exit, engine.logs(key).data)
    return engine.usage(key)


@pytest.mark.skipif(TIME is None, reason="GNU time is not installed")
@pytest.mark.parametrize("load", sorted(LOADS))
def test_processors_and_memory_are_those_of_gnu_time(engine: LocalEngine, load: str) -> None:
    # The same processes are measured by both: the job is `time` around the load.
    usage = used(engine, "a", (str(TIME), "-v", *python(LOADS[load])))
    said = engine.logs("a").data.decode()
    cpu_s = sum(float(word) for word in re.findall(r"(?:User|System) time \(seconds\): ([\d.]+)", said))
    found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", said)
    assert found is not None
    assert usage.cpu_s == pytest.approx(cpu_s, rel=WITHIN)
    assert usage.memory_peak_bytes == pytest.approx(int(found[1]) * 1024, rel=WITHIN)


def test_processors_are_those_that_the_kernel_counts_for_the_group(tmp_path: Path) -> None:
    place = groups.find_place()
    if place is None or not {"cpuacct", "both"} & place.keys():
        pytest.skip("no control group can be made here")
    outer = groups.Group(place, f"fourfold-test-{tmp_path.name}")
    outer.make(None)
    process = subprocess.Popen(python(LOADS["one process"]), preexec_fn=outer.join)
    process.wait()
    kernel_s = outer.cpu_s()
    outer.remove()
    engine = LocalEngine(tmp_path / "jobs", unit=UNIT)
    usage = used(engine, "a", python(LOADS["one process"]))
    engine.close()
    assert kernel_s is not None
    assert usage.cpu_s == pytest.approx(kernel_s, rel=WITHIN)


def test_bytes_are_those_that_were_moved(engine: LocalEngine) -> None:
    usage = used(engine, "a", python(LOADS["bytes"]))
    assert usage.written_bytes == pytest.approx(128 << 20, rel=WITHIN)
    assert usage.read_bytes == pytest.approx(32 << 20, rel=WITHIN)


def test_the_mean_of_memory_tells_half_a_load_from_a_whole_one(engine: LocalEngine) -> None:
    script = "import time\ntime.sleep(1)\nblock = bytearray(b'x') * (256 << 20)\ntime.sleep(1)"
    usage = used(engine, "a", python(script))
    assert usage.memory_mean_bytes is not None
    assert 0.35 * (256 << 20) < usage.memory_mean_bytes < 0.65 * (256 << 20)
    assert len(usage.trace) > 5


BOUND = {
    "while time.process_time() < 0.5: pass": Bound.cpu,
    "time.sleep(1)": Bound.waiting,
    "a, b = os.pipe(); os.fork() or (time.sleep(1), os._exit(0)); os.close(b); os.read(a, 1)": Bound.waiting,
}


@pytest.mark.parametrize("load", sorted(BOUND))
def test_what_bounds_a_job_is_told_rightly_also_where_others_keep_the_machine_busy(
    engine: LocalEngine, load: str
) -> None:
    usage = used(engine, "a", python(f"import os, time\n{load}"))
    made = account(usage, held=Held(1.0), unit=UNIT)
    assert made.bound is BOUND[load], made.sentence


def test_what_bounds_a_step_is_told_rightly_also_where_others_keep_the_machine_busy() -> None:
    meter = Meter()

    def bound(work: Callable[[], object]) -> Bound:
        meter.start()
        work()
        return account(wire.convert(meter.stop(), Usage), held=Held(1.0), unit=UNIT).bound

    def spins() -> None:
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass

    assert bound(spins) is Bound.cpu
    assert bound(lambda: time.sleep(0.5)) is Bound.waiting
    meter.close()


def test_use_is_told_over_time_while_a_job_runs(engine: LocalEngine) -> None:
    script = "import time; print(1, flush=True); time.sleep(600)"
    engine.submit(Launch("a", python(script), kind="service"))
    eventually(lambda: engine.usage("a").trace)
    other = LocalEngine(engine._folder, unit=UNIT)
    assert other.usage("a").trace
    assert other.usage("a").wall_s > 0
    engine.stop("a", 0)


def test_looks_at_a_job_cost_less_than_a_hundredth_of_a_core(engine: LocalEngine) -> None:
    script = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        time.sleep(600)
print(1, flush=True)
time.sleep(600)
"""
    engine.submit(Launch("a", python(script)))
    eventually(lambda: engine.logs("a").data)
    leader = engine.status(["a"])["a"].pid
    keeper = Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[1]

    def spent_ns() -> int:  # exact, where clock ticks are too coarse
        return int(Path(f"/proc/{keeper}/schedstat").read_text().split()[0])

    before, wall_s = spent_ns(), engine.usage("a").wall_s
    eventually(lambda: engine.usage("a").wall_s > wall_s + 4)
    took_s = engine.usage("a").wall_s - wall_s
    assert (spent_ns() - before) / 1e9 < 0.01 * took_s
    engine.stop("a", 0)
