"""The door for workers on other machines: who may come in, what is noticed, and what is told again."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from tests.pools.wire import Wire, free_port

from fourfold.core import frames
from fourfold.core.errors import Refused
from fourfold.core.ports.control import Joined, Message
from fourfold.resources.flows import certificate, secure
from fourfold.resources.flows.peers import FarDoor, Peers
from fourfold.runner.far import FarConnection

pytestmark = [
    pytest.mark.slow,
    # A worker that ends itself ends the thread that found out.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

WITHIN_S = 20.0
SECRET = b"a secret of this test"


class Door:
    """An owner's connections without its loop: what arrives is put in a queue."""

    def __init__(self, folder: Path) -> None:
        path, self.fingerprint = certificate.identity(folder)
        self.port = free_port()
        self.arrived: SimpleQueue[Any] = SimpleQueue()
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._is_over = False
        self.peers = Peers(self.arrived.put, joined=self.arrived.put, left=self._left)
        self.peers.listen_far(
            FarDoor("127.0.0.1", self.port, secure.server_context(path), self.fingerprint, SECRET)
        )
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()

    def _left(self, peer: str, *, is_worker: bool, is_far: bool) -> None:
        assert is_worker
        assert is_far
        self.arrived.put(f"{peer} left")

    def _turn(self) -> None:
        while not self._is_over:
            self.peers.wait(0.01)
            while not self._asked.empty():
                self._asked.get()()

    def next(self) -> Any:
        return self.arrived.get(timeout=WITHIN_S)

    def tell(self, worker: str, header: dict[str, Any]) -> None:
        self._asked.put(lambda: self.peers.send(worker, header))

    def close(self) -> None:
        self._is_over = True
        self._thread.join(WITHIN_S)
        self.peers.close()


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(secure, "BEAT_S", 0.1)
    monkeypatch.setattr(secure, "QUIET_S", 1.0)
    door = Door(tmp_path)
    yield door
    door.close()


@contextmanager
def worker(
    door: Door, *, port: int = 0, token: str = "", certificate: str = "", away_s: float = 60.0
) -> Iterator[tuple[FarConnection, SimpleQueue[str]]]:
    ended: SimpleQueue[str] = SimpleQueue()

    def end(reason: str) -> None:
        ended.put(reason)
        raise SystemExit  # of its thread, in silence

    connection = FarConnection(
        ("127.0.0.1", port or door.port),
        worker="worker_1",
        token=token or secure.token_of(SECRET, "worker_1"),
        certificate=certificate or door.fingerprint,
        away_s=away_s,
        end=end,
    )
    yield connection, ended
    connection._away_s = 0.0  # it ends as soon as it finds nobody
    connection._hang_up()


def welcome(door: Door, *, tell_result: bool = False) -> None:
    door.tell("worker_1", {"type": "welcome", "tell_result": tell_result, "away_s": 60})


TASK = {"type": "task", "run": "run_1", "key": "fit#0", "n": 2}


def test_a_worker_proves_its_token_and_is_heard(door: Door) -> None:
    with worker(door) as (connection, _):
        joined = door.next()
        assert (joined.worker, joined.has, joined.is_done) == ("worker_1", None, False)
        welcome(door)
        assert connection.receive()[0]["type"] == "welcome"
        door.tell("worker_1", TASK)
        assert connection.receive()[0]["type"] == "task"
        connection.send({"type": "finished", "n": 2}, [b"result"])
        assert door.next() == Message("worker_1", {"type": "finished", "n": 2, "parts": [6]}, [b"result"])


def test_nobody_comes_in_with_another_token(door: Door) -> None:
    with worker(door, token="0" * 64, away_s=0.5) as (_, ended):
        assert "was not heard of" in ended.get(timeout=WITHIN_S)
    assert door.arrived.empty()


def test_a_worker_says_nothing_to_who_is_not_its_owner(door: Door) -> None:
    """Somebody else at the owner's address: the certificate is another one, so no proof is sent."""
    with worker(door, certificate="f" * 64, away_s=0.5) as (_, ended):
        assert "not the owner: its certificate" in ended.get(timeout=WITHIN_S)
    assert door.arrived.empty()


def test_a_proof_holds_for_one_challenge_process_and_certificate() -> None:
    facts = {"nonce": "n", "worker": "w", "life": "l", "fingerprint": "f"}
    made = {secure.proof("token", **facts)}
    made |= {secure.proof("token", **{**facts, name: "x"}) for name in facts}
    assert len(made) == 5
    assert "token" not in "".join(made)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 100, b""])
