"""What an engine promises of launches that listen, and of those that run on several nodes."""

from __future__ import annotations

import contextlib
import json
import socket
from contextlib import closing
from functools import partial

from fourfold.core.ports.engine import Engine, ExitKind, Launch, Phase
from fourfold.testing.engine.base import EngineKitBase

SERVE = """
import os, socket, sys
listener = socket.create_server(("", int(os.environ["FOURFOLD_PORT"])))
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(sys.argv[1].encode())
"""

MEET = """
import json, os, socket, sys, time
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
env = {name: os.environ[name] for name in names}
place = (env["MASTER_ADDR"], int(env["MASTER_PORT"]))
if env["RANK"] == "0":
    with socket.create_server(("", place[1])) as listener:
        met = [env]
        while len(met) < int(env["WORLD_SIZE"]):
            connection, _ = listener.accept()
            with connection:
                met.append(json.loads(connection.makefile().readline()))
    print(json.dumps(met), flush=True)
else:
    end = time.monotonic() + 15
    while True:
        try:
            with socket.create_connection(place, 5) as connection:
                connection.sendall(json.dumps(env).encode() + b"\\n")
            break
        except OSError:
            if time.monotonic() > end: raise
            time.sleep(0.05)
"""

ONE_FAILS = """
import os, sys, time
if os.environ["RANK"] == "1":
    sys.exit(7)
time.sleep(600)
"""


class Serving(EngineKitBase):
    """Ports and nodes."""

    def test_what_listens_is_reached_at_its_address_until_it_is_stopped(self) -> None:
        with closing(self.open()) as engine:
            if not (self.runs_commands and engine.capabilities().listens):
                return
            for key in ("a", "b"):
                engine.submit(Launch(key, self.python(SERVE, f"I am {key}"), listens=True))
            addresses = {key: self._address(engine, key) for key in ("a", "b")}
            assert addresses["a"] != addresses["b"]
            for key, address in addresses.items():
                self.eventually(partial(_says, address, f"I am {key}"), f"{key} answers at {address}")
            engine.stop("a", 0)
            self.ended(engine, "a")
            self.eventually(lambda: _said(addresses["a"]) is None, "its port is closed")
            assert _said(addresses["b"]) == b"I am b"
            engine.stop("b", 0)
            self.ended(engine, "b")

    def test_what_listens_and_outlives_its_control_has_its_address_for_the_next_one(self) -> None:
        with closing(self.open()) as first:
            able = first.capabilities()
            if not (self.runs_commands and able.listens and able.survives_control_restart):
                return
            first.submit(Launch("a", self.python(SERVE, "I am a"), kind="service", listens=True))
            address = self._address(first, "a")
            self.eventually(lambda: _says(address, "I am a"), f"it answers at {address}")
        with closing(self.open()) as second:
            second.reap(["a"])
            second.submit(Launch("a", self.python(SERVE, "I am another"), kind="service", listens=True))
            assert self._address(second, "a") == address
            assert _said(address) == b"I am a"
            second.stop("a", 0)
            self.ended(second, "a")
            self.eventually(lambda: _said(address) is None, "its port is closed")

    def test_what_listens_and_heeds_no_word_is_ended_after_its_grace(self) -> None:
        with closing(self.open()) as engine:
            if not (self.runs_commands and engine.capabilities().listens):
                return
            deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVE
            engine.submit(Launch("a", self.python(deaf, "I am a"), kind="service", listens=True))
            address = self._address(engine, "a")
            self.eventually(lambda: _says(address, "I am a"), f"it answers at {address}")
            engine.stop("a", 1.0)
            exit_ = self.ended(engine, "a").exit
            assert exit_ is not None
            assert exit_.kind is ExitKind.cancelled
            self.eventually(lambda: _said(address) is None, "its port is closed")

    def test_each_node_finds_its_rank_and_the_others(self) -> None:
        with closing(self.open()) as engine:
            if not (self.runs_commands and engine.capabilities().nodes):
                return
            engine.submit(Launch("a", self.python(MEET), nodes=2))
            exit_ = self.ended(engine, "a").exit
            printed = self.output(engine, "a").decode()
            assert exit_ is not None
            assert exit_.kind is ExitKind.ok, printed
            met = json.loads(printed)
            assert sorted(each["RANK"] for each in met) == ["0", "1"]
            assert {each["WORLD_SIZE"] for each in met} == {"2"}
            assert {each["LOCAL_RANK"] for each in met} == {"0"}
            assert len({(each["MASTER_ADDR"], each["MASTER_PORT"]) for each in met}) == 1

    def test_a_node_that_fails_ends_the_others_and_the_job_fails_with_its_code(self) -> None:
        with closing(self.open()) as engine:
            if not (self.runs_commands and engine.capabilities().nodes):
                return
            engine.submit(Launch("a", self.python(ONE_FAILS), nodes=2))
            exit_ = self.ended(engine, "a").exit
            assert exit_ is not None
            assert (exit_.kind, exit_.code) == (ExitKind.failed, 7)

    def _address(self, engine: Engine, key: str) -> str:
        self.eventually(lambda: engine.status([key])[key].address, f"{key} has an address")
        status = engine.status([key])[key]
        assert status.phase in (Phase.starting, Phase.running)
        return status.address


def _says(address: str, words: str) -> bool:
    return _said(address) == words.encode()


def _said(address: str) -> bytes | None:
    """What is said at an address to who connects; `None` where nobody listens."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5) as connection:
        return connection.makefile("rb").read()
    return None
