"""Asks services whether they can be used: each within its time, many at once."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from fourfold.core.serving import Probe, ProbeKind

MOST_AT_ONCE = 32
MOST_STATUS_BYTES = 8192
MARGIN_S = 1.0
"""So much longer than its time is a probe waited for: looking up a name heeds no bound of ours."""

Ask = Callable[[str, Probe], tuple[bool, str]]
Answers = dict[str, tuple[bool, str]]


def ask(address: str, probe: Probe) -> tuple[bool, str]:
    """Whether it can be used, and what was told where not. One that answers byte by byte is late too."""
    deadline = time.monotonic() + probe.timeout_s
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), probe.timeout_s) as connection:
            if probe.kind is ProbeKind.tcp:
                return True, ""
            request = f"GET {probe.path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            status = _status(connection, deadline)
    except TimeoutError:
        return False, f"{address}: no answer within {probe.timeout_s:g} s"
    except (OSError, ValueError, OverflowError) as error:
        return False, f"{address}: {error}"
    return status < 400, "" if status < 400 else f"{address}{probe.path} answered {status}"


def _status(connection: socket.socket, deadline: float) -> int:
    """The status that an answer begins with; the rest of it is not waited for."""
    told = b""
    while b"\n" not in told:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        piece = connection.recv(1024)
        if not piece or len(told) > MOST_STATUS_BYTES:
            raise ValueError(f"its answer is not HTTP: {told[:40]!r}")
        told += piece
    words = told.partition(b"\n")[0].split()
    if not told.startswith(b"HTTP/") or len(words) < 2 or not words[1].isdigit():
        raise ValueError(f"its answer is not HTTP: {told[:40]!r}")
    return int(words[1])


class Probing:
    """Asks many services at once: one that hangs takes as long as it is given, and no other's time."""

    def __init__(self, ask: Ask = ask) -> None:
        self._ask = ask
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="fourfold-probe")

    def answers(self, asked: Mapping[str, tuple[str, Probe]]) -> Answers:
        """By the given names: whether each is well, and what it told."""
        if not asked:
            return {}
        asking = {name: self._threads.submit(self._ask, *each) for name, each in asked.items()}
        rounds = 1 + len(asked) // MOST_AT_ONCE
        longest_s = max(probe.timeout_s for _, probe in asked.values())
        wait_for(asking.values(), rounds * longest_s + MARGIN_S)
        found: Answers = {}
        for name, answer in asking.items():
            address, probe = asked[name]
            found[name] = (False, f"{address}: no answer within {probe.timeout_s:g} s")
            with contextlib.suppress(TimeoutError):
                found[name] = answer.result(0)
            answer.cancel()
        return found

    def close(self) -> None:
        """Ask no more; who hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
