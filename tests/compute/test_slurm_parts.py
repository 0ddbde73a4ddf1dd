"""The parts of the Slurm engine that need no cluster: addresses, records of several releases, room, ends."""

from __future__ import annotations

import ast
import json
import shlex
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.adapters.slurm import records
from fourfold.adapters.slurm.address import SlurmAddress
from fourfold.adapters.slurm.cli import trouble
from fourfold.adapters.slurm.cluster import Node, Order, Partition, SlurmJob, Traits
from fourfold.adapters.slurm.ends import exit_for
from fourfold.adapters.slurm.engine import KEEPER, SlurmEngine
from fourfold.adapters.slurm.files import JobFiles, claim, folder_name
from fourfold.adapters.slurm.room import Room
from fourfold.core.errors import FourfoldError, Refused, Remedy, TooMuch, Unauthenticated, Unavailable
from fourfold.core.ports.engine import ExitKind, Launch, Phase, Resources
from fourfold.core.quantities import Range
from fourfold.core.times import Instant

GIB = 1 << 30


class Paper:
    """A cluster on paper: it takes jobs and starts none."""

    def __init__(self, *nodes: Node, traits: Traits | None = None, most_s: float | None = 86400.0) -> None:
        self._nodes = list(nodes) or [Node("n1", 4, 8 * GIB, 1, "a100", ("batch",))]
        self._traits = traits or Traits(enforces_memory=False, has_default_memory=False)
        self._most_s = most_s
        self.orders: list[Order] = []
        self.jobs: list[SlurmJob] = []
        self.fails: FourfoldError | None = None
        self.asked: list[str] = []

    def submit(self, order: Order) -> int:
        if self.fails is not None:
            raise self.fails
        self.orders.append(order)
        self.jobs.append(SlurmJob(len(self.orders), order.name, "PENDING"))
        return len(self.orders)

    def queue(self, job_ids: Collection[int]) -> list[SlurmJob]:
        self.asked.append("queue")
        return [*self.jobs]

    def history(self, names: Collection[str], *, since: Instant) -> list[SlurmJob]:
        self.asked.append("history")
        return []

    def nodes(self) -> list[Node]:
        return self._nodes

    def partitions(self) -> list[Partition]:
        return [Partition("batch", self._most_s, is_default=True)]

    def traits(self) -> Traits:
        return self._traits

    def cancel(self, job_ids: Collection[int]) -> None:
        self.jobs = [job for job in self.jobs if job.job_id not in job_ids]

    def close(self) -> None:
        pass


