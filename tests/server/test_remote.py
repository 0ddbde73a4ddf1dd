"""A service called over HTTP answers as the same service called in process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fourfold.adapters.remote import Remote, RemoteSettings
from fourfold.core.errors import (
    Conflict,
    Defect,
    NotFound,
    Refused,
    TimedOut,
    Unauthenticated,
    Unavailable,
)

from .conftest import OWNER, Garden, Leaf, Listening, Name, RealGarden, Shade

CALLS: dict[str, Callable[[Garden], Any]] = {
    "defaults": lambda g: g.leaves(),
    "positional": lambda g: g.leaves(Shade.dark),
    "texts": lambda g: g.leaves(names=("a b", "c&d", "ü", "")),
    "no texts": lambda g: g.leaves(names=()),
    "texts like JSON": lambda g: g.leaves(names=("[1]", "x")),
    "numbers": lambda g: g.leaves(sizes=(1, 2), most=3, is_fresh=False),
    "nested": lambda g: g.leaves(where=(("a", "==", None), ("b", "<", 2), ("c", ">", "3"))),
    "grow": lambda g: g.grow("oak", Leaf(3, Shade.dark, {"a": 0.1}), others=(Leaf(1),), why="spring"),
    "one": lambda g: g.leaf(Name("oak")),
    "none": lambda g: g.leaf(Name("elm ü?#%&")),
    "longer": lambda g: g.veins("oak"),
    "slashes": lambda g: g.twig("a/b c/d@1#2"),
    "slashes in a segment": lambda g: g.veins("dev/~1~0 ü/x"),
    "table or batches in": lambda g: [
        g.rill(pa.table({"a": [1, 2]})),
        g.rill(pa.table({"a": [1]}).to_reader()),
    ],
    "table in": lambda g: g.rain(
        pa.table({"a": [1, 2], "b": ["x", None]}), name="n", partition_by=("a", "b")
    ),
    "empty table in": lambda g: g.rain(pa.table({"a": pa.array([], pa.int8())}), name="n"),
    "batches in": lambda g: g.river(pa.table({"a": list(range(200_000))}).to_reader(max_chunksize=1000)),
    "table out": lambda g: g.lake(rows=200_000),
    "empty table out": lambda g: g.lake(rows=0),
    "batches out": lambda g: g.spring(batches=50).read_all(),
    "no batches out": lambda g: g.spring(batches=0).read_all(),
    "bytes in": lambda g: g.sow(b"\x00\xff" * 50_000),
    "bytes out": lambda g: g.seeds(count=100_000),
    "who": lambda g: g.gardener(),
    "prune": lambda g: g.prune("oak"),
}


@pytest.fixture(params=["tcp", "unix"])
def garden(request: pytest.FixtureRequest, listening: Listening) -> Iterator[Garden]:
    with closing(Remote(listening.url if request.param == "tcp" else listening.unix_url, OWNER)) as remote:
        yield remote.service("garden", Garden)


@pytest.mark.slow
def test_every_call_gives_the_same_embedded_and_remote(garden: Garden) -> None:
    here = RealGarden()
    for name, call in CALLS.items():
        expected, got = call(here), call(garden)
        if isinstance(expected, pa.Table):
            assert got.equals(expected), name
            assert got.schema == expected.schema, name
        else:
            assert got == expected, name
            assert type(got) is type(expected), name


def test_errors_come_back_as_they_were_raised(garden: Garden) -> None:
    with pytest.raises(NotFound) as found:
        garden.prune("elm", why="dead")
    assert str(found.value) == "no leaf 'elm'\n  grow one"
    assert found.value.facts == {"name": "elm", "why": "dead"}
    with pytest.raises(Conflict, match="somebody was first"):
        garden.trouble("conflict")
    with pytest.raises(Defect, match="met a defect of Fourfold"):
        garden.trouble("other")
    with pytest.raises(RuntimeError, match="the spring ran dry"):
        RealGarden().spring(batches=2, fails_at=0).read_all()
    with pytest.raises(Defect):  # it fails before the answer begins, so it is an ordinary error
        garden.spring(batches=2, fails_at=0)


def test_a_stream_that_breaks_off_is_never_taken_for_whole(garden: Garden) -> None:
    reader = garden.spring(batches=100, fails_at=60)
    with pytest.raises(Unavailable, match="broke off before its end"):
        reader.read_all()


def test_arguments_that_cannot_be_sent_are_refused_before_sending(garden: Garden) -> None:
    with pytest.raises(Refused, match="cannot be part of an address"):
        garden.leaf(Name(""))
    with pytest.raises(TypeError, match="unexpected keyword argument 'shadow'"):
        garden.leaves(shadow="x")  # type: ignore[call-arg]
    with pytest.raises(Refused, match="no name may have"):
        garden.twig("a/../b")
    with pytest.raises(Refused, match="works only beside the project"):
        garden.dig(Path("x"))
    with pytest.raises(AttributeError):
        garden.no_such  # type: ignore[attr-defined]  # noqa: B018


def test_a_wrong_token_says_so(listening: Listening) -> None:
    with (
        closing(Remote(listening.url, "nonsense")) as remote,
        pytest.raises(Unauthenticated, match="not one of this project's"),
    ):
        remote.service("garden", Garden).leaves()


def test_connections_are_kept_and_used_again(listening: Listening) -> None:
    with closing(Remote(listening.url, OWNER)) as remote:
        garden = remote.service("garden", Garden)
        garden.leaves()
        (first,) = remote._idle
        garden.leaves()
        garden.lake(rows=10)
        garden.spring(batches=3).read_all()
        assert remote._idle == [first]


def test_a_stream_that_nobody_reads_to_its_end_leaves_no_connection(listening: Listening) -> None:
    with closing(Remote(listening.url, OWNER)) as remote:
        reader = remote.service("garden", Garden).spring(batches=100)
        next(iter(reader))
        del reader
        assert remote._idle == []
        assert remote.service("garden", Garden).veins("oak") == 3


def test_nobody_at_the_address_is_unavailable_with_a_way_on() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        garden = Remote(url, OWNER, RemoteSettings(tries=2, first_pause_s=0)).service("garden", Garden)
        with pytest.raises(Unavailable, match="fourfold up"):
            garden.leaves()


@pytest.mark.parametrize("url", ["localhost:4040", "ftp://x", "http://", "", "unix:"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="is not a server's address"):
        Remote(url, OWNER)


class Flaky:
    """A server that closes the first connections without an answer, then answers `[]`."""

    def __init__(self, failures: int, *, silent: bool = False) -> None:
        self.requests: list[bytes] = []
        self._failures = failures
        self._silent = silent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._held: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.requests.append(connection.recv(65536).split(b" ")[0])
            if self._silent:
                self._held.append(connection)
            elif len(self.requests) <= self._failures:
                connection.close()
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
                connection.close()

    def close(self) -> None:
        self._listener.close()
        for connection in self._held:
            connection.close()


def test_lost_answers_are_asked_for_again_only_where_repeating_is_harmless() -> None:
    patience = RemoteSettings(tries=3, first_pause_s=0)
    flaky = Flaky(failures=2)
    assert Remote(flaky.url, OWNER, patience).service("garden", Garden).leaves() == ()
    assert flaky.requests == [b"GET"] * 3
    flaky.close()
    flaky = Flaky(failures=2)
    with pytest.raises(Unavailable):
        Remote(flaky.url, OWNER, patience).service("garden", Garden).sow(b"x")
    assert flaky.requests == [b"POST"]
    flaky.close()


def test_a_silent_server_is_given_up() -> None:
    silent = Flaky(failures=0, silent=True)
    garden = Remote(silent.url, OWNER, RemoteSettings(timeout_s=0.05, tries=1)).service("garden", Garden)
    with pytest.raises(TimedOut, match=r"within 0\.05 s"):
        garden.leaves()
    with pytest.raises(TimedOut, match=r"within 0\.1 s"):  # a call that may take its time is given it
        garden.ripen()
    with pytest.raises(TimedOut, match=r"within 0\.07 s"):
        garden.ripen(wait_s=0.02)
    silent.close()
