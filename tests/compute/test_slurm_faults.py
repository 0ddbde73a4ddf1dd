"""A Slurm that is away, forgets, repeats, refuses or loses nodes: nothing is lost, nothing runs twice."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from fourfold.adapters.slurm.address import SlurmAddress
from fourfold.adapters.slurm.cli import SlurmCommands
from fourfold.adapters.slurm.cluster import Order, SlurmJob
from fourfold.adapters.slurm.engine import SlurmEngine
from fourfold.adapters.slurm.rest import SlurmRest
from fourfold.core.errors import Refused, Unauthenticated, Unavailable
from fourfold.core.jobs import Exit
from fourfold.core.ports.engine import ExitKind, Launch, Phase, Resources
from fourfold.core.quantities import Range

from .slurm_cluster import GPU_NODE, NODES, SlurmCluster, eventually, opened, reached

pytestmark = pytest.mark.slow


def python(script: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", script, *arguments)


SLEEP = python("import time; print('begun', flush=True); time.sleep(600)")
ONCE = python("import os; print('ran', os.environ['FOURFOLD_START'], flush=True)")
WAIT = """
import sys, time, pathlib
print("begun", flush=True)
while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)
"""
BURN = """
import os, time
print("begun", os.getpid(), flush=True)
end = time.process_time() + 2
while time.process_time() < end: pass
print("burnt", flush=True)
time.sleep(600)
"""
WITHIN_S = 60.0


def end_of(engine: SlurmEngine, key: str, within_s: float = WITHIN_S) -> Exit:
    status = engine.wait([key], within_s)[key]
    assert status.exit is not None, f"{key} has not ended: {status}"
    return status.exit


def begun(engine: SlurmEngine, key: str) -> None:
    eventually(lambda: b"begun" in engine.logs(key).data, within_s=WITHIN_S)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Faulty(SlurmCommands):
    """The commands of a real cluster, with answers that get lost, and counted questions."""

    def __init__(self, cluster: SlurmCluster) -> None:
        super().__init__(SlurmAddress(), cluster.environment)
        self.loses_answers = False
        self.asked: list[str] = []
        self.orders: list[Order] = []

    def submit(self, order: Order) -> int:
        self.orders.append(order)
        job_id = super().submit(order)
        if self.loses_answers:
            raise Unavailable("the answer was lost")
        return job_id

    def queue(self, job_ids: Collection[int]) -> list[SlurmJob]:
        self.asked.append("queue")
        return super().queue(job_ids)


def is_over(commands: SlurmCommands, job_id: int) -> bool:
    return not any(job.job_id == job_id and job.is_active for job in commands.queue(()))


@contextmanager
def faulty(cluster: SlurmCluster, folder: Path) -> Iterator[tuple[SlurmEngine, Faulty]]:
    commands = Faulty(cluster)
    with closing(SlurmEngine(folder, cluster=commands, cwd=folder.parent)) as engine:
        yield engine, commands


@contextmanager
def hung(cluster: SlurmCluster) -> Iterator[None]:
    cluster.signal("slurmctld", signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.signal("slurmctld", signal.SIGCONT)


def test_a_controller_that_hangs_is_an_error_within_its_bound_and_nothing_is_lost(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    with closing(opened(slurm, tmp_path / "jobs", "slurm://?timeout_s=2")) as engine:
        engine.submit(Launch("short", ONCE))
        end_of(engine, "short")
        engine.submit(Launch("long", python(WAIT, str(tmp_path / "go"))))
        begun(engine, "long")
        with hung(slurm):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="does not answer"):
                engine.status(["short", "long"])
            with pytest.raises(Unavailable, match="submit the same key again"):
                engine.submit(Launch("asked meanwhile", ONCE))
            assert time.monotonic() - began < 10
            assert engine.status(["short"])["short"].phase is Phase.ended  # files tell
            (tmp_path / "go").touch()
            assert end_of(engine, "long").kind is ExitKind.ok
        engine.submit(Launch("asked meanwhile", ONCE))
        assert end_of(engine, "asked meanwhile").kind is ExitKind.ok
        assert engine.logs("asked meanwhile").data.count(b"ran") == 1


def test_a_job_is_stopped_while_the_controller_hangs(slurm: SlurmCluster, tmp_path: Path) -> None:
    with closing(opened(slurm, tmp_path / "jobs", "slurm://?timeout_s=2")) as engine:
        engine.submit(Launch("a", SLEEP))
        begun(engine, "a")
        with hung(slurm):
            engine.stop("a", 1)
            assert end_of(engine, "a").kind is ExitKind.cancelled


def test_a_submission_whose_answer_was_lost_is_found_and_not_repeated(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    with faulty(slurm, tmp_path / "jobs") as (engine, commands):
        commands.loses_answers = True
        with pytest.raises(Unavailable):
            engine.submit(Launch("a", ONCE))
        assert engine.status(["a"])["a"].phase is not Phase.unknown  # by its name
        with closing(opened(slurm, tmp_path / "jobs")) as later:  # as after a crash
            later.submit(Launch("a", ONCE))
            assert end_of(later, "a").kind is ExitKind.ok
            assert later.logs("a").data.count(b"ran") == 1
        name = commands.orders[0].name
        assert [job.name for job in commands.queue(())].count(name) == 1


def test_a_job_that_slurm_has_twice_starts_once(slurm: SlurmCluster, tmp_path: Path) -> None:
    with faulty(slurm, tmp_path / "jobs") as (engine, commands):
        engine.submit(Launch("a", SLEEP))
        begun(engine, "a")
        for is_running in (True, False):
            twice = commands.submit(commands.orders[0])
            eventually(partial(is_over, commands, twice))
            assert engine.logs("a").data.count(b"begun") == 1
            if is_running:
                assert engine.status(["a"])["a"].phase is Phase.running
                engine.stop("a", 0)
                end_of(engine, "a")
        assert engine.status(["a"])["a"].exit == Exit(ExitKind.cancelled, "stopped")


def test_a_controller_that_was_killed_forgets_an_end_and_the_job_does_not_run_again(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        engine.submit(Launch("a", ONCE))
        end_of(engine, "a")
        slurm.kill("slurmctld")
        slurm.start("slurmctld")
        slurm.wait_until_up()
        eventually(lambda: not slurm.hurried(), within_s=120)
        assert engine.logs("a").data.count(b"ran") == 1
        with closing(opened(slurm, tmp_path / "jobs")) as later:
            assert later.status(["a"])["a"].exit == Exit(ExitKind.ok, "", 0)


def test_a_node_that_was_cut_off_is_a_loss_and_what_runs_on_there_is_ended(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        engine.submit(Launch("a", SLEEP))
        begun(engine, "a")
        status = engine.status(["a"])["a"]
        assert status.pid is not None
        found = slurm.processes_of(status.unit)
        for pid in (*found["slurmd"], *found["slurmstepd"]):
            os.kill(pid, signal.SIGKILL)
        slurm.kill(status.unit)
        try:
            assert not is_gone(status.pid)  # it goes on, with nobody of Slurm above it
            exit_ = end_of(engine, "a", 120)
            assert exit_.kind is ExitKind.worker_lost
            assert f"on {status.unit}" in exit_.reason
            eventually(lambda: is_gone(status.pid or 0))
        finally:
            slurm.start(status.unit)
            slurm.wait_until_idle()


def test_a_job_whose_keeper_is_killed_is_lost_and_accounts_tell_its_use(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        engine.submit(Launch("a", python(BURN)))
        eventually(lambda: b"burnt" in engine.logs("a").data, within_s=WITHIN_S)
        status = engine.status(["a"])["a"]
        assert status.pid is not None
        os.kill(status.pid, signal.SIGKILL)
        exit_ = end_of(engine, "a")
        assert exit_.kind is ExitKind.worker_lost
        eventually(lambda: is_gone(int(engine.logs("a").data.split()[1])))
        eventually(lambda: (engine.usage("a").cpu_s or 0) > 1, within_s=WITHIN_S)
        assert (engine.usage("a").memory_peak_bytes or 0) > 4 << 20


def test_a_job_that_somebody_cancels_in_slurm_is_cancelled(slurm: SlurmCluster, tmp_path: Path) -> None:
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        engine.submit(Launch("a", SLEEP))
        begun(engine, "a")
        slurm.run("scancel", "--user", slurm.user)
        exit_ = end_of(engine, "a")
        assert exit_.kind is ExitKind.cancelled
        assert "somebody else" in exit_.reason
        assert engine.usage("a").wall_s > 0


def test_a_job_that_has_to_make_room_is_preempted(slurm: SlurmCluster, tmp_path: Path) -> None:
    low = opened(slurm, tmp_path / "low", "slurm://?partition=batch")
    high = opened(slurm, tmp_path / "high", "slurm://?partition=urgent")
    with closing(low), closing(high):
        for node in NODES:
            low.submit(Launch(node, SLEEP, resources=Resources(cpu=Range(2))))
        for node in NODES:
            begun(low, node)
        high.submit(Launch("a", ONCE, resources=Resources(cpu=Range(2))))
        assert end_of(high, "a").kind is ExitKind.ok
        status = next(each for each in low.wait(list(NODES), WITHIN_S).values() if each.exit is not None)
        assert status.exit is not None
        assert status.exit.kind is ExitKind.preempted
        low.reap(())


def test_a_drained_node_is_not_offered_and_a_refusal_names_it(slurm: SlurmCluster, tmp_path: Path) -> None:
    asked = Resources(gpu=Range(1), gpu_name="toy")
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        assert [offer.unit for offer in engine.offers(asked)] == [GPU_NODE]
        slurm.run("scontrol", "update", f"nodename={GPU_NODE}", "state=drain", "reason=bad disk")
        try:
            with closing(opened(slurm, tmp_path / "jobs")) as later:
                assert sorted(each.unit for each in later.offers(Resources())) == sorted(
                    {*NODES} - {GPU_NODE}
                )
                with pytest.raises(Refused, match=rf"takes no work now: {GPU_NODE} \(drain: bad disk\)"):
                    later.submit(Launch("a", ONCE, resources=asked))
                with pytest.raises(Refused, match="asks for 3 nodes, and 2 could take it"):
                    later.submit(Launch("b", ONCE, nodes=3))
        finally:
            slurm.run("scontrol", "update", f"nodename={GPU_NODE}", "state=resume")
        slurm.wait_until_idle()


def test_a_gpu_is_asked_for_by_name_and_kept_for_the_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        with pytest.raises(Refused, match="asks for a GPU named 'h100'"):
            engine.submit(Launch("a", ONCE, resources=Resources(gpu=Range(1), gpu_name="h100")))
        engine.submit(Launch("a", SLEEP, resources=Resources(gpu=Range(1), gpu_name="toy")))
        begun(engine, "a")
        assert engine.status(["a"])["a"].unit == GPU_NODE
        assert "gpu:toy:1" in slurm.run("squeue", "--noheader", "--Format=tres-per-node:40")
        engine.stop("a", 0)
        end_of(engine, "a")


def test_what_slurm_refuses_is_told_in_its_words_and_the_key_stays_free(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    for place in ("slurm://", f"slurm+rest://127.0.0.1:{slurm.rest_port}"):
        address = f"{place}?constraint=no-such"
        engine = SlurmEngine(tmp_path / "jobs", cluster=reached(slurm, address), cwd=tmp_path)
        with closing(engine):
            with pytest.raises(Refused, match=r"(?i)feature|node configuration"):
                engine.submit(Launch("a", ONCE))
            assert engine.status(["a"])["a"].phase is Phase.unknown
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        engine.submit(Launch("a", ONCE))
        assert end_of(engine, "a").kind is ExitKind.ok
        with pytest.raises(Refused, match="asks for 2d, and partition 'batch' gives no more than 1d"):
            engine.submit(Launch("b", ONCE, resources=Resources(time_limit_s=2 * 86400)))
    with (
        closing(opened(slurm, tmp_path / "jobs", "slurm://?partition=bach")) as engine,
        pytest.raises(Refused, match="did you mean 'batch'"),
    ):
        engine.offers(Resources())


def test_a_wrong_token_is_told_from_a_controller_that_is_away(slurm: SlurmCluster) -> None:
    address = SlurmAddress.parse(f"slurm+rest://127.0.0.1:{slurm.rest_port}?user={slurm.user}&timeout_s=3")
    with pytest.raises(Unauthenticated, match="SLURM_JWT is not set"):
        SlurmRest(address, {}).nodes()
    with pytest.raises(Unauthenticated, match="does not believe the token"):
        SlurmRest(address, {"SLURM_JWT": "no.such.token"}).nodes()
    good = SlurmRest(address, {"SLURM_JWT": slurm.token()})
    assert len(good.nodes()) == len(NODES)
    with hung(slurm), pytest.raises(Unavailable):
        good.nodes()
    nobody = SlurmAddress.parse("slurm+rest://127.0.0.1:1?user=x")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        SlurmRest(nobody, {"SLURM_JWT": "x"}).nodes()


def test_no_word_of_a_launch_passes_slurm_and_its_environment_is_not_kept(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        engine.submit(Launch("key 'x'; $(id)", SLEEP, env={"SECRET": "hush-hush"}))
        begun(engine, "key 'x'; $(id)")
        for path in (tmp_path / "jobs").rglob("*"):
            assert path.is_dir() or b"hush" not in path.read_bytes()
        (line,) = slurm.run("squeue", "--noheader", "--format=%j|%k").splitlines()
        assert "hush" not in line
        assert "$" not in line
        job_id = slurm.run("squeue", "--noheader", "--format=%A").strip()
        script = slurm.run("scontrol", "write", "batch_script", job_id, "-")
        assert "begun" not in script
        engine.stop("key 'x'; $(id)", 0)
        end_of(engine, "key 'x'; $(id)")


def test_a_job_gets_a_small_clean_environment(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    launch = Launch("a", python(script), env={"GIVEN": "yes"}, resources=Resources(cpu=Range(1, 2)))
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        engine.submit(launch)
        end_of(engine, "a")
        seen = json.loads(engine.logs("a").data)
    assert seen["GIVEN"] == "yes"
    assert seen["OMP_NUM_THREADS"] == "2"
    assert seen["SLURM_CPUS_ON_NODE"] == "2"
    assert {"SECRET_TOKEN", "SLURM_JWT"} & set(seen) == set()


def test_the_state_of_many_jobs_is_one_question(slurm: SlurmCluster, tmp_path: Path) -> None:
    with faulty(slurm, tmp_path / "jobs") as (engine, commands):
        keys = [f"job/{index}" for index in range(12)]
        for key in keys:
            engine.submit(Launch(key, SLEEP))
        commands.asked.clear()
        found = engine.status(keys)
        assert {each.phase for each in found.values()} <= {Phase.starting, Phase.running}
        assert commands.asked == ["queue"]
        engine.reap(())
        assert {each.phase for each in engine.status(keys).values()} == {Phase.ended}


def test_a_job_in_the_queue_is_stopped_before_it_starts(slurm: SlurmCluster, tmp_path: Path) -> None:
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        for node in NODES:
            engine.submit(Launch(node, SLEEP, resources=Resources(cpu=Range(2))))
        engine.submit(Launch("waits", ONCE, resources=Resources(cpu=Range(2))))
        assert engine.status(["waits"])["waits"].phase is Phase.starting
        engine.stop("waits")
        exit_ = end_of(engine, "waits")
        assert (exit_.kind, exit_.reason) == (ExitKind.cancelled, "stopped before it started")
        assert engine.logs("waits").is_end
        assert engine.reap(()) == NODES
        eventually(lambda: not slurm.run("squeue", "--noheader").strip())


def test_jobs_of_another_control_that_lives_are_left_and_of_one_that_ended_are_reaped(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    first, second = opened(slurm, tmp_path / "jobs"), opened(slurm, tmp_path / "jobs")
    stranger = opened(slurm, tmp_path / "others")
    with closing(second), closing(stranger):
        with closing(first):
            first.submit(Launch("a", SLEEP))
            begun(first, "a")
            assert second.reap(()) == ()
            assert second.status(["a"])["a"].phase is Phase.running
        assert stranger.reap(()) == ()  # another project's
        assert second.reap(()) == ("a",)
        assert end_of(second, "a").kind is ExitKind.cancelled


def test_several_nodes_are_stopped_together_and_their_use_is_summed(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    script = "import time; block = bytearray(64 << 20); print('begun', flush=True); time.sleep(600)"
    with closing(opened(slurm, tmp_path / "jobs")) as engine:
        engine.submit(Launch("a", python(script), nodes=3))
        eventually(lambda: engine.logs("a").data.count(b"begun") == 3, within_s=WITHIN_S)
        engine.stop("a", 1)
        assert end_of(engine, "a").kind is ExitKind.cancelled
        usage = engine.usage("a")
        assert usage.memory_peak_bytes is not None
        assert usage.memory_peak_bytes > 3 * (64 << 20)
