"""Processes that append to one table at once, while some of them are killed."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from fourfold.adapters.delta import DeltaTables
from fourfold.testing.table_kit.given import numbers

pytestmark = pytest.mark.slow

WRITER = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.disk import Disk
from fourfold.adapters.delta.local import LocalPlace

home, number, count, steps = Path(sys.argv[1]), *map(int, sys.argv[2:])

class Deadly(Disk):
    left = steps

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name in {"write", "sink", "sync", "link", "rename", "unlink"} and self.left:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
        return found

store = DeltaTables(LocalPlace(home, Deadly()))
for turn in range(count):
    commit = store.append("t", pa.table({"n": [10_000 * number + turn]}))
    print(commit.version, 10_000 * number + turn, commit.rows, flush=True)
"""
LONG = 12
"""What a writer that nobody kills appends."""


class Writer(threading.Thread):
    """A process that appends, followed by this thread: what it was told stands in `told`."""

    def __init__(self, home: Path, number: int, *, steps: int = 0, lines: int = 0) -> None:
        """Killed at one of its disk's `steps`, or when it was told so many `lines`, or not at all."""
        super().__init__(daemon=True)
        self.told: list[tuple[int, int, int]] = []
        """Version, number and rows of each append that was acknowledged."""
        self._lines = lines
        count = 1000 if lines else LONG
        command = [sys.executable, "-c", WRITER, str(home), str(number), str(count), str(steps)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        self.start()

    def run(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                if found := re.fullmatch(r"(\d+) (\d+) (\d+)\n", line):
                    self.told.append((int(found[1]), int(found[2]), int(found[3])))
                if self._lines and len(self.told) >= self._lines:
                    self.process.kill()

    def end(self) -> int:
        try:
            return self.process.wait(timeout=300)
        finally:
            self.process.kill()
            self.join(timeout=60)


@pytest.mark.parametrize("seed", range(2))
def test_whoever_is_killed_nothing_acknowledged_is_lost_and_nobody_waits_for_ever(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    DeltaTables(tmp_path).append("t", pa.table({"n": [0]}))
    long = [Writer(tmp_path, number) for number in range(1, 4)]
    ends: list[int] = []
    short: list[Writer] = []
    for number in range(10, 19, 3):  # three at a time
        begun = [Writer(tmp_path, number, steps=chance.randrange(1, 40)) for number in (number, number + 1)]
        begun.append(Writer(tmp_path, number + 2, lines=chance.randrange(1, 5)))
        ends += [writer.end() for writer in begun]
        short += begun
    assert [writer.end() for writer in long] == [0, 0, 0]
    assert set(ends) == {-9}
    assert [len(writer.told) for writer in long] == [LONG] * 3

    store = DeltaTables(tmp_path)
    history = {commit.version: commit for commit in store.history("t")}
    assert sorted(history) == list(range(len(history)))
    for writer in (*long, *short):
        for version, number, rows in writer.told:
            added = store.difference("t", before=version - 1, after=version).added.read_all()
            assert added["n"].to_pylist() == [number]
            assert history[version].rows == rows == version + 1
    found = numbers(store)
    assert len(found) == len(set(found)) == len(history), "what was not acknowledged is there once, or not"
    unsaid = len(found) - 1 - sum(len(writer.told) for writer in (*long, *short))
    assert 0 <= unsaid <= len(short), "only what a process died of may be there without having been told"
    assert store.append("t", pa.table({"n": [1]})).version == len(history)
