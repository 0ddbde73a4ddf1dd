"""Model workers in memory: an engine and a door whose workers live in the gateway's own event loop.

A gateway driven with these starts, warms, swaps, crashes and restarts models in microseconds, and a test
decides when each of that happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.ports.engine import (
    Capabilities,
    Exit,
    ExitKind,
    JobStatus,
    Launch,
    LogChunk,
    Offer,
    Phase,
    Resources,
    Usage,
)
from fourfold.core.ports.model_worker import WorkerChannel, WorkerGone


@dataclass(slots=True)
class FakeModel:
    """How a model behaves. Everything may be changed while it serves."""

    inputs: pa.Schema
    outputs: pa.Schema
    answer: Callable[[pa.RecordBatch], pa.RecordBatch]
    load_error: str = ""
    """Why its worker ends before it calls in."""
    warm_error: str = ""
    hold: asyncio.Event | None = None
    """While set and not released, batches wait."""
    batch_rows: list[int] = field(default_factory=list)
    """The rows of each batch that it was given."""


class FakeChannel:
    """Fulfils `WorkerChannel` without a process."""

    def __init__(self, key: str, model: FakeModel) -> None:
        self._key, self.model = key, model
        self._calls: list[Callable[[], None]] = []
        self._gone = asyncio.Event()

    @property
    def key(self) -> str:
        return self._key

    @property
    def inputs(self) -> pa.Schema:
        return self.model.inputs

    @property
    def outputs(self) -> pa.Schema:
        return self.model.outputs

    async def warm(self) -> float:
        await asyncio.sleep(0)
        if self.model.warm_error:
            raise Refused(self.model.warm_error)
        return 0.0

    async def predict(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        self.model.batch_rows.append(rows.num_rows)
        if self.model.hold is not None:
            waits = [asyncio.ensure_future(self.model.hold.wait()), asyncio.ensure_future(self._gone.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        else:
            await asyncio.sleep(0)
        if self._gone.is_set():
            raise WorkerGone("the worker process of the model ended")
        try:
            return self.model.answer(rows)
        except FourfoldError:
            raise
        except Exception as error:  # a model may raise anything
            raise Refused(f"the model raised {type(error).__name__}: {error}") from error

    def on_gone(self, call: Callable[[], None]) -> None:
        if self._gone.is_set():
            call()
        else:
            self._calls.append(call)

    def close(self) -> None:
        if not self._gone.is_set():
            self._gone.set()
            for call in self._calls:
                call()


class FakeWorkers:
    """An engine and a door at once. Models are known by the digest that workers are started with."""

    def __init__(self, models: Mapping[str, FakeModel]) -> None:
        self.models = dict(models)
        self.launches: dict[str, Launch] = {}
        self.ended: dict[str, str] = {}
        """By key, what the job wrote last."""
        self.channels: dict[str, FakeChannel] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_worker: Callable[[WorkerChannel], None] | None = None

    def running(self) -> tuple[str, ...]:
        """Keys of workers that have not ended."""
        return tuple(sorted(key for key in self.launches if key not in self.ended))

    def kill(self, key: str) -> None:
        """What `kill -9` does to a worker. May be called from any thread."""
        self.ended[key] = "killed"
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.channels[key].close)

    # WorkerDoor

    async def listen(self, on_worker: Callable[[WorkerChannel], None]) -> str:
        self._loop, self._on_worker = asyncio.get_running_loop(), on_worker
        return "memory"

    # Engine

    def capabilities(self) -> Capabilities:
        return Capabilities(
            services=True, memory_limit="none", time_limit=False, gpus=False, survives_control_restart=False
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        del request
        return (Offer("memory", 1.0, 1 << 30),)

    def submit(self, launch: Launch) -> None:
        if launch.key in self.launches:
            return
        self.launches[launch.key] = launch
        model = self.models[launch.argv[-1]]
        if model.load_error:
            self.ended[launch.key] = model.load_error
            return
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._call_in, launch.key, model)

    def _call_in(self, key: str, model: FakeModel) -> None:
        channel = self.channels[key] = FakeChannel(key, model)
        assert self._on_worker is not None
        self._on_worker(channel)

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        found = {}
        for key in keys:
            if key in self.ended:
                exit_ = Exit(ExitKind.failed, "exit status 3", 3)
                found[key] = JobStatus(key, Phase.ended, exit=exit_)
            else:
                found[key] = JobStatus(key, Phase.running if key in self.launches else Phase.unknown)
        return found

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        del timeout_s
        return self.status(keys)

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        data = self.ended.get(key, "").encode()[offset : offset + limit_bytes]
        return LogChunk(data, offset + len(data), is_end=True)

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        del grace_s
        if key in self.launches:
            self.ended.setdefault(key, "stopped")
            if self._loop is not None and key in self.channels:
                self._loop.call_soon_threadsafe(self.channels[key].close)

    def usage(self, key: str) -> Usage:
        del key
        return Usage()

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        gone = tuple(key for key in self.running() if key not in keep)
        for key in gone:
            self.stop(key)
        return gone

    def close(self) -> None:
        """Nothing is held; as a door, nothing listens any more."""