def test_what_is_no_worker_is_let_go_and_others_come_in(door: Door, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", door.port)) as stranger:
        stranger.sendall(said)
        if not said:
            stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(WITHIN_S)
        with suppress(ConnectionResetError):
            while stranger.recv(4096):
                pass
    with worker(door):
        assert door.next().worker == "worker_1"


def test_a_stranger_who_speaks_the_protocol_gets_no_further_than_a_few_bytes(door: Door) -> None:
    tls = secure.Secure(secure.client_context(), is_server=False)
    with socket.create_connection(("127.0.0.1", door.port)) as stranger:
        stranger.settimeout(WITHIN_S)
        stranger.sendall(tls.begin())
        while not tls.is_ready:
            _, answer = tls.feed(stranger.recv(4096))
            stranger.sendall(answer)
        long = frames.encode({"type": "hello", "role": "worker", "worker": "w" * 200_000})
        with suppress(OSError, ssl.SSLError):
            stranger.sendall(tls.wrap(long[:150_000]))
            while stranger.recv(4096):
                pass
    assert door.arrived.empty()


def test_an_older_or_newer_protocol_is_refused_in_words(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourfold.runner.far.PROTOCOL", 99)
    with worker(door) as (_, ended):
        assert "speaks protocol 1, and not 99" in ended.get(timeout=WITHIN_S)


def test_a_second_process_of_the_same_job_is_refused_and_ends(door: Door) -> None:
    with worker(door) as (first, _):
        door.next()
        welcome(door)
        first.receive()
        with worker(door) as (_, ended):
            assert "its job was started twice" in ended.get(timeout=WITHIN_S)
        first.send({"type": "finished", "n": 2})
        assert isinstance(door.next(), Message), "the first goes on"


def test_a_worker_that_the_loop_gives_up_ends_with_the_reason(door: Door) -> None:
    with worker(door) as (_, ended):
        door.next()
        door.tell("worker_1", {"type": "refused", "reason": "its work is done elsewhere", "is_stale": True})
        assert "its work is done elsewhere" in ended.get(timeout=WITHIN_S)


def test_a_result_that_could_not_be_sent_is_told_when_the_owner_asks(door: Door) -> None:
    with Wire(door.port) as wire, worker(door, port=wire.port) as (connection, _):
        door.next()
        welcome(door)
        connection.receive()
        door.tell("worker_1", TASK)
        connection.receive()
        wire.cut()
        assert door.next() == "worker_1 left"
        connection.send({"type": "finished", "n": 2}, [b"kept"])
        wire.mend()
        joined = door.next()
        assert joined == replace(joined, has=("run_1", "fit#0", 2), is_done=True)
        welcome(door, tell_result=True)
        told = door.next()
        assert (told.header["type"], told.parts) == ("finished", [b"kept"])
        assert connection.receive()[0]["type"] == "welcome"


def test_a_connection_that_only_looks_open_is_noticed_by_both_ends(door: Door) -> None:
    with Wire(door.port) as wire, worker(door, port=wire.port) as (connection, _):
        first = door.next()
        welcome(door)
        connection.receive()
        wire.freeze()
        assert door.next() == "worker_1 left"
        wire.mend()
        again = door.next()
        assert isinstance(again, Joined)
        assert again.life == first.life


def test_frames_meant_for_an_earlier_connection_do_not_go_out_on_the_next(door: Door) -> None:
    with worker(door) as (connection, _):
        door.next()
        door.tell("worker_1", TASK)  # decided before the loop has heard of this connection
        welcome(door)
        door.tell("worker_1", {"type": "exit"})
        assert [connection.receive()[0]["type"] for _ in range(2)] == ["welcome", "exit"]


def test_a_port_that_is_taken_is_refused_in_words(door: Door, tmp_path: Path) -> None:
    path, fingerprint = certificate.identity(tmp_path)
    again = FarDoor("127.0.0.1", door.port, secure.server_context(path), fingerprint, SECRET)
    with pytest.raises(Refused, match="nobody can listen at"):
        Peers(print, joined=print, left=door._left).listen_far(again)


def test_the_owners_identity_stays_when_it_is_opened_again(tmp_path: Path) -> None:
    path, first = certificate.identity(tmp_path)
    assert certificate.identity(tmp_path)[1] == first
    assert certificate.secret(tmp_path) == certificate.secret(tmp_path)
    for kept in (path, tmp_path / "secret"):
        assert kept.stat().st_mode & 0o777 == 0o600
    assert certificate.identity(tmp_path / "other")[1] != first


def test_openssl_finds_nothing_wrong_with_the_certificate(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed here")
    path, _ = certificate.identity(tmp_path)
    for asked in (["verify", "-CAfile", path, path], ["ec", "-in", path, "-check", "-noout"]):
        done = subprocess.run([openssl, *map(str, asked)], capture_output=True, text=True, check=True)
        assert "OK" in done.stdout or "Key valid" in done.stderr
