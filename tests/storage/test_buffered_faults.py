"""Inserts and flushes on the disk, by real processes that are killed, race, and run out of space."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from tests.storage.conftest import rows
from tests.storage.test_buffered_machine import Stepping, Steps, misfit

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.sqlite_buffer import SqliteBuffer
from fourfold.adapters.system_clock import SystemClock
from fourfold.core.errors import OutOfSpace
from fourfold.core.ports.tables import Mark
from fourfold.core.settings import BufferSettings
from fourfold.foundation.storage.buffered import Buffered
from fourfold.testing.clock import START

pytestmark = pytest.mark.slow

FORKS = multiprocessing.get_context("forkserver")
"""Children are forked from a process that did nothing but import: quick, and free of its threads."""
FORKS.set_forkserver_preload([__name__])


def opened(home: Path, steps: Steps | None = None, **bounds: Any) -> tuple[Buffered, DeltaTables]:
    steps = steps or Steps()
    tables = DeltaTables(home / "tables")
    buffered = Buffered(
        Stepping(SqliteBuffer(home / "buffer.db", most_bytes=2**26), steps),
        Stepping(tables, steps),
        SystemClock(),
        bounds=BufferSettings(**bounds),
        flushed=lambda name, snapshot, entries: None,
        unfit=misfit,
        is_dropped=lambda name: False,
    )
    return buffered, tables


def seen(buffered: Buffered, tables: DeltaTables) -> Counter[int]:
    live = buffered.live("t")
    flushed = tables.scan("t", version=live.snapshot.version, columns=("n",)).read_all()
    return Counter([*flushed["n"].to_pylist(), *live.rows["n"].to_pylist()])


def insert(buffered: Buffered, *numbers: int, key: str = "") -> None:
    buffered.insert("t", rows(*numbers), Mark(key=key, at=SystemClock().now()))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    DeltaTables(tmp_path / "tables").append("t", rows(), mark=Mark(at=START))
    return tmp_path


@pytest.fixture
def children() -> Iterator[list[Any]]:
    """Processes of a test, which do not outlive it."""
    started: list[Any] = []
    yield started
    for child in started:
        child.kill()
        child.join(timeout=60)


# Killed at each step


def killed_at(home: Path, step: int, doing: str, first: int) -> None:
    steps = Steps()
    buffered, _ = opened(home, steps)
    insert(buffered, first)
    insert(buffered, first + 1)
    steps.at(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if doing == "flush":
        buffered.flush("t")
    else:
        insert(buffered, first + 2, key=f"k{first}")
    os._exit(0)


@pytest.mark.parametrize("doing", ["insert", "flush"])
def test_a_process_killed_at_any_step_leaves_each_row_once(
    home: Path, children: list[Any], doing: str
) -> None:
    expected: Counter[int] = Counter()
    for step in range(40):
        first = step * 10
        child = FORKS.Process(target=killed_at, args=(home, step, doing, first))
        child.start()
        children.append(child)
        child.join(timeout=60)
        expected.update([first, first + 1])
        buffered, tables = opened(home)
        found = seen(buffered, tables)
        assert not expected - found
        assert found - expected <= Counter([first + 2])
        if doing == "insert":  # the attempt is repeated
            insert(buffered, first + 2, key=f"k{first}")
            expected.update([first + 2])
        if step % 3 == 2:
            buffered.flush("t")
        assert seen(buffered, tables) == expected
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert step > (2 if doing == "insert" else 10)
    buffered.flush("t")
    (newest,) = tables.history("t", limit=1)
    assert newest.rows == len(expected)


# Several at once


def inserts(home: Path, name: int, count: int, told: Connection) -> None:
    buffered, _ = opened(home)
    for number in range(count):
        insert(buffered, name * 1000 + number)
        told.send(name * 1000 + number)
    told.close()
    os._exit(0)


def flushes(home: Path) -> None:
    buffered, tables = opened(home)
    while True:
        buffered.flush("t")
        tables.compact("t")


def test_four_insert_while_one_flushes_and_compacts_and_one_reads(home: Path, children: list[Any]) -> None:
    ends: list[Connection] = []
    for name in range(4):
        receiving, sending = FORKS.Pipe(duplex=False)
        children.append(FORKS.Process(target=inserts, args=(home, name, 60, sending)))
        children[-1].start()
        sending.close()
        ends.append(receiving)
    children.append(FORKS.Process(target=flushes, args=(home,)))
    children[-1].start()
    buffered, tables = opened(home)
    acknowledged: Counter[int] = Counter()
    versions: set[int] = set()
    while ends:
        for end in multiprocessing.connection.wait(ends, timeout=60):
            assert isinstance(end, Connection)
            try:
                acknowledged.update([end.recv()])
            except EOFError:
                ends.remove(end)
        found = seen(buffered, tables)
        versions.add(buffered.live("t").snapshot.version)
        assert not acknowledged - found, "an acknowledged row was not read"
        assert set(found.values()) <= {1}, "a row was read twice"
    assert len(acknowledged) == 240
    assert len(versions) > 3
    children[-1].kill()
    children[-1].join(timeout=60)
    buffered.flush("t")
    assert seen(buffered, tables) == acknowledged
    assert tables.snapshot("t").rows == 240


# Disks


def test_a_full_disk_under_the_tables_leaves_the_rows_waiting(small_disk: Path, tmp_path: Path) -> None:
    tables = DeltaTables(small_disk / "tables")
    tables.append("t", rows())
    buffered = Buffered(
        SqliteBuffer(tmp_path / "buffer.db", most_bytes=2**26),
        tables,
        SystemClock(),
        bounds=BufferSettings(),
        flushed=lambda name, snapshot, entries: None,
        unfit=misfit,
        is_dropped=lambda name: False,
    )
    insert(buffered, *range(100))
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(3 * 2**20))
    with pytest.raises(OutOfSpace):
        buffered.flush("t")
    insert(buffered, 100)
    assert seen(buffered, tables) == Counter(range(101))
    filler.unlink()
    assert buffered.flush("t") == 1
    assert seen(buffered, tables) == Counter(range(101))
    assert buffered.waiting() == ()
