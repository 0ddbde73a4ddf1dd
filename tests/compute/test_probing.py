"""A service is asked whether it is well, and what hangs takes no more than its time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from fourfold.core.serving import Probe, ProbeKind
from fourfold.foundation.compute.serving import probing


@contextmanager
def answering(pieces: Sequence[bytes], *, keeps: bool = False) -> Iterator[str]:
    """A server that says these pieces, one for each 50 ms, and keeps the line open or not."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    for piece in pieces:
                        connection.sendall(piece)
                        over.wait(0.05)
                    if keeps:
                        over.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("pieces", "keeps", "told"),
    [
        ([b"HTTP/1.1 200 OK\r\n"], False, ""),
        ([b"HTTP/1.1 30", b"2 Found\r\n"], True, ""),
        ([b"HTTP/1.1 503 Busy\r\n"], False, "answered 503"),
        ([b"SSH-2.0-OpenSSH\r\n"], False, "its answer is not HTTP"),
        ([], False, "127.0.0.1"),
        ([], True, "no answer within 0.3 s"),
        ([b"H"] * 60, True, "no answer within 0.3 s"),
    ],
)
def test_a_probe_takes_its_time_and_no_more(pieces: list[bytes], keeps: bool, told: str) -> None:
    with answering(pieces, keeps=keeps) as address:
        is_well, said = probing.ask(address, Probe(ProbeKind.http, timeout_s=0.3 if "within" in told else 30))
    assert (is_well, told in said) == (told == "", True)


def test_a_probe_that_hangs_takes_no_others_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MARGIN_S", 0.1)
    over = threading.Event()

    def ask(address: str, probe: Probe) -> tuple[bool, str]:
        if address == "hangs:1":  # as the look-up of a name does, which heeds no bound of ours
            over.wait(60)
        return True, ""

    all_of_them = probing.Probing(ask)
    try:
        probe = Probe(timeout_s=0.2)
        found = all_of_them.answers({"a": ("hangs:1", probe), "b": ("well:2", probe)})
    finally:
        over.set()
        all_of_them.close()
    assert found == {"a": (False, "hangs:1: no answer within 0.2 s"), "b": (True, "")}
