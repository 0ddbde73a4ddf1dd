"""The flows room as a service: words go to the owner's loop, questions to the catalog."""

from __future__ import annotations

import codecs
import functools
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fourfold.catalog import lineage
from fourfold.catalog.database import Catalog
from fourfold.core import words
from fourfold.core.catalog import LOCAL, principal
from fourfold.core.compute import FlowAdvice, Job, JobReport
from fourfold.core.context import Ref
from fourfold.core.decide.deadline import RunTimes
from fourfold.core.decide.place import Lease
from fourfold.core.decide.pools import pool_of
from fourfold.core.decide.schedule import next_tick
from fourfold.core.errors import FourfoldError, NotFound, Refused
from fourfold.core.flows import (
    BODY,
    Attempt,
    CallState,
    Code,
    DeployedFlow,
    FlowRun,
    Graph,
    LogPiece,
    Policy,
    Reason,
    RunEvent,
    RunId,
    ScheduleInfo,
    StepCall,
)
from fourfold.core.jobs import Resources
from fourfold.core.lineage import Edge
from fourfold.core.openlineage import EventPage, Outbox
from fourfold.core.pools import PoolInfo, PoolLoad
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.engine import Engine
from fourfold.core.ports.flow_store import Changes
from fourfold.core.times import Instant
from fourfold.core.values import replace
from fourfold.core.wire import convert, plain
from fourfold.resources.flows import bundle
from fourfold.resources.flows.client import Client
from fourfold.resources.flows.crew import Settings
from fourfold.resources.flows.loop import Resolve
from fourfold.resources.flows.openlineage.service import LineageEvents
from fourfold.resources.flows.owner import Far, Lock, Owner
from fourfold.resources.flows.starters import Brought
from fourfold.resources.flows.tables import FlowTables
from fourfold.resources.pools.pool import PoolPlan

if TYPE_CHECKING:
    import sqlalchemy as sa

LOG_BYTES = 256 * 1024
MOST_LISTED = 1000
ADVISED_RUNS = 200
"""So many of a flow's newest runs speak for the size of its steps."""


class Accounts(Protocol):
    """What of the compute room is needed here: to keep what attempts used, and read what they cost."""

    def record_in(self, connection: sa.Connection, reports: tuple[JobReport, ...]) -> tuple[Job, ...]: ...

    def jobs(self, flow_run: str | None = None, *, limit: int = 100) -> tuple[Job, ...]: ...

    def advise_flow(self, flow: str, flow_runs: Sequence[str]) -> FlowAdvice: ...

    def run_times(self, step: str) -> RunTimes | None: ...


