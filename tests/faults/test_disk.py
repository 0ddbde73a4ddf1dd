"""A disk that is full, and bytes that have changed on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Project

pytestmark = pytest.mark.slow

FLOW = """\
import fourfold as ff
import pyarrow as pa
import random


@ff.step
def small() -> int:
    with open("small was called", "a") as file:
        file.write("x")
    return ff.table("rows").append(pa.table({"text": ["small"]})).rows


@ff.step
def large(before: int) -> int:
    chance = random.Random(7)
    texts = [chance.randbytes(1000).hex() for _ in range(6000)]
    return ff.table("rows").append(pa.table({"text": texts})).rows


@ff.step
def make_bytes() -> bytes:
    return bytes(range(256)) * 1000


@ff.flow
def fills() -> int:
    return large(small()).result()


@ff.flow
def gives_bytes() -> bytes:
    return make_bytes().result()
"""


@pytest.fixture
def small_project(tmp_path: Path) -> Iterator[Project]:
    """A project on a disk of 8 MiB. Its code lies elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs root on Linux: mount -t tmpfs was refused")
    try:
        yield Project(disk)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_flow_on_a_full_disk_fails_in_words_and_finishes_with_space(small_project: Project) -> None:
    project = small_project
    (project.folder / "flow.py").write_text(FLOW)
    ballast = project.folder / "ballast"
    ballast.write_bytes(b"\0" * 2**20)
    told = project.refused("flow", "run", "flow.py", "fills")
    assert "space" in told
    assert [each["rows"] for each in project.json("table", "ls")] == [1], "nothing half-written is seen"
    (run,) = project.json("flow", "ls")
    assert run["state"] == "failed"
    subprocess.run(["mount", "-o", "remount,size=64m", str(project.folder)], check=True)
    assert project.command("flow", "resume", run["id"]).returncode == 0
    assert [each["rows"] for each in project.json("table", "ls")] == [6001]
    assert (project.folder / "small was called").read_text() == "x", "a finished step ran again"
    with project.opened() as opened:
        assert opened.storage.read("rows").num_rows == 6001


def test_a_disk_without_any_space_refuses_new_runs_and_keeps_what_was_there(small_project: Project) -> None:
    project = small_project
    (project.folder / "flow.py").write_text(FLOW.replace("range(6000)", "range(10)"))
    assert project.done("flow", "run", "flow.py", "fills", "-q") == "11\n"
    with (project.folder / "ballast").open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), b"\0" * 4096)
        except OSError:
            pass
    done = project.command("flow", "run", "flow.py", "fills", "-q")
    assert done.returncode == 1
    assert "space" in done.stderr.lower()
    assert "met a defect" not in done.stderr
    (project.folder / "ballast").unlink()
    assert [each["rows"] for each in project.json("table", "ls")] == [11]
    assert project.done("flow", "run", "flow.py", "fills", "-q") == "22\n"


def test_a_corrupted_blob_is_never_served(project: Project) -> None:
    (project.folder / "flow.py").write_text(FLOW)
    first = project.command("flow", "run", "flow.py", "gives_bytes", "--key", "once", "-q")
    assert first.returncode == 0, first.stderr
    largest = max(
        (p for p in (project.home / "blobs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    assert largest.stat().st_size >= 256_000
    largest.chmod(0o600)
    data = bytearray(largest.read_bytes())
    data[1000] ^= 1
    largest.write_bytes(data)
    told = project.refused("flow", "run", "flow.py", "gives_bytes", "--key", "once", "-q")
    assert "does not hold the bytes that were stored" in told
