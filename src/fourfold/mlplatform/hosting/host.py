"""Who runs the gateway: a process of the project, its *host*, which keeps it running and ends it.

The host is the process that owns the project's loop (`fourfold up`, or a script while it runs a flow).
Where nobody does, it is whoever needs the gateway first. The process of a step or a notebook asks the
owner at its door and does not host, because whatever a job starts ends with the job.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fourfold.catalog.ids import new_id
from fourfold.core.errors import FourfoldError, TimedOut, Unavailable, from_code
from fourfold.core.hosting import Gateway
from fourfold.core.ports.engine import Engine, ExitKind, JobStatus, Launch, Phase, Resources
from fourfold.core.ports.gateway import GatewayClient
from fourfold.core.quantities import Range
from fourfold.mlplatform.hosting.tables import HostingTables
from fourfold.resources.flows.connection import private_folder, socket_path

logger = logging.getLogger("fourfold.hosting")

START_S = 30.0
"""How long the gateway may take until it answers."""
STOP_S = 30.0
WAIT_STEP_S = 0.05
PAUSE_S, PAUSE_MAX_S = 0.2, 30.0
"""The pause before a gateway that died is started again, doubling up to the second."""
STEADY_S = 60.0
"""A gateway that ran so long had not begun to crash: the pause is short again."""
WORD_BYTES = 1 << 16
LOG_TAIL_BYTES = 2000
NOT_PASSED_ON = frozenset(
    {
        "FOURFOLD_CODE",
        "FOURFOLD_CONTROL",
        "FOURFOLD_JOB",
        "FOURFOLD_TOKEN",
        "FOURFOLD_URL",
        "FOURFOLD_WORKER_TOKEN",
    }
)
"""What an environment says of the present process; the rest with our prefix says what the project is."""


class HostDoor:
    """Where the processes of a project ask its owner for the gateway: a socket only this user may enter."""

    def __init__(self, home: Path, host: Callable[[int], str]) -> None:
        """`host` starts the gateway in this process unless it runs, at a port, and answers its address."""
        self._path = _door(home)
        self._host = host
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Begin to answer. Call it only while this process owns the project's loop. Repeatable."""
        if self._listener is not None:
            return
        private_folder(self._path.parent)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()  # of an owner before us
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        self._path.chmod(0o600)
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._answer_on, args=(listener,), name="host-door", daemon=True).start()

    def close(self) -> None:
        """Stop answering. Repeatable."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _answer_on(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return  # closed
            try:
                with caller:
                    caller.settimeout(5.0)
                    asked = json.loads(caller.recv(WORD_BYTES))
                    caller.sendall(json.dumps(self._told(int(asked["port"]))).encode())
            except (OSError, ValueError):
                continue  # it hung up, or asked nothing
            except Exception:  # the next one who knocks is answered
                logger.exception("a defect at the door of the gateway's host")

    def _told(self, port: int) -> dict[str, Any]:
        try:
            return {"url": self._host(port)}
        except FourfoldError as error:
            return {"code": error.code, "message": error.message, "ways_on": list(error.ways_on)}


def ask_owner(home: Path, port: int) -> str:
    """The address of the gateway that the project's owner runs now; empty when there is no owner."""
    asker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with asker:
        asker.settimeout(START_S + 5.0)
        try:
            asker.connect(str(_door(home)))
            asker.sendall(json.dumps({"port": port}).encode())
            told = asker.recv(WORD_BYTES)
        except TimeoutError as error:
            raise TimedOut("the project's owner did not start the gateway") from error
        except OSError:
            return ""
    if not told:
        return ""  # it died; whoever asked looks again
    answer = json.loads(told)
    if "url" in answer:
        return str(answer["url"])
    raise from_code(answer["code"], answer["message"], answer["ways_on"], {})


def _door(home: Path) -> Path:
    return socket_path(home).with_name("host.sock")