def order_of(paper: Paper, resources: Resources, folder: Path, nodes: int = 1) -> Order:
    SlurmEngine(folder, cluster=paper).submit(Launch("a", ("true",), resources=resources, nodes=nodes))
    return paper.orders[0]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("slurm://head:6820", "names a place"),
        ("slurm+rest://", "lacks a host and port"),
        ("slurm+rest://head:port", "lacks a host and port"),
        ("slurm+rest://me:token@head:6820", "holds a secret"),
        ("slurm://?partion=x", "did you mean 'partition'"),
        ("slurm://?timeout_s=soon", "timeout_s"),
        ("slurm://?timeout_s=0", "between 0 and 300"),
        ("slurm://?folder=%0A", "line break"),
    ],
)
def test_an_address_that_cannot_be_is_refused_in_words(address: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        SlurmAddress.parse(address)


def test_jobs_and_nodes_are_read_in_the_shapes_of_later_releases() -> None:
    job = records.queued_job(
        {
            "job_id": 7,
            "name": "ff-a",
            "job_state": ["RUNNING", "COMPLETING"],
            "start_time": {"set": True, "infinite": False, "number": 1700000000},
            "end_time": {"set": False, "infinite": False, "number": 0},
            "exit_code": {
                "status": ["SIGNALED"],
                "return_code": {"set": False, "infinite": False, "number": 0},
                "signal": {"id": {"set": True, "infinite": False, "number": 9}, "name": "KILL"},
            },
            "nodes": "n2",
        }
    )
    assert (job.state, job.is_active, job.signal, job.code) == ("COMPLETING", True, 9, None)
    assert job.started_at == Instant(1_700_000_000_000_000)
    assert job.ended_at is None
    node = records.node(
        {
            "name": "n1",
            "cpus": 8,
            "real_memory": 1000,
            "gres": "gpu:a100:4(S:0-1)",
            "state": ["IDLE", "DRAIN"],
            "reason": "bad disk",
            "partitions": ["batch"],
        }
    )
    assert (node.gpus, node.gpu_name, node.closed) == (4, "a100", "drain: bad disk")
    partition = records.partition(
        {
            "name": "batch",
            "partition": {"state": ["UP"]},
            "maximums": {"time": {"set": True, "infinite": False, "number": 60}},
        }
    )
    assert (partition.time_limit_s, partition.closed) == (3600.0, "")


@given(st.one_of(st.none(), st.integers(0, 2**40), st.dictionaries(st.text(max_size=8), st.integers())))
def test_no_shape_of_a_number_is_a_traceback(told: object) -> None:
    assert records.number(told) is None or isinstance(records.number(told), int)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("OUT_OF_MEMORY", ExitKind.out_of_memory),
        ("TIMEOUT", ExitKind.over_time),
        ("DEADLINE", ExitKind.over_time),
        ("NODE_FAIL", ExitKind.worker_lost),
        ("BOOT_FAIL", ExitKind.worker_lost),
        ("PREEMPTED", ExitKind.preempted),
        ("CANCELLED", ExitKind.cancelled),
        ("FAILED", ExitKind.worker_lost),
        ("A_STATE_OF_LATER_RELEASES", ExitKind.worker_lost),
    ],
)
def test_every_end_that_slurm_tells_has_a_kind_and_a_reason(state: str, kind: ExitKind) -> None:
    for was_started in (False, True):
        exit_ = exit_for(SlurmJob(1, "ff-a", state), was_started=was_started, was_stopped=False)
        assert exit_.kind is kind
        assert "Slurm job 1" in exit_.reason


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", Unavailable),
        ("slurm_load_jobs error: Socket timed out on send/recv operation", Unavailable),
        ("sbatch: error: If munged is up, restart with --num-threads=10", Unauthenticated),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nJob violates accounting/QOS policy", TooMuch),
        ("sbatch: error: invalid partition specified: nope", Refused),
    ],
)
def test_what_slurm_says_becomes_an_error_that_tells_whether_to_try_again(
    said: str, error: type[FourfoldError]
) -> None:
    found = trouble("sbatch", said)
    assert type(found) is error
    assert (found.remedy is Remedy.transient) == (error in (Unavailable, TooMuch))


def test_who_asks_for_no_memory_gets_the_share_of_the_cores_where_the_cluster_has_no_default(
    tmp_path: Path,
) -> None:
    assert order_of(Paper(), Resources(cpu=Range(2)), tmp_path).memory_mib == 4096
    given = Paper(traits=Traits(enforces_memory=False, has_default_memory=True))
    assert order_of(given, Resources(), tmp_path / "b").memory_mib is None


def test_where_slurm_keeps_the_limit_the_most_that_may_be_used_is_reserved(tmp_path: Path) -> None:
    asked = Resources(memory_bytes=Range(GIB, 2 * GIB))
    assert order_of(Paper(), asked, tmp_path / "a").memory_mib == 1024
    keeps = Paper(traits=Traits(enforces_memory=True, has_default_memory=True))
    assert order_of(keeps, asked, tmp_path / "b").memory_mib == 2048


def test_slurm_is_told_of_a_time_limit_in_minutes_and_leaves_the_keeper_room_to_say_why(
    tmp_path: Path,
) -> None:
    assert order_of(Paper(), Resources(time_limit_s=0.1), tmp_path / "a").time_limit_min == 3
    assert order_of(Paper(most_s=3600), Resources(time_limit_s=3600), tmp_path / "b").time_limit_min == 60
    assert order_of(Paper(), Resources(), tmp_path / "c").time_limit_min is None


def test_a_job_on_several_nodes_needs_as_many_that_fit() -> None:
    small, large = Node("a", 2, GIB, 0, "", ("batch",)), Node("b", 8, GIB, 0, "", ("batch",))
    room = Room(Paper(small, large), "", 0.0)
    with pytest.raises(Refused, match="asks for 2 nodes, and 1 could take it"):
        room.place(Launch("a", ("true",), nodes=2, resources=Resources(cpu=Range(4))))


