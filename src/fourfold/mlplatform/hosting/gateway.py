"""The process that answers predictions: one per project, for all of its endpoints.

    python -m fourfold.mlplatform.hosting.gateway [--host HOST] [--port PORT]

It reads in the catalog what is wanted, and makes it so by the rule of `core.decide.swap`: starts workers,
warms them, routes, drains, stops; and writes there how far it is. It does not load models, so no model can
bring it down.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fourfold.catalog.ids import new_id
from fourfold.core.decide import swap as rule
from fourfold.core.errors import Conflict, FourfoldError, NotFound, Refused, Unavailable
from fourfold.core.hosting import Deployment, Duty, Gateway, Phase
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine
from fourfold.core.ports.gateway import GatewayClient, HttpServer
from fourfold.core.ports.model_worker import WorkerChannel, WorkerDoor
from fourfold.core.services.features import Features
from fourfold.core.services.models import Models
from fourfold.core.services.storage import Storage
from fourfold.mlplatform.hosting.homes import Homes
from fourfold.mlplatform.hosting.http import GatewayApp
from fourfold.mlplatform.hosting.jobs import WorkerJobs, look_up_features
from fourfold.mlplatform.hosting.lane import Lane
from fourfold.mlplatform.hosting.log import FLUSH_ROWS, FLUSH_S, EndpointLog
from fourfold.mlplatform.hosting.running import Behind, RunningEndpoint
from fourfold.mlplatform.hosting.tables import HostingTables, Wish

logger = logging.getLogger("fourfold.hosting")

POLL_S = 0.25
"""How often the catalog is asked whether something is wanted anew (a wish also says so by itself)."""
WATCH_S = 0.05
"""How often starting workers are looked at, and time's events are given to the rule."""
SEEN_S = 2.0
STALE_S = 15.0
"""A gateway that has not been seen for so long is taken for dead."""


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """What a gateway is made of."""

    tables: HostingTables
    models: Models
    features: Features
    storage: Storage
    engine: Engine
    homes: Homes
    door: WorkerDoor
    http: HttpServer
    client: GatewayClient
    clock: Clock
    token: str


