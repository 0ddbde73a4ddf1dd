"""The pure parts of the container engine, without any podman."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.compute.test_local_engine import UNIT

from fourfold.adapters.containers import ContainerEngine, ContainerSettings, groups, traffic
from fourfold.adapters.containers.groups import Reading
from fourfold.adapters.containers.reading import Asked, Marks, exit_of, times
from fourfold.core.errors import Missing, Refused, Unavailable
from fourfold.core.ports.engine import ExitKind, Launch, Phase

MIB = 1 << 20


@pytest.mark.parametrize(
    ("code", "wall_s", "asked", "used", "kind"),
    [
        (0, 1.0, Asked("a"), Reading(), ExitKind.ok),
        (3, 1.0, Asked("a"), Reading(), ExitKind.failed),
        (139, 1.0, Asked("a"), Reading(), ExitKind.failed),
        (137, 1.0, Asked("a"), Reading(), ExitKind.worker_lost),
        (143, 1.0, Asked("a"), Reading(), ExitKind.worker_lost),
        (137, 1.0, Asked("a", memory_bytes=64 * MIB), Reading(), ExitKind.out_of_memory),
        (137, 1.0, Asked("a", memory_bytes=64 * MIB), Reading(1, 63 * MIB), ExitKind.out_of_memory),
        (137, 1.0, Asked("a", memory_bytes=64 * MIB), Reading(1, 20 * MIB), ExitKind.worker_lost),
        (1, 1.0, Asked("a", memory_bytes=64 * MIB), Reading(1, 64 * MIB, 1), ExitKind.out_of_memory),
        (1, 1.0, Asked("a", memory_bytes=64 * MIB), Reading(1, 64 * MIB, 0), ExitKind.failed),
        (-1, 0.998, Asked("a", time_limit_s=1.0), Reading(), ExitKind.over_time),
        (255, 0.2, Asked("a", time_limit_s=1.0), Reading(), ExitKind.failed),
        (-1, 0.2, Asked("a"), Reading(), ExitKind.worker_lost),
    ],
)
def test_an_end_is_told_by_its_code_and_by_what_the_kernel_counted(
    code: int, wall_s: float, asked: Asked, used: Reading, kind: ExitKind
) -> None:
    exit_ = exit_of(code, wall_s, asked, Marks(), used, b"")
    assert exit_.kind is kind
    assert exit_.reason or kind is ExitKind.ok


def test_what_we_stopped_is_cancelled_however_it_ended() -> None:
    for code in (0, 1, 137, 143, -1):
        assert exit_of(code, 9, Asked("a"), Marks(is_stopped=True), Reading(), b"").kind is ExitKind.cancelled


def test_times_have_microseconds_and_never_run_backwards() -> None:
    began, ended = times(
        {"StartedAt": "2026-11-25T12:51:09.36998833Z", "FinishedAt": "2026-11-25T13:51:09.3+01:00"}
    )
    assert began == ended
    assert began % 1_000_000 == 369_988


def test_groups_of_version_2_are_made_read_and_removed(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    assert groups.made("j", tmp_path) == "/fourfold-containers/j"
    folder = tmp_path / "fourfold-containers" / "j"
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (folder / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    (folder / "memory.peak").write_text("4096\n")
    assert groups.reading("j", tmp_path) == Reading(1.5, 4096, 1)
    for file in folder.iterdir():  # the kernel's own go with their folder
        file.unlink()
    groups.remove("j", tmp_path)
    assert not folder.exists()


def test_without_groups_nothing_is_made_up(tmp_path: Path) -> None:
    assert groups.made("j", tmp_path) == ""
    assert groups.reading("j", tmp_path) == Reading()


def test_the_bytes_of_all_devices_but_loopback_count_and_those_of_a_shared_network_do_not(
    tmp_path: Path,
) -> None:
    table = (
        "Inter-|   Receive    |  Transmit\n face |bytes packets errs |bytes\n"
        "    lo: 500 5 0 0 0 0 0 0 500 5 0 0 0 0 0 0\n  eth0: 1000 5 0 0 0 0 0 0 200 5 0 0 0 0 0 0\n"
    )
    for pid, network in (("self", "net:[1]"), ("7", "net:[2]"), ("8", "net:[1]")):
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "net").mkdir()
        (tmp_path / pid / "ns/net").symlink_to(network)
        (tmp_path / pid / "net/dev").write_text(table)
    job = tmp_path / "job"
    job.mkdir()
    assert traffic.last(job, "bridge") is None
    assert traffic.looked(8, job, tmp_path) is None
    assert traffic.looked(7, job, tmp_path) == traffic.last(job, "bridge") == 1200
    assert traffic.looked(9, job, tmp_path) is None  # gone meanwhile: what was seen stays
    assert traffic.last(job, "bridge") == 1200
    assert traffic.last(tmp_path, "none") == 0


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("podman://host", "podman://\\?image="),
        ("podman://?imge=x", "did you mean 'image'"),
        ("podman://?mount=data", "whole path"),
        ("podman://?mount=/a,ro=false", "commas"),
        ("podman://?most_files=many", "number"),
        ("podman://?timeout_s=0", "above 0"),
        ("podman://?image=--privileged", "a name"),
        ("podman://?pull=always", "never, missing"),
    ],
)
def test_an_address_that_says_nothing_we_know_is_refused(address: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        ContainerSettings.parse(address)


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def _engine(tmp_path: Path) -> ContainerEngine:
    settings = ContainerSettings.parse("podman://?image=localhost/x:1&timeout_s=0.2")
    return ContainerEngine(tmp_path / "jobs", settings, label="x", unit=UNIT, project=tmp_path)


def test_a_machine_without_podman_is_told_what_to_install(tmp_path: Path, bin_folder: Path) -> None:
    with pytest.raises(Missing, match="apt-get install podman"):
        _engine(tmp_path).submit(Launch("a", ("true",)))


def test_a_podman_that_hangs_is_unavailable_within_its_time(tmp_path: Path, bin_folder: Path) -> None:
    tool = bin_folder / "podman"
    tool.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    tool.chmod(0o755)
    with pytest.raises(Unavailable, match=r"within 0\.2 s"):
        _engine(tmp_path).status(["a"])


LISTS = """#!{python}
import json, sys
from pathlib import Path
here = Path(__file__).parent
with (here / "asked").open("a") as asked:
    asked.write(sys.argv[1] + "\\n")