def test_what_slurm_refuses_uses_up_no_key_and_what_it_does_not_answer_does(tmp_path: Path) -> None:
    paper = Paper()
    engine = SlurmEngine(tmp_path, cluster=paper)
    paper.fails = Refused("no")
    with pytest.raises(Refused):
        engine.submit(Launch("a", ("true",)))
    assert not JobFiles(tmp_path / folder_name("a")).exists()
    paper.fails = Unavailable("away")
    with pytest.raises(Unavailable, match="submit the same key again"):
        engine.submit(Launch("a", ("true",)))
    assert JobFiles(tmp_path / folder_name("a")).exists("asked")
    paper.fails = None
    assert engine.status(["a"])["a"].phase is Phase.unknown
    engine.submit(Launch("a", ("true",)))
    engine.submit(Launch("a", ("true",)))
    assert len(paper.orders) == 1


@pytest.mark.property
@given(
    key=st.text(), word=st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)
def test_no_key_and_no_word_is_in_the_script_or_breaks_it(
    key: str, word: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paper = Paper()
    folder = tmp_path_factory.mktemp('it\'s $(a) "folder"')
    engine = SlurmEngine(folder, cluster=paper)
    engine.submit(Launch(key, ("echo", word), env={"WORD": word}))
    order = paper.orders[0]
    first, second = order.script.splitlines()
    assert first == "#!/bin/sh"
    words = shlex.split(second)
    assert words[:4] == ["exec", sys.executable, "-I", "-S"]
    assert words[5] == str(folder / folder_name(key))
    assert all(sign.isalnum() or sign in "-_" for sign in order.name)
    assert order.comment.isascii()
    assert order.comment.isprintable()
    record = JobFiles(folder / folder_name(key)).read("launch.json")
    assert record is not None
    assert record["argv"] == ["echo", word]
    engine.close()


def test_words_that_no_command_line_can_hold_are_refused(tmp_path: Path) -> None:
    engine = SlurmEngine(tmp_path, cluster=Paper())
    with pytest.raises(Refused, match="zero byte"):
        engine.submit(Launch("a", ("echo", "a\0b")))
    with pytest.raises(Refused, match="environment variable"):
        engine.submit(Launch("a", ("echo",), env={"A=B": "c"}))


def test_one_start_and_one_end_are_settled_by_who_is_first(tmp_path: Path) -> None:
    assert claim(tmp_path / "x", {"key": "x"}, {})
    assert not claim(tmp_path / "x", {"key": "x"}, {})
    files = JobFiles(tmp_path / "x")
    assert files.write_once("start.json", {"job_id": 1})
    assert not files.write_once("start.json", {"job_id": 2})
    assert files.read("start.json") == {"job_id": 1}
    assert sorted(path.name for path in files.path.iterdir()) == ["env.json", "launch.json", "start.json"]
    assert (files.path / "env.json").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_the_state_of_ten_thousand_jobs_is_two_questions_at_most(tmp_path: Path) -> None:
    paper = Paper()
    engine = SlurmEngine(tmp_path / "jobs", cluster=paper)
    keys = [f"job/{index}" for index in range(10_000)]
    paper.jobs = [SlurmJob(index, engine._name(key), "PENDING") for index, key in enumerate(keys[:-1], 1)]
    for index, key in enumerate(keys, 1):
        files = JobFiles(engine._files(key).path)
        files.path.mkdir()
        (files.path / "job.json").write_text(json.dumps({"job_id": index, "at": 0}))
    paper.asked.clear()
    found = engine.status(keys[:-1])
    assert {status.phase for status in found.values()} == {Phase.starting}
    assert paper.asked == ["queue"]
    paper.asked.clear()
    assert engine.status(keys)[keys[-1]].phase is Phase.ended  # of one that the queue does not know, accounts
    assert paper.asked == ["queue", "history"]


def test_a_job_that_slurm_forgot_is_lost_only_after_a_while(tmp_path: Path) -> None:
    paper = Paper()
    engine = SlurmEngine(tmp_path, cluster=paper)
    engine.submit(Launch("a", ("true",)))
    paper.jobs.clear()
    assert engine.status(["a"])["a"].phase is Phase.starting  # it was taken a moment ago
    JobFiles(tmp_path / folder_name("a")).write("job.json", {"job_id": 1, "at": 0})
    status = engine.status(["a"])["a"]
    assert status.exit is not None
    assert (status.exit.kind, status.exit.reason) == (
        ExitKind.worker_lost,
        "Slurm knows nothing of it any more",
    )


def test_the_keeper_needs_nothing_but_the_standard_library_of_python_3_9() -> None:
    tree = ast.parse(KEEPER.read_text(), feature_version=(3, 9))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)
