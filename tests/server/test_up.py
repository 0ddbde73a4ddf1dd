"""`fourfold up` as a whole: who holds a project, the port, the parts, and the end."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from fourfold.core.errors import Refused
from fourfold.server.listening import bind, holder_of, url_of
from fourfold.server.record import ServerRecord, holding, read_record, write_record
from fourfold.server.up import Part, Up, up

PATIENCE_S = 20


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def make_app(url: str) -> ASGIApp:
    return hello


class Parts:
    """Two parts that tell what became of them; stopping the second fails when asked to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.told: list[str] = []
        self.fails = fails

    def all(self) -> list[Part]:
        def start(name: str) -> str:
            self.told.append(f"start {name}")
            return f"http://{name}" if name == "gateway" else ""

        def stop(name: str) -> None:
            self.told.append(f"stop {name}")
            if self.fails and name == "gateway":
                raise RuntimeError("it hangs")

        return [
            Part(name, lambda name=name: start(name), lambda name=name: stop(name))  # type: ignore[misc]
            for name in ("loop", "gateway")
        ]


@contextmanager
def running(home: Path, parts: Parts, *, port: int = 0) -> Iterator[Up]:
    ready = threading.Event()
    about: list[Up] = []

    def announce(up: Up) -> None:
        about.append(up)
        ready.set()

    def run() -> None:
        up(
            home,
            host="127.0.0.1",
            port=port,
            has_identity=False,
            parts=parts.all(),
            app=make_app,
            started_at_us=1,
            announce=announce,
        )

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield about[0]
    finally:
        about[0].stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_parts_start_before_the_first_answer_and_stop_after_the_last_in_reverse(home: Path) -> None:
    parts = Parts()
    with running(home, parts) as about:
        assert parts.told == ["start loop", "start gateway"]
        assert urllib.request.urlopen(about.url, timeout=PATIENCE_S).read() == b"hello"
        record = read_record(home)
        assert record == ServerRecord(os.getpid(), about.url, 1, "http://gateway")
        assert stat.S_IMODE((home / "server.json").stat().st_mode) == 0o600
    assert parts.told[2:] == ["stop gateway", "stop loop"]
    assert read_record(home) is None
    assert not (home / "server.json").exists()


def test_a_part_that_does_not_stop_holds_up_no_other(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(fails=True)
    with running(home, parts):
        pass
    assert parts.told[2:] == ["stop gateway", "stop loop"]
    assert "gateway did not stop cleanly" in caplog.text


def test_a_second_server_is_refused_with_the_first_ones_process_and_address(home: Path) -> None:
    second = Parts()
    with running(home, Parts()) as about, pytest.raises(Refused) as refused:
        up_here(home, second, 0)
    assert refused.value.facts == {"pid": os.getpid(), "url": about.url}
    assert str(os.getpid()) in str(refused.value)
    assert about.url in str(refused.value)
    assert second.told == []


def test_a_taken_port_is_refused_with_who_has_it_and_nothing_is_started(home: Path) -> None:
    parts = Parts()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused) as refused:
            up_here(home, parts, port)
    assert f"port {port} of 127.0.0.1 is in use, by process {os.getpid()} (" in str(refused.value)
    assert "fourfold up --port 0" in str(refused.value)
    assert parts.told == []
    assert read_record(home) is None
    with running(home, parts, port=port):  # and the project is free for the next
        pass


def test_who_listens_is_found_without_any_tool() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        assert holder_of(port).startswith(f"process {os.getpid()} (")
    assert holder_of(port) == ""


def test_a_part_that_cannot_start_leaves_nothing_behind(home: Path) -> None:
    def fail() -> str:
        raise Refused("no")

    parts = Parts()
    with pytest.raises(Refused, match="no"):
        up_here(home, [*parts.all(), Part("third", fail, lambda: None)], 0)
    assert parts.told == ["start loop", "start gateway", "stop gateway", "stop loop"]
    with holding(home):
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
def test_listening_beyond_this_machine_is_refused_before_anything_starts(home: Path, host: str) -> None:
    parts = Parts()
    with pytest.raises(Refused, match="without identity"):
        up_here(home, parts, 0, host=host)
    assert parts.told == []


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused_in_words(host: str) -> None:
    with pytest.raises(Refused, match="is not an address of this machine"):
        bind(host, 0)


def test_addresses_are_written_as_urls() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        listener = bind("::1", 0)
    except (OSError, Refused):
        pytest.skip("this machine has no IPv6")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")


def test_a_record_that_a_crash_left_behind_misleads_nobody(home: Path) -> None:
    with holding(home):
        write_record(home, ServerRecord(1, "http://127.0.0.1:1", 1))
        left = (home / "server.json").read_text()
        assert read_record(home) is not None
    (home / "server.json").write_text(left)
    assert read_record(home) is None
    with holding(home):
        (home / "server.json").write_text(json.dumps({"pid": "none"}))
        assert read_record(home) is None
        with pytest.raises(Refused, match="just starting or stopping"), holding(home):
            pass


def up_here(home: Path, parts: Parts | list[Part], port: int, host: str = "127.0.0.1") -> None:
    up(
        home,
        host=host,
        port=port,
        has_identity=False,
        parts=parts.all() if isinstance(parts, Parts) else parts,
        app=make_app,
        started_at_us=1,
        announce=lambda about: pytest.fail(f"it is up: {about}"),
    )
