"""Turns in a folder: one at a time, by who asked first, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.adapters.delta import turns
from fourfold.adapters.delta.local import LocalPlace
from fourfold.adapters.delta.turns import QUEUE, Turn


def places(folder: Path) -> int:
    """How many have the turn or wait for it."""
    queue = os.open(folder / QUEUE, os.O_RDWR | os.O_CREAT)
    try:
        count, place = 0, turns._taken(queue, 0)
        while place is not None:
            count, place = count + 1, turns._taken(queue, place + 1)
        return count
    finally:
        os.close(queue)


def until(claim: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.001)


@contextmanager
def turn(folder: Path) -> Iterator[Turn]:
    taken = Turn(folder)
    try:
        yield taken
    finally:
        taken.end()


class Waiter(threading.Thread):
    """Waits for a turn, notes its name, and lets go."""

    def __init__(self, folder: Path, name: str, order: list[str]) -> None:
        super().__init__(daemon=True)
        self._folder, self._mark, self._order = folder, name, order
        before = places(folder)
        self.start()
        until(lambda: places(folder) == before + 1)

    def run(self) -> None:
        with turn(self._folder):
            self._order.append(self._mark)


@pytest.mark.property
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9))
def test_turns_go_by_who_asked_first(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder, order = tmp_path_factory.mktemp("turns"), list[str]()
    with turn(folder):
        waiters = [Waiter(folder, name, order) for name in names]
        assert order == []
    for waiter in waiters:
        waiter.join(timeout=60)
    assert order == names
    assert places(folder) == 0
    assert (folder / QUEUE).stat().st_size == 0


def test_who_asks_again_at_once_goes_behind_those_who_wait(tmp_path: Path) -> None:
    order = list[str]()
    first = Turn(tmp_path)
    waiters = [Waiter(tmp_path, name, order) for name in ("b", "c")]
    first.end()
    with turn(tmp_path):
        order.append("a again")
    for waiter in waiters:
        waiter.join(timeout=60)
    assert order == ["b", "c", "a again"]


# Deaths

PROCESS = """
import os, sys
from pathlib import Path
from fourfold.adapters.delta.turns import Turn
turn = Turn(Path(sys.argv[1]))
print("mine", flush=True)
if sys.argv[2:]:
    child = os.fork()
    if not child:
        sys.stdin.read()
        os._exit(0)
else:
    sys.stdin.read()
turn.end()
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(folder: Path, *how: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is in the queue, and lets go when its input ends."""
    before = places(folder)
    begun = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(folder), *how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    with begun:
        try:
            if not how:
                until(lambda: places(folder) == before + 1)
            yield begun
        finally:
            begun.kill()


def said(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)


@pytest.mark.slow
def test_a_turn_whose_process_is_killed_goes_to_the_next(tmp_path: Path) -> None:
    with process(tmp_path) as holder, process(tmp_path) as second:
        assert said(holder) == b"mine\n"
        kill(holder)
        assert said(second) == b"mine\n"
        assert places(tmp_path) == 1


@pytest.mark.slow
def test_who_waited_behind_a_killed_process_still_waits_for_those_before_it(tmp_path: Path) -> None:
    order = list[str]()
    holder = Turn(tmp_path)
    first = Waiter(tmp_path, "first", order)
    with process(tmp_path) as killed, process(tmp_path) as also:
        last = Waiter(tmp_path, "last", order)
        kill(also)
        kill(killed)
        until(lambda: places(tmp_path) == 3)
        newest = Waiter(tmp_path, "newest", order)
        assert order == []
        holder.end()
        for waiter in (first, last, newest):
            waiter.join(timeout=60)
    assert order == ["first", "last", "newest"]


@pytest.mark.slow
def test_a_forked_child_does_not_keep_its_parents_turn(tmp_path: Path) -> None:
    with process(tmp_path, "fork") as parent:
        assert (said(parent), said(parent)) == (b"mine\n", b"done\n")
        order = list[str]()

        def wait() -> None:
            with turn(tmp_path):
                order.append("b")

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        waiter.join(timeout=60)
        assert order == ["b"]


def test_a_wait_that_is_broken_off_leaves_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(turns, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Turn(tmp_path)
    assert places(tmp_path) == 0
    with turn(tmp_path):
        assert places(tmp_path) == 1


# Where there is no queue


def test_without_a_queue_there_is_still_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / QUEUE).mkdir()  # cannot be opened to write
    inside, most, lock = 0, 0, threading.Lock()

    def enter(by: int) -> None:
        nonlocal inside, most
        with lock:
            inside += by
            most = max(most, inside)

    def run() -> None:
        for _ in range(20):
            with turn(tmp_path):
                enter(+1)
                time.sleep(0)  # let another go on, if one can
                enter(-1)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (inside, most) == (0, 1)


def test_who_waited_in_a_folder_that_was_dropped_waits_in_the_new_one(tmp_path: Path) -> None:
    place, order = LocalPlace(tmp_path), list[str]()
    folder = tmp_path / "t" / "_delta_log"

    def wait() -> None:
        with place.turn("t/_delta_log"):
            order.append("mine")
            assert folder.is_dir()

    waiter = threading.Thread(target=wait)
    with place.turn("t/_delta_log"):
        waiter.start()
        until(lambda: places(folder) == 2)
        place.remove("t")
        folder.mkdir(parents=True)
        newer = Turn(folder)
    until(lambda: places(folder) == 2)
    assert order == []
    newer.end()
    waiter.join(timeout=60)
    assert order == ["mine"]
