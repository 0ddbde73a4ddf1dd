"""A worker on a machine that has a Python and nothing of ours: what it needs is brought, or built there."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.flows.conftest import opened
from tests.pools.lab import WITHIN_S, Lab, until
from uv import find_uv_bin

from fourfold.foundation.compute.locks import parse_lock, write_lock
from fourfold.foundation.compute.ourselves import starter
from fourfold.runner.start import GivenUp, Line

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCE = """
import os, sys

@ff.step(pool="lab", retries=2)
def look(n):
    import iniconfig
    print("it runs")
    return [sys.prefix, ff.__file__, iniconfig.__file__, os.getpid()]

@ff.step(pool="lab")
def open_the_project(n):
    from fourfold.wiring import open_project
    return repr(open_project().database)

@ff.step(pool="lab")
def give_much(n):
    return bytes(n)

@ff.flow
def train(n: int = 1):
    return [each.result() for each in [look(i) for i in range(n)]]

@ff.flow
def reach():
    return open_the_project(1).result()

@ff.flow
def give():
    assert len(give_much(60_000).result()) == 60_000
    return give_much(600_000).result()
"""


def lock_of(*names: str) -> str:
    """The lines of our own lock for these packages: real ones, with their hashes."""
    every = parse_lock((ROOT / "locks" / "dev.txt").read_text())
    return write_lock(tuple(package for package in every if package.name in names))


def give_uv(lab: Lab) -> None:
    """The machine has uv, which builds in a moment."""
    lab.environ["PATH"] = f"{Path(find_uv_bin()).parent}:/usr/bin:/bin"
    lab.environ |= {name: text for name, text in os.environ.items() if name.startswith(("SSL_", "UV_"))}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without a single package."""
    folder = tmp_path_factory.mktemp("bare")
    base = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin"


@pytest.fixture
def lab(tmp_path: Path, bare: Path) -> Iterator[Callable[[str], Lab]]:
    labs: list[Lab] = []
    with opened(tmp_path) as project:

        def make(lock: str) -> Lab:
            made = Lab(project, bare=bare, lock=lock)
            labs.append(made)
            made.wire.__enter__()
            return made

        yield make
        for each in labs:
            each.close()
            each.wire.close()


def test_a_machine_without_fourfold_gets_it_and_builds_the_environment_of_the_lock(
    lab: Callable[[str], Lab],
) -> None:
    there = lab(lock_of("iniconfig"))
    with closing(there.owner()) as flows:
        run = there.submit(SOURCE)
        ((prefix, ours, theirs, _),) = there.result(flows, run)
        assert Path(prefix) == there.cache / "envs" / there.locked.identity
        assert Path(ours).is_relative_to(there.cache / "runner")
        assert Path(theirs).is_relative_to(prefix)
        log = flows.logs(run, call="look#0").text
    assert "fetching Fourfold from the owner" in log
    assert "building env-" in log
    assert "Successfully installed iniconfig" in log
    assert log.rstrip().endswith("it runs")


def test_workers_that_begin_at_once_build_one_environment(lab: Callable[[str], Lab]) -> None:
    there = lab(lock_of("iniconfig"))
    give_uv(there)
    with closing(there.owner()) as flows:
        answers = there.result(flows, there.submit(SOURCE, n=2))
    assert len({prefix for prefix, _, _, _ in answers}) == 1
    assert len({pid for _, _, _, pid in answers}) == 2
    assert there.log().count("fourfold: built env-") == 1


@pytest.mark.parametrize(
    ("lock", "environ", "words"),
    [
        (f"iniconfig==2.3.1 --hash=sha256:{'0' * 64}\n", {}, "Hash mismatch"),
        (
            f"iniconfig==2.3.1 --hash=sha256:{'0' * 64}\n",
            {
                "PIP_CONFIG_FILE": "/dev/null",
                "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
                "PIP_RETRIES": "0",
            },
            "No matching distribution found",
        ),
    ],
    ids=["other-files", "no-network"],
)
def test_an_environment_that_cannot_be_built_fails_its_attempt_with_the_tools_last_words(
    lab: Callable[[str], Lab], lock: str, environ: dict[str, str], words: str
) -> None:
    there = lab(lock)
    there.environ = environ
    if not environ:
        give_uv(there)
    with closing(there.owner()) as flows:
        run = there.submit(SOURCE.replace("retries=2", ""))
        ended = flows.wait(run, timeout_s=WITHIN_S)
        assert ended.state == "failed"
        (call,) = [each for each in flows.graph(run).calls if each.key == "look#0"]
        assert call.failure is not None
        assert (call.failure.kind, call.failure.type) == ("failed", "Unavailable")
        assert "iniconfig==2.3.1 cannot be installed" in call.failure.message
        assert words in call.failure.message
        assert [each.n for each in flows.graph(run).attempts if each.call == "look#0"] == [1]
    assert [path.name for path in (there.cache / "envs").iterdir() if path.is_dir()] == []