listed = json.loads((here / "listed.json").read_text())
if sys.argv[1] == "ps":
    print(json.dumps(listed))
else:
    state = {{"ExitCode": 0, "StartedAt": "2026-11-25T12:00:00.25Z", "FinishedAt": "2026-11-25T12:00:01.5Z"}}
    print(json.dumps([{{"Name": name, "State": state}} for name in sys.argv[3:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("state", ["running", "exited"])
def test_the_status_of_ten_thousand_jobs_is_two_commands_at_most(
    tmp_path: Path, bin_folder: Path, state: str
) -> None:
    settings = ContainerSettings.parse("podman://?image=localhost/x:1")
    engine = ContainerEngine(tmp_path / "jobs", settings, label="x", unit=UNIT, project=tmp_path)
    keys = [f"job/{index}" for index in range(10_000)]
    listed = [
        {
            "Names": [engine._of(key).name],
            "Labels": {"fourfold.project": "x", "fourfold.key": key},
            "State": state,
            "StartedAt": 1_764_072_000,
            "ExitedAt": 1_764_072_001,
            "ExitCode": 3,
            "Pid": 0,
        }
        for key in keys
    ]
    (bin_folder / "listed.json").write_text(json.dumps(listed))
    tool = bin_folder / "podman"
    tool.write_text(LISTS.format(python=sys.executable))
    tool.chmod(0o755)
    found = engine.status(keys)
    assert {status.phase for status in found.values()} == {
        Phase.running if state == "running" else Phase.ended
    }
    if state == "exited":
        codes = [status.exit.code for status in found.values() if status.exit is not None]
        assert (codes.count(0), codes.count(3)) == (100, 9_900)
        engine.status(keys)  # what has ended is known
    asked = (bin_folder / "asked").read_text().split()
    assert asked == (["ps"] if state == "running" else ["ps", "container"])
