"""Where events go: the kit on each sink, and what each says when it cannot take one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fourfold.adapters.openlineage_file import FileEvents
from fourfold.adapters.openlineage_http import HttpEvents
from fourfold.core.errors import OutOfSpace, Refused, Unavailable
from fourfold.testing.event_sink import MemoryEvents, check_sink

pytestmark = pytest.mark.slow


@dataclass
class Endpoint:
    """A server that takes events, and does otherwise where a test says so."""

    url: str = ""
    came: list[bytes] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    hangs_up: bool = False


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.seen.append((self.path, self.headers.get("Authorization", "")))
            status = state.statuses.pop(0) if state.statuses else 201
            if status < 300:
                state.came.append(body)
            self.send_response(status)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"told")
            if state.hangs_up:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_memory_takes_events() -> None:
    sink = MemoryEvents()
    check_sink(sink, lambda: sink.events)


def test_a_file_takes_events_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "events.jsonl"
    check_sink(FileEvents(path), lambda: path.read_bytes().splitlines())


def test_an_endpoint_takes_events_over_http(endpoint: Endpoint) -> None:
    check_sink(HttpEvents(endpoint.url, token="secret"), lambda: endpoint.came)
    assert set(endpoint.seen) == {("/api/v1/lineage", "Bearer secret")}


def test_a_path_of_ones_own_is_kept(endpoint: Endpoint) -> None:
    HttpEvents(endpoint.url + "/openapi/openlineage?x=1").send(b"{}")
    assert endpoint.seen == [("/openapi/openlineage?x=1", "")]


def test_a_connection_that_was_closed_meanwhile_is_opened_again(endpoint: Endpoint) -> None:
    endpoint.hangs_up = True
    sink = HttpEvents(endpoint.url)
    for _ in range(3):
        sink.send(b"{}")
    assert len(endpoint.came) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, Unavailable), (503, Unavailable), (500, Unavailable), (400, Refused), (401, Refused)],
)
def test_what_may_pass_is_told_from_what_never_will(
    endpoint: Endpoint, status: int, error: type[Exception]
) -> None:
    endpoint.statuses = [status]
    sink = HttpEvents(endpoint.url, token="secret")
    with pytest.raises(error, match=f"answered {status}: told") as caught:
        sink.send(b"{}")
    assert "secret" not in str(caught.value)
    sink.send(b"{}")
    assert len(endpoint.came) == 1


def test_nobody_there_is_told_with_the_address() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9/api/v1/lineage does not take events now"):
        HttpEvents("http://127.0.0.1:9").send(b"{}")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://ada:secret@host"])
def test_an_address_that_cannot_be_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(Refused) as caught:
        HttpEvents(url)
    assert "secret@" not in str(caught.value)


def test_a_file_is_turned_over_when_it_has_grown(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileEvents(path, turn_bytes=100)
    for number in range(100):
        sink.send(b'{"n": %d}' % number)
    lines = (tmp_path / "events.jsonl.1").read_bytes().splitlines() + path.read_bytes().splitlines()
    assert lines[-1] == b'{"n": 99}'
    assert len(lines) < 25
    assert {each.name for each in tmp_path.iterdir()} == {"events.jsonl", "events.jsonl.1"}


def test_a_full_disk_leaves_no_half_line(small_disk: Path) -> None:
    path = small_disk / "events.jsonl"
    sink = FileEvents(path)
    event = b'{"n": "' + b"x" * 300_000 + b'"}'

    def fill() -> None:
        for _ in range(20):
            sink.send(event)

    with pytest.raises(OutOfSpace):
        fill()
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines
    assert all(line == event + b"\n" for line in lines)
    with pytest.raises(Refused, match="several lines"):
        sink.send(b"{\n}")


def test_half_a_line_that_a_dead_process_left_spoils_no_later_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileEvents(path)
    sink.send(b'{"n": 0}')
    with path.open("ab") as file:
        file.write(b'{"n": "' + b"x" * 200_000)
    sink.send(b'{"n": 1}')
    assert path.read_bytes() == b'{"n": 0}\n{"n": 1}\n'