def test_a_builder_that_is_killed_does_no_harm(lab: Callable[[str], Lab]) -> None:
    there = lab(lock_of("iniconfig"))
    with closing(there.owner()) as flows:
        run = there.submit(SOURCE)
        until(lambda: "building env-" in there.log(), "the environment is being built")
        (job,) = there.jobs.values()
        os.killpg(job.pid, signal.SIGKILL)
        there.result(flows, run)
        assert len([each for each in flows.graph(run).attempts if each.call == "look#0"]) == 2
    folders = [path.name for path in (there.cache / "envs").iterdir() if path.is_dir()]
    assert folders == [there.locked.identity]


def test_an_owner_that_is_away_while_an_environment_is_built_finds_its_step_going_on(
    lab: Callable[[str], Lab],
) -> None:
    there = lab(lock_of("iniconfig"))
    with closing(there.owner()):
        run = there.submit(SOURCE)
        until(lambda: "building env-" in there.log(), "the environment is being built")
    until(lambda: "fourfold: built env-" in there.log(), "it is built while nobody owns the project")
    with closing(there.owner()) as flows:
        flows.start_loop()
        there.result(flows, run)
        assert [each.n for each in flows.graph(run).attempts if each.call == "look#0"] == [1]
    assert len(there.jobs) == 1


def test_a_step_that_is_cancelled_while_its_environment_is_built_ends_with_the_builder(
    lab: Callable[[str], Lab],
) -> None:
    there = lab(lock_of("iniconfig"))
    with closing(there.owner()) as flows:
        run = there.submit(SOURCE)
        until(lambda: "building env-" in there.log(), "the environment is being built")
        flows.cancel(run)
        (job,) = there.jobs.values()
        job.wait(WITHIN_S)
        assert flows.wait(run, timeout_s=WITHIN_S).state == "cancelled"
    assert not (there.cache / "envs" / there.locked.identity).exists()


@pytest.mark.parametrize(("size", "what"), [("256k", "Fourfold could not be"), ("12m", "the disk is full")])
def test_a_full_disk_there_is_told_as_such_and_nothing_half_made_is_left(
    lab: Callable[[str], Lab], tmp_path: Path, size: str, what: str
) -> None:
    disk = tmp_path / "small disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs root on Linux: mount -t tmpfs was refused")
    try:
        there = lab(lock_of("iniconfig"))
        there.cache_at = str(disk)
        with closing(there.owner()) as flows:
            run = there.submit(SOURCE.replace("retries=2", ""))
            assert flows.wait(run, timeout_s=WITHIN_S).state == "failed"
            (call,) = [each for each in flows.graph(run).calls if each.key == "look#0"]
            assert call.failure is not None
            assert call.failure.type == "OutOfSpace"
            assert what in call.failure.message
        made = [path.name for path in disk.glob("*/*") if path.is_dir()]
        assert not [name for name in made if name.startswith((".", "env-"))]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_what_only_the_owners_machine_has_is_refused_there_in_words(lab: Callable[[str], Lab]) -> None:
    there = lab(lock_of("msgspec"))
    give_uv(there)
    with closing(there.owner()) as flows:
        for flow, part in (("reach", "catalog"), ("give", "storage")):
            ended = flows.wait(there.submit(SOURCE, flow=flow), timeout_s=WITHIN_S)
            assert ended.failure is not None
            assert f"not see the project's folder, and its {part} lies there" in ended.failure.message


def test_a_starter_that_is_not_wanted_is_refused_and_one_meets_only_its_owner(
    lab: Callable[[str], Lab],
) -> None:
    there = lab("")
    with closing(there.owner()) as flows:
        there.result(flows, there.submit(SOURCE.replace("    import iniconfig\n", "    iniconfig = ff\n")))
        owner = flows._client._owner
        assert owner is not None
        environ = owner._ways_in("worker_of_before", is_far=True)
        with pytest.raises(GivenUp, match="was given up"):
            Line(environ).ask({"type": "plan"}, "plan")
        with pytest.raises(OSError, match="not the owner"):
            Line({**environ, "FOURFOLD_OWNER_CERTIFICATE": "f" * 64}).open()
        other = Line({**environ, "FOURFOLD_WORKER_TOKEN": "0" * 64, "FOURFOLD_WORKER_AWAY_S": "0.5"})
        with pytest.raises(GivenUp, match="not heard of"):
            other.ask({"type": "plan"}, "plan")


def test_what_is_sent_first_can_be_read_by_old_interpreters() -> None:
    ast.parse(starter(), feature_version=(3, 8))
