"""A gateway in this process: real rules, tables and HTTP application; workers and sockets in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from fourfold.catalog.database import Catalog
from fourfold.core.errors import NotFound
from fourfold.core.features import Kind, Status, Vector
from fourfold.core.hosting import Deployment, Duty, EndpointSettings, Phase
from fourfold.core.models import ModelVersion
from fourfold.core.ports.gateway import Asgi
from fourfold.core.times import Instant
from fourfold.foundation.storage.service import Storage
from fourfold.mlplatform.hosting.gateway import GatewayParts, GatewayProcess
from fourfold.mlplatform.hosting.homes import Home
from fourfold.mlplatform.hosting.tables import HostingTables
from fourfold.testing.clock import MovableClock
from fourfold.testing.model_workers import FakeModel, FakeWorkers

TOKEN = "t0ken"
INPUTS = pa.schema([("distance", pa.float64()), ("carrier", pa.string())])
OUTPUTS = pa.schema([("score", pa.float64())])
PATIENCE_S = 20.0


def doubles(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Twice the distance; null stays null, and NaN stays NaN."""
    values = [None if v is None else 2 * v for v in rows.column("distance").to_pylist()]
    return pa.record_batch([pa.array(values, pa.float64())], schema=OUTPUTS)


def triples(rows: pa.RecordBatch) -> pa.RecordBatch:
    values = [None if v is None else 3 * v for v in rows.column("distance").to_pylist()]
    return pa.record_batch([pa.array(values, pa.float64())], schema=OUTPUTS)


def model(answer: Callable[[pa.RecordBatch], pa.RecordBatch] = doubles, **changes: Any) -> FakeModel:
    return FakeModel(**{"inputs": INPUTS, "outputs": OUTPUTS, "answer": answer, **changes})


class FakeModels:
    """Versions by `name/number`; the digest is the reference itself, by which `FakeWorkers` knows models."""

    def __init__(self, known: Mapping[str, FakeModel]) -> None:
        self.known = known

    def resolve(self, ref: str) -> ModelVersion:
        if ref not in self.known:
            raise NotFound(f"model '{ref}' does not exist")
        name, _, number = ref.partition("/")
        return ModelVersion(name, int(number), ref, "run_1", Instant(0))


class FakeHomes:
    def home(self, version: ModelVersion) -> Home:
        return Home(Path("/nowhere") / version.digest, "python", {})


@dataclass
class FakeFeatures:
    """One service, `carriers@1`: the mean delay of a carrier. Fulfils what a gateway asks of features."""

    delays: dict[str, float] = field(default_factory=lambda: {"UA": 12.5})
    watermark: int = 7
    name, version = "carriers", "1"
    names, request, key_columns = ("delay",), ("distance",), ("carrier",)

    def service(self, name: str, *, version: str | None = None) -> Any:
        del version
        use = SimpleNamespace(
            view="carrier_delays", version="1", keys=(SimpleNamespace(column="carrier", key="carrier"),)
        )
        service = SimpleNamespace(feature_names=self.names, uses=(use,))
        return SimpleNamespace(service=service, version="1", kinds={"delay": Kind.float}, name=name)

    def view(self, name: str, *, version: str | None = None) -> Any:
        del version
        source = SimpleNamespace(table=name)
        return SimpleNamespace(view=SimpleNamespace(source=source))

    def plan(self, name: str, *, version: str | None = None) -> FakeFeatures:
        del name, version
        return self

    def read(self, keys: Sequence[Mapping[str, Any]], at: Instant | None = None) -> tuple[list[Vector], int]:
        del at
        found = []
        for key in keys:
            value = self.delays.get(key["carrier"])
            found.append(Vector((value,), (Status.missing if value is None else Status.present,)))
        return found, self.watermark


class MemoryHttp:
    """An HTTP server without a socket: requests are calls of the application."""

    def __init__(self) -> None:
        self.app: Asgi | None = None
        self.is_up = False
        self._stopped = asyncio.Event()

    async def serve(
        self, app: Asgi, *, host: str, port: int, on_listening: Callable[[str, int], Any]
    ) -> None:
        self.app = app
        await on_listening(host, port or 4041)
        self.is_up = True
        await self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()