class GatewayHost:
    """Starts the gateway as a job of this process's engine, or has the project's owner do so."""

    def __init__(self, *, home: Path, engine: Engine, tables: HostingTables, client: GatewayClient) -> None:
        self._home = home
        self._engine = engine
        self._tables = tables
        self._client = client
        self._starting = threading.Lock()
        self._key = ""
        """The job of the gateway that runs here; empty when none does, or it is to end."""

    def running(self) -> Gateway | None:
        """The project's gateway, wherever it runs, if it answers."""
        found = self._tables.gateway()
        if found is None or not self._client.is_alive(found.url):
            return None
        return found

    def start(self, port: int) -> Gateway:
        """The gateway that runs, or one that is started by whoever hosts."""
        found = self.running()
        if found is None and ask_owner(self._home, port):
            found = self.running()
        return found or self.start_here(port)

    def start_here(self, port: int) -> Gateway:
        """Become the gateway's host, unless it runs already."""
        with self._starting:
            found = self.running()
            if found is not None:
                return found
            began_s = time.monotonic()
            key = self._submit(port)
            found = self._await(key)
            if found.id != key.rpartition("/")[2]:
                return found  # another host was faster
            if not self._key:
                atexit.register(self.close)
            self._key = key
            threading.Thread(
                target=self._keep, args=(key, found, began_s), name="gateway-host", daemon=True
            ).start()
            return found

    def stop(self) -> None:
        """Let the gateway write its logs and end, wherever it runs. Nothing when none does."""
        self._key = ""
        found = self.running()
        if found is None:
            return
        self._client.stop(found.url)
        end_s = time.monotonic() + STOP_S
        while (present := self._tables.gateway()) is not None and present.id == found.id:
            if time.monotonic() > end_s:
                raise TimedOut(f"the gateway (process {found.pid}) did not stop within {STOP_S:.0f} s")
            time.sleep(WAIT_STEP_S)

    def close(self) -> None:
        """End the gateway if it is ours; one that another process hosts goes on."""
        atexit.unregister(self.close)
        key, self._key = self._key, ""
        if not key:
            return
        found = self._tables.gateway()
        if found is not None and found.id == key.rpartition("/")[2]:
            with contextlib.suppress(FourfoldError):
                self._client.stop(found.url)
                self._engine.wait([key], STOP_S)
        self._engine.stop(key, 1.0)

    def _submit(self, port: int) -> str:
        gateway_id = new_id("gw")
        key = f"gateway/{gateway_id}"
        passed_on = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("FOURFOLD_") and name not in NOT_PASSED_ON
        }
        module = "fourfold.mlplatform.hosting.gateway"
        self._engine.submit(
            Launch(
                key=key,
                # -P: modules of the project's folder must not stand in for those of the library.
                argv=(sys.executable, "-P", "-m", module, "--port", str(port), "--id", gateway_id),
                kind="service",
                env={**passed_on, "FOURFOLD_HOME": str(self._home)},
                cwd=str(self._home.parent),
                resources=Resources(cpu=Range(0)),
            )
        )
        return key

    def _await(self, key: str) -> Gateway:
        """The gateway once it answers: ours, or one that another host started at the same moment."""
        end_s = time.monotonic() + START_S
        while True:
            status = self._status(key)
            found = self.running()
            if found is not None:
                return found
            if status.phase is Phase.ended:
                said = self._engine.logs(key).data[-LOG_TAIL_BYTES:].decode(errors="replace")
                raise Unavailable("the gateway ended at once", ways_on=said.strip().splitlines()[-12:])
            if time.monotonic() > end_s:
                self._engine.stop(key, 1.0)
                raise TimedOut(f"the gateway did not answer within {START_S:.0f} s")
            time.sleep(WAIT_STEP_S)

    def _keep(self, key: str, gateway: Gateway, began_s: float) -> None:
        """Wait for the gateway's end; start another one, at the same port, if nobody wanted it."""
        pause_s = PAUSE_S
        port = urlsplit(gateway.url).port or 0
        while self._key == key:
            status = self._engine.wait([key], 3600.0)[key]
            if status.phase not in (Phase.ended, Phase.unknown):
                continue
            is_wanted = status.exit is not None and status.exit.kind in (ExitKind.ok, ExitKind.cancelled)
            if is_wanted or self._key != key:
                return
            logger.warning("the gateway died (%s) and is started again", _how(status))
            if time.monotonic() - began_s > STEADY_S:
                pause_s = PAUSE_S
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
            with self._starting, contextlib.suppress(FourfoldError):
                if self._key != key or self.running() is not None:
                    return
                began_s = time.monotonic()
                again = self._submit(port)
                self._key = key = again
                self._await(again)

    def _status(self, key: str) -> JobStatus:
        return self._engine.status([key])[key]


def _how(status: JobStatus) -> str:
    return "unknown" if status.exit is None else f"{status.exit.kind}: {status.exit.reason}"
