"""What `kill -9`, a power cut and a full disk leave of a buffer on this machine: what was acknowledged."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fourfold.adapters.sqlite_buffer import SqliteBuffer
from fourfold.core.errors import Corrupted, OutOfSpace, Refused
from fourfold.core.ports.buffer import Addition, RowBuffer
from fourfold.core.ports.tables import Mark
from fourfold.testing.buffer import addition, texts

MIB = 2**20

ADDER = """
import os, sys
from pathlib import Path
from fourfold.adapters.sqlite_buffer import SqliteBuffer
from fourfold.testing.buffer import addition

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
buffer = SqliteBuffer(path, most_bytes=2**30)
for number in range(count):
    buffer.add([addition(f"{name}{number}", key=f"{name}{number}")])
    os.write(1, f"{number}\\n".encode())
    if number % 10 == 5:
        buffer.forget("t", upto=0)
"""


def opened(path: Path) -> RowBuffer:
    return SqliteBuffer(path, most_bytes=2**30)


@pytest.mark.slow
def test_what_a_killed_process_had_acknowledged_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    command = [sys.executable, "-c", ADDER, str(path)]
    children = [
        subprocess.Popen([*command, name, "100000"], stdout=subprocess.PIPE, text=True) for name in "abc"
    ]
    acknowledged: list[str] = []
    for name, child in zip("abc", children, strict=True):
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(20)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
        child.wait(timeout=60)
        acknowledged += [f"{name}{int(line)}" for line in lines if line.endswith("\n")]
    buffer = opened(path)
    kept = [entry.number for entry in buffer.after("t")]
    assert kept == list(range(1, len(kept) + 1))
    found = texts(buffer)
    assert len(found) == len(set(found))
    assert len(set(acknowledged) - set(found)) <= 1  # number 0 was forgotten
    assert len(found) + 1 <= len(acknowledged) + len(children)
    for text in found[-5:]:
        assert buffer.add([addition(text, key=text)])[0].number in kept


# Power cuts: the disk forgets what was not synced.

CALLS = "trace=pwrite64,fdatasync,fsync,ftruncate,unlink,write"
CALL = re.compile(
    rb"(pwrite64|fdatasync|fsync|ftruncate|unlink|write)"
    rb'\((?:\d+<([^>]*)>|"([^"]*)")(?:, "([^"]*)", \d+)?(?:, (\d+))?\) += \d'
)


def trace(folder: Path, *command: str) -> Iterator[tuple[str, str, bytes, int]]:
    """What a process did to files, in order: the call, the file, the bytes, the place or length."""
    if shutil.which("strace") is None:
        pytest.skip("a power cut is made from a trace of system calls, and there is no strace")
    log = str(folder / "trace")
    strace = ["strace", "-f", "-y", "-xx", "-s", "10000000", "-e", CALLS, "-o", log]
    done = subprocess.run([*strace, *command], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"strace may not run here: {done.stderr.decode()[:200]}")
    for line in Path(log).read_bytes().splitlines():
        if (found := CALL.search(line)) is not None:
            call, opened, named, data, place = found.groups()
            yield call.decode(), _plain(opened or named).decode(), _plain(data or b""), int(place or 0)


def _plain(text: bytes) -> bytes:
    r"""What `\x41` and its like stand for."""
    return bytes.fromhex(text.replace(rb"\x", b"").decode()) if text.startswith(rb"\x") else text


class Disk:
    """The files of a folder as they are, and as they would be after a power cut now."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.is_folder_synced = False
        self.kept: dict[str, bytes] = {}
        self._now: dict[str, bytearray] = {}
        self._removed: set[str] = set()

    def apply(self, call: str, path: str, data: bytes, place: int) -> bool:
        """Do what a call did; whether it could make a difference after a power cut."""
        if path == self.folder:
            self.is_folder_synced = True
            for gone in self._removed:
                self.kept.pop(gone, None)
            self._removed.clear()
        elif path.startswith(self.folder):
            file = self._now.setdefault(path, bytearray())
            match call:
                case "pwrite64":
                    file.extend(bytes(max(0, place + len(data) - len(file))))
                    file[place : place + len(data)] = data
                case "ftruncate":
                    del file[place:]
                    file.extend(bytes(place - len(file)))
                case "unlink":
                    self._removed.add(path)
                    del self._now[path]
                case _:
                    self.kept[path] = bytes(file)
        return call not in {"pwrite64", "ftruncate", "unlink"}

    def cut_power(self, target: Path) -> None:
        """Leave in a folder what would be there after a power cut."""
        target.mkdir(parents=True)
        for path, content in self.kept.items():
            (target / Path(path).name).write_bytes(content)


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_power_cut(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    disk, acknowledged, cuts = Disk(project), 0, 0
    command = [sys.executable, "-c", ADDER, str(project / "buffer.db"), "a", "25"]
    for call, path, data, place in trace(tmp_path, *command):
        if call == "write":
            acknowledged += data[:-1].isdigit()
        if disk.apply(call, path, data, place) and acknowledged:
            assert disk.is_folder_synced
            cuts += 1
            disk.cut_power(tmp_path / str(cuts))
            numbers = {entry.number for entry in opened(tmp_path / str(cuts) / "buffer.db").after("t")}
            assert numbers >= set(range(1, acknowledged)), f"cut {cuts}"
    assert acknowledged == 25
    assert cuts >= 50


# A full disk, a damaged file, a file of the future


def test_a_full_disk_refuses_an_addition_and_keeps_what_was_there(small_disk: Path) -> None:
    buffer = opened(small_disk / "buffer.db")
    kept = 0

    def add_until_full() -> None:
        nonlocal kept
        while True:
            buffer.add([Addition("t", 1, b"x" * 50_000, Mark(key=f"k{kept}"))])
            kept += 1

    with pytest.raises(OutOfSpace, match="nothing was added"):
        add_until_full()
    assert kept > 5
    assert len(buffer.after("t")) == kept
    assert len(opened(small_disk / "buffer.db").after("t")) == kept
    assert buffer.waiting()[0].size_bytes == kept * 50_000


def test_a_disk_that_is_full_from_the_start_is_said_and_the_buffer_works_once_there_is_room(
    small_disk: Path,
) -> None:
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(3 * MIB))
    buffer = opened(small_disk / "buffer.db")
    with pytest.raises(OutOfSpace):
        buffer.add([addition()])
    filler.unlink()
    assert buffer.add([addition()])[0].number == 0


def test_a_damaged_file_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    path.write_bytes(b"no database" * 1000)
    calls: list[Callable[[RowBuffer], object]] = [
        lambda buffer: buffer.add([addition()]),
        lambda buffer: buffer.after("t"),
        lambda buffer: buffer.waiting(),
    ]
    for call in calls:
        with pytest.raises(Corrupted, match="salvages"):
            call(opened(path))
    assert path.read_bytes() == b"no database" * 1000


def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    import sqlite3

    buffer = opened(tmp_path / "buffer.db")
    buffer.add([addition()])
    buffer.close()
    with sqlite3.connect(tmp_path / "buffer.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Refused, match="newer Fourfold"):
        opened(tmp_path / "buffer.db").after("t")


def test_a_buffer_that_nobody_adds_to_makes_no_file(tmp_path: Path) -> None:
    buffer = opened(tmp_path / "project" / "buffer.db")
    assert (buffer.after("t"), buffer.waiting(), buffer.forget("t", upto=9)) == ((), (), 0)
    buffer.close()
    assert list(tmp_path.iterdir()) == []