class NobodyElse:
    """A client that finds no other gateway alive."""

    def is_alive(self, url: str) -> bool:
        del url
        return False


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Running:
    """A gateway under test, and the hands of its clients."""

    process: GatewayProcess
    tables: HostingTables
    workers: FakeWorkers
    clock: MovableClock
    storage: Storage
    http: MemoryHttp

    async def ask(
        self,
        verb: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        token: str | None = TOKEN,
        **headers: str,
    ) -> Answer:
        """One request; header names are given with `_` for `-`."""
        given = {"host": "127.0.0.1:4041", "content-type": "application/json"}
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        scope = {
            "type": "http",
            "method": verb,
            "path": path,
            "headers": [(k.encode(), v.encode()) for k, v in given.items()],
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        assert self.http.app is not None
        await asyncio.wait_for(self.http.app(scope, receive, send), PATIENCE_S)
        told = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        text = sent[1]["body"]
        return Answer(sent[0]["status"], told, json.loads(text) if "json" in told["content-type"] else text)

    async def predict(self, *rows: Mapping[str, object], endpoint: str = "late", **headers: Any) -> Answer:
        return await self.ask("POST", f"/endpoints/{endpoint}/predict", {"rows": list(rows)}, **headers)

    def wish(
        self,
        ref: str,
        *,
        endpoint: str = "late",
        duty: Duty = Duty.live,
        settings: EndpointSettings | None = None,
        features: str = "",
    ) -> Deployment:
        name, _, number = ref.partition("/")
        return self.tables.wish(
            endpoint,
            model_name=name,
            model_number=int(number),
            duty=duty,
            settings=settings,
            features=features,
            now=self.clock.now(),
        )

    async def deploy(self, ref: str, **given: Any) -> Deployment:
        """Wish for a version, and wait until it serves or is over."""
        made = self.wish(ref, **given)
        await self.process.reconcile()
        return await self.reach(made, lambda found: found.phase is Phase.serving or found.phase.is_over)

    async def reach(self, made: Deployment, is_there: Callable[[Deployment], bool]) -> Deployment:
        """Wait until a deployment stands somewhere in the catalog."""

        async def look() -> Deployment:
            while not is_there(found := self.tables.deployment(made.id)):
                await asyncio.sleep(0.002)
            return found

        return await asyncio.wait_for(look(), PATIENCE_S)

    async def restart(self) -> None:
        """Wait until a death is known, let the pause before the restart go by, and wait for the restart."""

        def is_away() -> bool:
            slots = self.process.endpoints["late"].swap.slots
            return any(slot.phase is Phase.restarting for slot in slots)

        await self.until(is_away)
        self.clock.advance(60.0)
        await self.until(lambda: not is_away())

    async def until(self, is_there: Callable[[], bool]) -> None:
        async def look() -> None:
            while not is_there():
                await asyncio.sleep(0.002)

        await asyncio.wait_for(look(), PATIENCE_S)

    async def log(self, endpoint: str = "late") -> pa.Table:
        """What the prediction log's table holds after a flush."""
        await self.process.flush(endpoint)
        return self.storage.read(f"predictions.{endpoint}")


@dataclass
class Stand:
    """What gateways are started on, one after the other."""

    catalog: Catalog
    storage: Storage
    clock: MovableClock
    features: FakeFeatures = field(default_factory=FakeFeatures)

    @asynccontextmanager
    async def gateway(self, models: Mapping[str, FakeModel]) -> AsyncIterator[Running]:
        workers = FakeWorkers(models)
        http = MemoryHttp()
        tables = HostingTables(self.catalog)
        parts: Any = {
            "tables": tables,
            "models": FakeModels(models),
            "features": self.features,
            "storage": self.storage,
            "engine": workers,
            "homes": FakeHomes(),
            "door": workers,
            "http": http,
            "client": NobodyElse(),
            "clock": self.clock,
            "token": TOKEN,
        }
        process = GatewayProcess(GatewayParts(**parts))
        task = asyncio.create_task(process.run())
        running = Running(process, tables, workers, self.clock, self.storage, http)
        try:
            await running.until(lambda: http.is_up or task.done())
            yield running
        finally:
            process.stop()
            await asyncio.wait_for(task, PATIENCE_S)