class FlowService:
    """Durable flows of one project. Fulfils `core.services.flows.Flows`."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        *,
        home: Path,
        pools: Callable[[], Sequence[PoolPlan]],
        clock: Clock,
        new_id: Callable[[str], str],
        environment: Callable[[], str] = lambda: "",
        accounts: Accounts | None = None,
        resolve: Resolve | None = None,
        settings: Settings | None = None,
        lineage_events: LineageEvents | None = None,
        owning: Callable[[], None] = lambda: None,
        far: Far | None = None,
        brought: Brought | None = None,
        beside: Callable[[], Sequence[Lease]] | None = None,
    ) -> None:
        """`pools` is asked when this process first needs them. Their engines must be the loop's own, because
        the owner ends everything that an earlier life of it left running there. `owning` is called when this
        process becomes the owner; `far` says where it listens for workers on other machines, and `brought`
        what these are brought where their machine has nothing; `beside` says what services hold of units."""
        self._home = home.absolute()
        self._blobs = blobs
        self._clock = clock
        self._environment = environment
        self._accounts = accounts
        self._tables = FlowTables(catalog, also=self._record)
        self._step_codes: dict[tuple[str, str], str] = {}
        self._unpacking = threading.Lock()
        self._settings = settings
        self._body_pool = (settings or Settings()).body_pool
        self._lineage_events = lineage_events
        self._plans = functools.cache(lambda: {plan.name: plan for plan in pools()})
        self._readers: dict[str, Engine] = {}

        def make_owner(lock: Lock, is_firing: bool) -> Owner:
            owning()
            if lineage_events is not None:
                lineage_events.start()
            return Owner(
                home=self._home,
                store=self._tables,
                pools=tuple(self._plans().values()),
                clock=clock,
                new_id=new_id,
                code_folder=self.code_folder,
                lock=lock,
                resolve=resolve,
                step_code=self._step_code,
                run_times=None if accounts is None else accounts.run_times,
                settings=settings,
                is_firing=is_firing,
                far=far,
                beside=beside,
                bundle=lambda code: blobs.get(Digest(code.blob)),
                brought=brought,
            )

        self._client = Client(self._home, make_owner)

    def __repr__(self) -> str:
        return f"<FlowService at {self._home}>"

    # In process only

    def start_loop(self) -> Owner:
        """Become the owner that also fires schedules (`fourfold up`); refused while another process is."""
        return self._client.own(is_firing=True)

    def stop_loop(self) -> None:
        """Stop being the owner. Open runs go on with the next one."""
        self._client.close()
        if self._lineage_events is not None:
            self._lineage_events.close()

    close = stop_loop

    def follow(self, run_id: str) -> Iterator[RunEvent]:
        """What happens to a run, as it happens, until it has ended."""
        seen, told = 0, set[RunEvent]()
        for frame in self._client.follow(run_id, with_events=True):
            if frame["type"] == "events":
                new = [_event(each) for each in frame["events"]]
            elif frame["type"] == "reply":  # this owner tells what comes; what came before is on record
                new = list(self._all_events(run_id, seen))
                seen = new[-1].seq if new else seen
            else:
                new = []
            for event in new:
                plain_event = replace(event, seq=0)
                if plain_event not in told:
                    told.add(plain_event)
                    yield event

    def _all_events(self, run_id: str, after: int) -> Iterator[RunEvent]:
        while page := self.events(run_id, after=after, limit=MOST_LISTED):
            yield from page
            after = page[-1].seq

    # The protocol

    def submit(
        self,
        bundle: bytes,
        *,
        flow: str,
        module: str,
        attribute: str,
        params: Mapping[str, Any] | None = None,
        steps: Mapping[str, Policy] | None = None,
        key: str = "",
        priority: int = 0,
        user: str = "",
        cwd: str = "",
        python: str = "",
        deadline: str = "",
    ) -> FlowRun:
        run = {
            "deadline_at": words.deadline_instant(deadline, self._clock.now()),
            "flow": flow,
            "code": plain(self._keep_code(bundle, module, attribute)),
            "environment": self._environment(),
            "params": dict(params or {}),
            "python": self._python(python),
            "cwd": self._cwd(cwd),
            "key": key or f"submit/{secrets.token_hex(16)}",  # so that asking again makes no second run
            "priority": priority,
            "user": _acting(user),
        }
        answer = self._client.ask({"type": "submit", "run": run, "steps": plain(dict(steps or {}))})
        return _run(answer)

    def get(self, run_id: str) -> FlowRun:
        found = self._tables.run(run_id)
        if found is None:
            raise self._unknown(run_id)
        return found

    def list(
        self, flow: str = "", *, state: str = "", before: str = "", limit: int = 50
    ) -> tuple[FlowRun, ...]:
        limit = max(1, min(limit, MOST_LISTED))
        return self._tables.runs(flow=flow, state=state, before=before, limit=limit)

    def graph(self, run_id: str) -> Graph:
        found = self._tables.graph(run_id)
        if found is None:
            raise self._unknown(run_id)
        run, calls, attempts = found
        return Graph(run, calls, self._with_accounts(run_id, attempts))

    def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> tuple[RunEvent, ...]:
        return self._tables.events(run_id, after=after, limit=max(1, min(limit, 10 * MOST_LISTED)))

    def wait(self, run_id: str, *, timeout_s: float = 30.0) -> FlowRun:
        deadline = time.monotonic() + min(max(timeout_s, 0.0), 3600.0)
        while (run := self.get(run_id)).state.is_open and (left := deadline - time.monotonic()) > 0:
            for _ in self._client.follow(run_id, left):
                pass
        return run

    def lineage_events(self, since: Instant, *, after: str = "", limit: int = 20) -> EventPage:
        if self._lineage_events is None:
            return EventPage((), "")
        return self._lineage_events.page(since=since, after=after, limit=max(1, min(limit, 100)))

    def lineage_outbox(self) -> Outbox:
        if self._lineage_events is None:
            return Outbox("", 0, None, 0, None, "")
        return self._lineage_events.outbox()

    def result(self, run_id: str, *, call: str = "") -> bytes:
        found: FlowRun | StepCall = self._call(run_id, call) if call else self.get(run_id)
        if found.result is None:
            name = f"call {call} of run {run_id}" if call else f"run {run_id}"
            raise NotFound(f"{name} has no result: it is {found.state}", state=str(found.state))
        if found.result.inline is not None:
            return found.result.inline
        return self._blobs.get(Digest(found.result.digest))

    def cancel(self, run_id: str, *, why: str = "") -> FlowRun:
        self.get(run_id)
        return _run(self._client.ask({"type": "cancel", "run": run_id, "why": why}))

    def resume(self, run_id: str) -> FlowRun:
        self.get(run_id)
        return _run(self._client.ask({"type": "resume", "run": run_id}))

    def logs(self, run_id: str, *, call: str = "", attempt: int = 0, offset: int = 0) -> LogPiece:
        found = self._tables.attempt(run_id, call or BODY, attempt)
        if found is None:
            self._call(run_id, call or BODY)
            return LogPiece("", offset, is_end=not self.get(run_id).state.is_open)
        start = found.log_start + offset
        room = LOG_BYTES if found.log_end is None else max(0, min(LOG_BYTES, found.log_end - start))
        data, read_to, is_read = b"", start, True
        if found.worker and room:
            chunk = self._engine_to_read(found.unit).logs(found.worker, start, room)
            data, read_to = chunk.data, chunk.next_offset  # further than the data where some was given up
            is_read = not data or (chunk.is_end if found.log_end is None else read_to >= found.log_end)
        is_end = found.ended_at is not None and is_read
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data, final=is_end)
        cut = len(decoder.getstate()[0])  # a letter that is not all there yet comes with the next piece
        return LogPiece(text, read_to - found.log_start - cut, is_end)

    def why(self, run_id: str, *, call: str = "") -> tuple[Reason, ...]:
        graph = self.graph(run_id)
        answer = self._client.ask_if_owned({"type": "why", "run": run_id})
        holds: Mapping[str, str] = {} if answer is None else answer["holds"]
        found = [_reason(each, holds, has_owner=answer is not None) for each in graph.calls]
        if call:
            self._call(run_id, call)
            found = [reason for reason in found if reason.call == call]
        return tuple(found)

    def pools(self) -> tuple[PoolInfo, ...]:
        answer = self._client.ask_if_owned({"type": "pools"})
        told: dict[str, PoolLoad] = {}
        if answer is not None:
            loads: list[PoolLoad] = convert(answer["pools"], list[PoolLoad], what="pools")
            told = {load.name: load for load in loads}
        return tuple(
            PoolInfo(
                plan.name,
                plan.engine,
                plan.price_usd_per_hour,
                plan.is_default,
                told.get(plan.name) or self._load_now(plan),
                is_running=answer is not None,
            )
            for plan in self._plans().values()
            if plan.is_for_steps
        )

    def _load_now(self, plan: PoolPlan) -> PoolLoad:
        """A pool as its engine has it while nobody runs the loop."""
        try:
            engine = self._engine_to_read(plan.name)
            offers, able = engine.offers(Resources()), engine.capabilities()
        except Exception as error:  # a pool that is down is listed with the reason
            return PoolLoad(
                plan.name, fault=error.message if isinstance(error, FourfoldError) else str(error)
            )
        return PoolLoad(plan.name, plan.units(offers, able))

    def deploy(
        self,
        bundle: bytes,
        *,
        flow: str,
        module: str,
        attribute: str,
        params: Mapping[str, Any] | None = None,
        cron: str = "",
        tz: str = "UTC",
        catchup: str = "latest",
        scheduled_param: str = "",
        parameters: tuple[str, ...] = (),
        cwd: str = "",
        python: str = "",
        deadline: str = "",
    ) -> DeployedFlow:
        words.deadline(deadline)
        if cron:
            from fourfold.core.decide import cron as rule

            rule.parse(cron)
            rule.zone(tz)
        if catchup not in ("none", "latest", "all"):
            raise Refused(f"catchup {catchup!r} is not known", ways_on=["take none, latest or all"])
        asked = {
            "flow": flow,
            "code": plain(self._keep_code(bundle, module, attribute)),
            "params": dict(params or {}),
            "cron": cron,
            "tz": tz,
            "catchup": catchup,
            "scheduled_param": scheduled_param,
            "parameters": list(parameters),
            "deadline": deadline,
            "cwd": self._cwd(cwd),
            "python": self._python(python),
            "environment": self._environment(),
        }
        return _deployed(self._client.ask({"type": "deploy", "deployed": asked}))

    def deployments(self) -> tuple[DeployedFlow, ...]:
        return tuple(self._tables.deployments())

    def start(self, flow: str, *, params: Mapping[str, Any] | None = None, key: str = "") -> FlowRun:
        key = key or f"submit/{secrets.token_hex(16)}"
        return _run(
            self._client.ask(
                {
                    "type": "start",
                    "flow": flow,
                    "params": dict(params or {}),
                    "key": key,
                    "user": _acting(""),
                }
            )
        )

    def pause_schedule(self, flow: str, *, is_paused: bool = True) -> DeployedFlow:
        return _deployed(self._client.ask({"type": "pause_schedule", "flow": flow, "is_paused": is_paused}))

    def schedules(self) -> tuple[ScheduleInfo, ...]:
        answer = self._client.ask_if_owned({"type": "why", "run": ""})
        is_firing = answer is not None and bool(answer["is_firing"])
        now = self._clock.now()
        return tuple(
            ScheduleInfo(
                deployment.flow,
                deployment.cron,
                deployment.tz,
                deployment.catchup,
                None if deployment.is_paused else next_tick(deployment, now),
                deployment.last_tick,
                deployment.is_paused,
                is_firing,
            )
            for deployment in self.deployments()
            if deployment.cron
        )

    # How

    def _engine_to_read(self, unit: str) -> Engine:
        """An engine that only reads what others of its kind have run on a unit; a body has none."""
        pool = pool_of(unit) if unit else self._body_pool
        if (engine := self._readers.get(pool)) is None:
            plans = self._plans()
            if pool not in plans:
                raise NotFound(
                    f"it ran in pool '{pool}', which the settings do not name any more",
                    ways_on=["name the pool in fourfold.toml again to read what it kept"],
                )
            engine = self._readers[pool] = plans[pool].open()
        return engine

    def code_folder(self, code: Code) -> Path:
        """The folder that holds a run's code, unpacked here now if it was not before."""
        folder = self._home / "code" / code.digest
        if folder.is_dir():
            return folder
        with self._unpacking:
            return bundle.unpack(self._blobs.get(Digest(code.blob)), self._home / "code", code.digest)

    def _keep_code(self, data: bytes, module: str, attribute: str) -> Code:
        digest = bundle.bundle_digest(data)
        bundle.unpack(data, self._home / "code", digest)  # first: what is no bundle is refused here
        blob = self._blobs.put(data)
        return Code(digest, module, attribute, str(blob))

    def _step_code(self, code: Code, module: str) -> str:
        """Digest of the project's modules that a step's module imports."""
        known = self._step_codes.get((code.digest, module))
        if known is None:
            folder = self.code_folder(code)
            base = folder.joinpath(*module.split("."))
            files = [
                path for path in (base / "__init__.py", base.with_name(base.name + ".py")) if path.is_file()
            ]
            if files:
                known = bundle.digest(bundle.closure(bundle.Place(module, files[0], folder)))
            else:
                known = "environment"  # an installed module: the environment's identity stands for it
            self._step_codes[code.digest, module] = known
        return known

    def _cwd(self, asked: str) -> str:
        """Where whoever asks stands, if that is a folder here: a client's machine may be another."""
        return asked if asked and Path(asked).is_dir() else str(self._home.parent)

    def _python(self, asked: str) -> str:
        import sys

        return asked if asked and Path(asked).is_file() else sys.executable

    def _record(self, connection: sa.Connection, changes: Changes) -> None:
        """Within the loop's commit: the accounts of attempts that ended, and what was made from what."""
        if self._accounts is not None and changes.jobs:
            self._accounts.record_in(connection, tuple(changes.jobs))
        if edges := tuple(_edges(changes.calls.values())):
            lineage.record(connection, edges)
        if self._lineage_events is not None:
            self._lineage_events.note(connection, changes)

    def _with_accounts(self, run_id: str, attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
        if self._accounts is None:
            return attempts
        jobs = {job.report.key: job.account for job in self._accounts.jobs(run_id, limit=10_000)}
        return tuple(
            replace(attempt, utilisation=account.utilisation, cost_nanousd=account.cost_nanousd)
            if (account := jobs.get(attempt.key)) is not None
            else attempt
            for attempt in attempts
        )

    def _call(self, run_id: str, key: str) -> StepCall:
        found = self._tables.call(run_id, key)
        if found is None:
            from fourfold.core.errors import did_you_mean

            calls = {call.key for call in self.graph(run_id).calls}
            raise NotFound(
                f"run {run_id} has made no call '{key}'", ways_on=did_you_mean(key, calls, what="its calls")
            )
        return found

    def advise(self, flow: str) -> FlowAdvice:
        runs = self._tables.runs(flow=flow, state="", before="", limit=ADVISED_RUNS)
        if not runs or self._accounts is None:
            from fourfold.core.errors import did_you_mean

            known = {run.flow for run in self.list(limit=MOST_LISTED)}
            raise NotFound(
                f"no run of flow '{flow}' is on record", ways_on=did_you_mean(flow, known, what="flows")
            )
        return self._accounts.advise_flow(flow, [run.id for run in runs])

    def _unknown(self, run_id: str) -> NotFound:
        from fourfold.core.errors import did_you_mean

        newest = [run.id for run in self.list(limit=5)]
        return NotFound(
            f"there is no flow run '{run_id}'", ways_on=did_you_mean(run_id, newest, what="newest runs")
        )


def _acting(user: str) -> str:
    """Whom a run's steps act for: who asked at the server's door, whatever they say; else who is named."""
    who = principal()
    return user if who == LOCAL else who


def _run(answer: Mapping[str, Any]) -> FlowRun:
    run: FlowRun = convert(answer["run"], FlowRun, what="flow run")
    return run


def _event(plain_event: Mapping[str, Any]) -> RunEvent:
    event: RunEvent = convert(plain_event, RunEvent, what="event")
    return event


def _deployed(answer: Mapping[str, Any]) -> DeployedFlow:
    found: DeployedFlow = convert(answer["deployed"], DeployedFlow, what="deployed flow")
    return found


def _edges(calls: Iterable[StepCall]) -> Iterator[Edge]:
    """What a call read went into it, and what it wrote came from it."""
    for call in calls:
        if call.state is not CallState.succeeded or not (call.reads or call.writes):
            continue
        at = call.ended_at or call.created_at
        step = Ref("step", f"{call.run}/{call.key}", str(call.attempt))
        yield Edge(Ref("flow_run", call.run), step, None, at)
        for ref in call.reads:
            yield Edge(ref, step, None, at)
        for ref in call.writes:
            yield Edge(step, ref, step, at)


def _reason(call: StepCall, holds: Mapping[str, str], *, has_owner: bool) -> Reason:
    text = call.reason
    if call.state in (CallState.ready, CallState.retry_wait, CallState.blocked):
        text = holds.get(call.key, text)
        if not has_owner:
            text += "; nothing runs this project's loop now: start `fourfold up`, or run a flow"
    return Reason(call.key, call.state.value, text)


__all__ = ["FlowService", "RunId"]
