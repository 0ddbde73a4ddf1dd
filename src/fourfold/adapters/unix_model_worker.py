"""Model workers over a private Unix socket: the gateway's side.

Workers call in on a socket in a folder that only this user may enter. A message is a frame of
`core.frames`: a small JSON header, then raw Arrow bytes. See `mlplatform/hosting/worker.py` for the other
side.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from fourfold.core.errors import FourfoldError, Refused, from_code
from fourfold.core.frames import Frames, Header, encode
from fourfold.core.ports.model_worker import WorkerChannel, WorkerGone

HELLO_S = 10.0
"""How long a caller may take to say who it is."""


class UnixWorkerDoor:
    """Listens for workers in a folder of its own under the system's temporary folder (socket paths are
    short: at most 107 bytes, and a project's path may be longer)."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, on_worker: Callable[[WorkerChannel], None]) -> str:
        self._folder = Path(tempfile.mkdtemp(prefix="fourfold-"))  # mode 0700
        path = str(self._folder / "workers.sock")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Channel(on_worker), path)
        return path

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Channel(asyncio.Protocol):
    """One worker's connection. It becomes a `WorkerChannel` once the worker has said who it is."""

    def __init__(self, on_worker: Callable[[WorkerChannel], None]) -> None:
        self._on_worker = on_worker
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._answers: dict[int, asyncio.Future[tuple[Header, list[bytes]]]] = {}
        self._number = 0
        self._gone_calls: list[Callable[[], None]] = []
        self._is_gone = False
        self._hello_timer: asyncio.TimerHandle | None = None
        self.key = ""
        self.inputs: pa.Schema = pa.schema([])
        self.outputs: pa.Schema = pa.schema([])

    # WorkerChannel

    async def warm(self) -> float:
        header, _ = await self._ask({"ask": "warm"})
        return float(header["seconds"])

    async def predict(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        header, parts = await self._ask(
            {"ask": "predict", "rows": rows.num_rows}, [rows.serialize().to_pybytes()]
        )
        answer = pa.ipc.read_record_batch(pa.py_buffer(parts[0]), self.outputs)
        if answer.num_rows != rows.num_rows:
            raise Refused(f"the model gave {answer.num_rows} answers to {rows.num_rows} rows")
        del header
        return answer

    def on_gone(self, call: Callable[[], None]) -> None:
        if self._is_gone:
            call()
        else:
            self._gone_calls.append(call)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is like one, and is none
        self._hello_timer = self._loop.call_later(HELLO_S, self.close)

    def data_received(self, data: bytes) -> None:
        try:
            for header, parts in self._frames.feed(data):
                self._received(header, parts)
        except (FourfoldError, ValueError, KeyError, pa.ArrowException):
            self.close()  # whoever speaks like this is no worker of ours

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._is_gone = True
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(WorkerGone("the worker process of the model ended"))
        self._answers.clear()
        for call in self._gone_calls:
            call()
        self._gone_calls.clear()

    def _received(self, header: Header, parts: list[bytes]) -> None:
        if not self.key:
            self.inputs = pa.ipc.read_schema(pa.py_buffer(parts[0]))
            self.outputs = pa.ipc.read_schema(pa.py_buffer(parts[1]))
            self.key = str(header["key"])
            if self._hello_timer is not None:
                self._hello_timer.cancel()
            self._on_worker(self)
            return
        answer = self._answers.pop(int(header["number"]), None)
        if answer is not None and not answer.done():
            answer.set_result((header, parts))

    async def _ask(
        self, header: dict[str, Any], parts: list[bytes] | None = None
    ) -> tuple[Header, list[bytes]]:
        if self._is_gone or self._transport is None:
            raise WorkerGone("the worker process of the model ended")
        self._number += 1
        answer: asyncio.Future[tuple[Header, list[bytes]]] = self._loop.create_future()
        self._answers[self._number] = answer
        self._transport.write(encode({**header, "number": self._number}, parts or []))
        answered, found = await answer
        if "error" in answered:
            told = answered["error"]
            raise from_code(told["code"], told["message"], told["ways_on"], {})
        return answered, found