class GatewayProcess:
    """All endpoints of a project, their workers, and the HTTP door."""

    def __init__(self, parts: GatewayParts, *, id: str = "") -> None:  # noqa: A002 - of this gateway
        self.parts = parts
        self.id = id or new_id("gw")
        self.endpoints: dict[str, RunningEndpoint] = {}
        self.url = ""
        self._prediction_base = new_id("prd")
        self._prediction_number = 0
        self._change_number = -1
        self._workers_address = ""
        self._written: asyncio.Queue[Callable[[], None] | None] = asyncio.Queue()
        self._jobs = WorkerJobs(parts.engine, parts.homes, parts.models)
        self._tasks: set[asyncio.Task[None]] = set()
        self._reconciling = asyncio.Lock()
        self._stopping = False

    async def run(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Serve until `stop`. `Conflict` when the project has a gateway; `Refused` for a taken port."""
        if host not in {"127.0.0.1", "localhost", "::1"}:
            raise Refused(
                f"the gateway would listen on {host}, beyond this machine, without knowing who asks",
                ways_on=["listen on 127.0.0.1 and put a proxy that knows its users in front"],
            )
        self._workers_address = await self.parts.door.listen(self._worker_called)
        writer = asyncio.create_task(self._write_on())
        loops: list[asyncio.Task[None]] = []

        async def listening(host: str, port: int) -> None:
            self.url = f"http://{host}:{port}"
            await self._claim()
            await self._jobs.reap()
            await self.reconcile()  # so that the first request finds its endpoint
            loops.extend(
                asyncio.create_task(self._lasting(loop))
                for loop in (self._reconcile_on, self._watch_on, self._log_on, self._seen_on)
            )

        try:
            app = GatewayApp(self)
            await self.parts.http.serve(app, host=host, port=port, on_listening=listening)
        finally:
            self._stopping = True
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._close()
            self._written.put_nowait(None)
            await writer
            await asyncio.to_thread(self.parts.tables.leave, self.id)
            self._jobs.close()

    def stop(self) -> None:
        """End `run`: finish what has begun, write the logs, stop the workers. Repeatable."""
        self._stopping = True
        self.parts.http.stop()

    def endpoint(self, name: str) -> RunningEndpoint:
        found = self.endpoints.get(name)
        if found is None:
            from fourfold.core.errors import did_you_mean

            raise NotFound(
                f"endpoint '{name}' does not exist",
                ways_on=did_you_mean(name, self.endpoints, what="endpoints"),
            )
        return found

    async def flush(self, name: str = "") -> int:
        """Write the log of an endpoint (or of all); the rows written."""
        written = 0
        for endpoint in [self.endpoint(name)] if name else list(self.endpoints.values()):
            await endpoint.settle()
            written += await asyncio.to_thread(endpoint.log.write)
        return written

    # What is wanted.

    async def reconcile(self) -> None:
        """Look at what is wanted now, and begin what follows from it."""
        async with self._reconciling:
            tables = self.parts.tables
            number = await asyncio.to_thread(tables.change_number)
            if number == self._change_number:
                return
            # In this order: a wish that comes in between has its endpoint among the rows.
            wishes = await asyncio.to_thread(tables.wishes)
            rows = await asyncio.to_thread(tables.endpoints)
            for row in rows:
                endpoint = self.endpoints.get(row.name)
                if endpoint is None:
                    endpoint = self.endpoints[row.name] = RunningEndpoint(
                        row.name,
                        row.settings,
                        log=EndpointLog(row.name, self.parts.storage),
                        clock=self.parts.clock,
                        new_prediction_id=self._next_prediction_id,
                    )
                endpoint.settings = row.settings
                for behind in endpoint.behind.values():
                    behind.lane.settings = row.settings
            wanted = {(w.deployment.endpoint, w.deployment.duty) for w in wishes if w.is_wanted}
            for wish in wishes:
                await self._follow(wish, has_successor=not wish.is_wanted and _place(wish) in wanted)
            self._change_number = number

    async def _follow(self, wish: Wish, *, has_successor: bool) -> None:
        deployment = wish.deployment
        endpoint = self.endpoints[deployment.endpoint]
        is_known = endpoint.swap.slot(deployment.id) is not None
        if wish.is_wanted or (has_successor and wish.has_served):
            if is_known:
                return
            lane = Lane(deployment.model, endpoint.settings, lambda: self._idle(endpoint, deployment.id))
            endpoint.behind[deployment.id] = Behind(deployment, lane)
            self._decide(endpoint, rule.Asked(deployment.id, deployment.duty, has_served=wish.has_served))
        elif is_known:
            if not has_successor:
                self._decide(endpoint, rule.Unasked(deployment.id, "not wanted any more"))
        else:
            self._write(deployment.id, Phase.stopped, "its gateway ended", wish.has_served, 0)

    def _decide(self, endpoint: RunningEndpoint, event: rule.Event) -> None:
        """Give the rule an event; do what it says, and write where things stand."""
        before = {slot.id: slot for slot in endpoint.swap.slots}
        endpoint.swap, commands = rule.decide(endpoint.swap, event, self.parts.clock.now())
        for command in commands:
            self._perform(endpoint, command)
        for slot in endpoint.swap.slots:
            was = before.get(slot.id)
            if was is None or (was.phase, was.reason) != (slot.phase, slot.reason):
                self._write(slot.id, slot.phase, slot.reason, slot.has_served, len(slot.crashes))
            if slot.phase.is_over:
                endpoint.forget(slot.id)

    def _perform(self, endpoint: RunningEndpoint, command: rule.Command) -> None:
        behind = endpoint.behind[command.id] if command.id else None
        match command:
            case rule.Start() if behind is not None:
                self._spawn(self._start(endpoint, behind, command.generation))
            case rule.Warm() if behind is not None:
                self._spawn(self._warm(endpoint, behind, command.generation))
            case rule.Route():
                if behind is not None and behind.channel is not None:
                    behind.lane.attach(behind.channel)
                endpoint.route(command.duty, behind)
            case rule.Drain() if behind is not None:
                if behind.lane.is_idle:
                    asyncio.get_running_loop().call_soon(self._idle, endpoint, command.id)
            case rule.Stop() if behind is not None:
                self._stop_worker(endpoint, behind, command)
            case _:
                raise AssertionError(command)

    # Workers.

    async def _start(self, endpoint: RunningEndpoint, behind: Behind, generation: int) -> None:
        deployment = behind.deployment

        def is_wanted() -> bool:
            slot = endpoint.swap.slot(deployment.id)
            return slot is not None and slot.generation == generation and not self._stopping

        try:
            await asyncio.to_thread(look_up_features, behind, self.parts.features, self.parts.storage)
            key = self._job_key(deployment, generation)
            await self._jobs.start(deployment, key, self._workers_address, is_wanted)
        except Exception as error:
            self._decide(endpoint, rule.Ended(deployment.id, generation, _why(error)))

    def _worker_called(self, channel: WorkerChannel) -> None:
        """A worker has loaded its model and called in."""
        endpoint_name, id_, generation_text = channel.key.split("/")[-3:]
        generation = int(generation_text)
        endpoint = self.endpoints.get(endpoint_name)
        slot = endpoint.swap.slot(id_) if endpoint is not None else None
        if endpoint is None or slot is None or slot.generation != generation:
            channel.close()  # of an earlier life
            return
        behind = endpoint.behind[id_]
        behind.attach(channel)
        channel.on_gone(lambda: self._spawn(self._gone(endpoint, behind, generation)))
        self._spawn(self._loaded(endpoint, behind, generation))

    async def _loaded(self, endpoint: RunningEndpoint, behind: Behind, generation: int) -> None:
        id_ = behind.deployment.id
        try:
            self._check_columns(behind)
            if endpoint.settings.log:
                assert behind.lane.outputs is not None
                await asyncio.to_thread(endpoint.log.know, behind.log_kinds(), behind.lane.outputs)
        except Exception as error:
            self._decide(endpoint, rule.Ended(id_, generation, _why(error)))
        else:
            self._decide(endpoint, rule.Loaded(id_, generation))

    def _check_columns(self, behind: Behind) -> None:
        """A request may not bring what the feature service looks up: which would count?"""
        if behind.plan is None or behind.lane.columns is None:
            return
        if not set(behind.plan.names) & set(behind.lane.columns.names):
            raise Refused(
                f"model {behind.deployment.model} takes none of the features of "
                f"'{behind.deployment.features}'",
                ways_on=["it takes: " + ", ".join(behind.lane.columns.names)],
            )

    async def _warm(self, endpoint: RunningEndpoint, behind: Behind, generation: int) -> None:
        id_ = behind.deployment.id
        assert behind.channel is not None
        try:
            await behind.channel.warm()
        except Unavailable:
            return  # its end is reported by itself
        except Exception as error:
            self._decide(endpoint, rule.Ended(id_, generation, f"its example failed: {_why(error)}"))
        else:
            self._decide(endpoint, rule.Warmed(id_, generation))

    async def _gone(self, endpoint: RunningEndpoint, behind: Behind, generation: int) -> None:
        slot = endpoint.swap.slot(behind.deployment.id)
        if slot is None or slot.generation != generation or self._stopping:
            return
        behind.lane.detach("its worker ended and is being restarted")
        key = self._job_key(behind.deployment, generation)
        await self._ended(endpoint, behind, generation, await self._jobs.how_it_ended(key))

    async def _ended(self, endpoint: RunningEndpoint, behind: Behind, generation: int, reason: str) -> None:
        behind.channel = None
        self._decide(endpoint, rule.Ended(behind.deployment.id, generation, reason))

    def _stop_worker(self, endpoint: RunningEndpoint, behind: Behind, command: rule.Stop) -> None:
        channel, behind.channel = behind.channel, None
        behind.lane.detach(command.reason.partition("\n")[0])
        if channel is not None:
            channel.close()
        if command.generation:
            self._spawn(self._jobs.stop(self._job_key(behind.deployment, command.generation)))
        slot = endpoint.swap.slot(behind.deployment.id)
        if slot is not None and slot.phase.is_over:
            self._hand_over(endpoint, behind)

    def _hand_over(self, endpoint: RunningEndpoint, behind: Behind) -> None:
        """What a version that is over still held goes to the one that took its place."""
        live = endpoint.live
        if behind.deployment.duty is Duty.live and live is not None and live is not behind:
            live.lane.adopt(behind.lane)
            return
        if live is behind:
            endpoint.route(Duty.live, None)
        if endpoint.shadow is behind:
            endpoint.route(Duty.shadow, None)
        behind.lane.abandon(
            Unavailable(f"endpoint '{endpoint.name}' has been stopped", ways_on=["deploy a version"])
        )

    def _idle(self, endpoint: RunningEndpoint, deployment: str) -> None:
        if endpoint.phase_of(deployment) is Phase.draining and endpoint.behind[deployment].lane.is_idle:
            self._decide(endpoint, rule.Drained(deployment))

    # What goes on all the time.

    async def _lasting(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A defect that one turn met is logged, and the next turn comes."""
        while True:
            try:
                return await loop()
            except Exception:
                logger.exception("a defect in %s", loop.__name__)
                await asyncio.sleep(POLL_S)

    async def _reconcile_on(self) -> None:
        while True:
            try:
                await self.reconcile()
            except FourfoldError as error:
                logger.warning("the catalog was not read: %s", error)
            await asyncio.sleep(POLL_S)

    async def _watch_on(self) -> None:
        """Look at workers that have not called in yet, and tell the rule that time goes by."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = self.parts.clock.now()
            for endpoint in list(self.endpoints.values()):
                due = rule.next_due(endpoint.swap)
                if due is not None and due <= now:
                    self._decide(endpoint, rule.Tick())
                await self._look_at_starting(endpoint)

    async def _look_at_starting(self, endpoint: RunningEndpoint) -> None:
        starting = {
            self._job_key(endpoint.behind[slot.id].deployment, slot.generation): slot
            for slot in endpoint.swap.slots
            if slot.phase is Phase.starting and endpoint.behind[slot.id].channel is None
        }
        for key in await self._jobs.ended(list(starting)):
            slot = starting[key]
            behind = endpoint.behind.get(slot.id)
            if behind is not None:
                reason = await self._jobs.how_it_ended(key)
                if behind.channel is None:
                    await self._ended(endpoint, behind, slot.generation, reason)

    async def _log_on(self) -> None:
        """Write logs by size and age."""
        waited_s = 0.0
        while True:
            await asyncio.sleep(0.5)
            waited_s += 0.5
            is_due = waited_s >= FLUSH_S
            for endpoint in list(self.endpoints.values()):
                if endpoint.log.row_count >= FLUSH_ROWS or (is_due and endpoint.log.row_count):
                    try:
                        await asyncio.to_thread(endpoint.log.write)
                    except FourfoldError as error:
                        logger.warning("the log of endpoint '%s' waits: %s", endpoint.name, error)
                    except Exception:  # one endpoint's log must not keep the others from being written
                        logger.exception("a defect in writing the log of endpoint '%s'", endpoint.name)
            if is_due:
                waited_s = 0.0

    async def _seen_on(self) -> None:
        while True:
            await asyncio.sleep(SEEN_S)
            try:
                is_ours = await asyncio.to_thread(self.parts.tables.seen, self.id, self.parts.clock.now())
            except FourfoldError as error:
                logger.warning("the catalog was not written: %s", error)
                continue
            if not is_ours:
                logger.warning("another gateway has taken over")
                self.stop()
                return

    async def _claim(self) -> None:
        tables, now = self.parts.tables, self.parts.clock.now()
        holder = await asyncio.to_thread(tables.gateway)
        over = ""
        if holder is not None:
            # At our own address nobody else can be.
            is_gone = holder.url == self.url or not await asyncio.to_thread(
                self.parts.client.is_alive, holder.url
            )
            over = holder.id if is_gone else ""
        claimant = Gateway(self.id, self.url, os.getpid(), now, now)
        await asyncio.to_thread(tables.claim, claimant, stale_s=STALE_S, over=over)

    async def _write_on(self) -> None:
        """Writes to the catalog, in their order, off the event loop; what it cannot take now waits."""
        while (write := await self._written.get()) is not None:
            while True:
                try:
                    await asyncio.to_thread(write)
                except FourfoldError as error:
                    logger.warning("the catalog was not written: %s", error)
                    if not self._stopping:
                        await asyncio.sleep(POLL_S)
                        continue
                except Exception:
                    logger.exception("a defect in writing the catalog")
                break

    def _write(self, id_: str, phase: Phase, reason: str, has_served: bool, crash_count: int) -> None:
        now = self.parts.clock.now()
        self._written.put_nowait(
            lambda: self.parts.tables.moved(
                id_, phase=phase, reason=reason, has_served=has_served, crash_count=crash_count, now=now
            )
        )

    async def _close(self) -> None:
        for endpoint in self.endpoints.values():
            await endpoint.settle()
            try:
                await asyncio.to_thread(endpoint.log.write)
            except FourfoldError as error:
                logger.error(
                    "%d rows of the log of '%s' are lost: %s", endpoint.log.row_count, endpoint.name, error
                )
            except Exception:  # its workers are to be stopped, whatever became of its log
                logger.exception("a defect in writing the log of endpoint '%s'", endpoint.name)
            for behind in endpoint.behind.values():
                behind.lane.abandon(Unavailable("the gateway stops", ways_on=["try again in a moment"]))
                if behind.channel is not None:
                    behind.channel.close()
                slot = endpoint.swap.slot(behind.deployment.id)
                if slot is not None and slot.generation:
                    await self._jobs.stop(self._job_key(behind.deployment, slot.generation))
        self.parts.door.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a defect in the gateway", exc_info=error)

    def _job_key(self, deployment: Deployment, generation: int) -> str:
        """A key is used once for ever, and each gateway counts generations from 1."""
        return f"worker/{self.id}/{deployment.endpoint}/{deployment.id}/{generation}"

    def _next_prediction_id(self) -> str:
        """Unique at the cost of a sum: this gateway's own 128 bits, and a number."""
        self._prediction_number += 1
        return f"{self._prediction_base}-{self._prediction_number:x}"


def _why(error: Exception) -> str:
    """Why a worker will not serve: each way to fail ends its deployment, none leaves it starting for ever."""
    if isinstance(error, FourfoldError):
        return str(error)
    logger.error("a defect in the gateway", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _place(wish: Wish) -> tuple[str, Duty]:
    return wish.deployment.endpoint, wish.deployment.duty


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The gateway of the present project.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--id", default="")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from fourfold.core.context import services

    hosting: Any = services().hosting
    if not hasattr(hosting, "gateway_parts"):
        print("the gateway runs where the project is, not beside a client of it", file=sys.stderr)  # noqa: T201
        return 2
    try:
        parts = hosting.gateway_parts()
        parts.http.run(_serve(parts, options.host, options.port, options.id))
    except Conflict as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 3
    except FourfoldError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


async def _serve(parts: GatewayParts, host: str, port: int, id_: str) -> None:
    process = GatewayProcess(parts, id=id_)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop)
    await process.run(host=host, port=port)


if __name__ == "__main__":
    sys.exit(main())
