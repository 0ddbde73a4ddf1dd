"""An endpoint as it runs in the gateway: who serves behind it, how a request is answered, what is counted."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from fourfold.core.decide.swap import Swap, health
from fourfold.core.errors import FourfoldError, Refused, Unavailable
from fourfold.core.features import Status
from fourfold.core.hosting import Deployment, Duty, EndpointSettings, Health, Missing, Phase, Scalar, Traffic
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.model_worker import WorkerChannel
from fourfold.core.services.features import Plan
from fourfold.core.times import Instant
from fourfold.mlplatform.hosting.columns import reader, unknown_columns
from fourfold.mlplatform.hosting.lane import Answered, Lane, Outputs
from fourfold.mlplatform.hosting.log import EndpointLog, Served

LATENCIES_MAX = 2048
SHADOW_REQUESTS_MAX = 1024
"""Copies under way at once; beyond it requests are not copied."""

COMING = frozenset({Health.starting, Health.degraded, Health.crash_looping})
"""States in which a version that will answer is on its way."""

Rows = Sequence[Mapping[str, Scalar]]


@dataclass(slots=True)
class Behind:
    """One deployment behind an endpoint, while it is not over."""

    deployment: Deployment
    lane: Lane
    plan: Plan | None = None
    key_kinds: Mapping[str, pa.DataType] = field(default_factory=dict)
    """Types of the key columns, from the tables that the features come from."""
    feature_kinds: Mapping[str, pa.DataType] = field(default_factory=dict)
    channel: WorkerChannel | None = None
    _asked: dict[str, pa.DataType | None] | None = None

    def attach(self, channel: WorkerChannel) -> None:
        """A worker has called in: its columns are known now. Requests flow from `lane.attach`."""
        self.channel = channel
        self.lane.describe(channel.inputs, channel.outputs)
        self._asked = None

    def asked(self) -> dict[str, pa.DataType | None]:
        """The columns that a request brings, with their types."""
        if self._asked is None:
            self._asked = self._find_asked()
        return self._asked

    def _find_asked(self) -> dict[str, pa.DataType | None]:
        schema = self.lane.columns.schema if self.lane.columns is not None else pa.schema([])
        inputs = {name: schema.field(name).type for name in schema.names}
        if self.plan is None:
            return dict(inputs)
        wanted: dict[str, pa.DataType | None] = {
            name: self.key_kinds.get(name, inputs.get(name)) for name in self.plan.key_columns
        }
        wanted |= {name: inputs.get(name) for name in self.plan.request if name not in wanted}
        looked_up = set(self.plan.names)
        wanted |= {n: kind for n, kind in inputs.items() if n not in wanted and n not in looked_up}
        return wanted

    def log_kinds(self) -> dict[str, pa.DataType]:
        """The types of what the log keeps of a request: its columns and its features."""
        kinds = {name: kind for name, kind in self.asked().items() if kind is not None}
        return {**kinds, **self.feature_kinds}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with."""

    ids: list[str]
    model: str
    outputs: Outputs
    kinds: pa.Schema
    """The outputs' types."""
    t: Instant
    watermark: int | None
    missing: list[tuple[str, ...]]


@dataclass(slots=True)
class Prepared:
    """A request's rows with their features."""

    rows: Rows
    watermark: int | None
    missing: list[tuple[str, ...]]


class RunningEndpoint:
    """Answers requests by the live deployment, and gives copies to the shadow."""

    def __init__(
        self,
        name: str,
        settings: EndpointSettings,
        *,
        log: EndpointLog,
        clock: Clock,
        new_prediction_id: Callable[[], str],
    ) -> None:
        self.name = name
        self.settings = settings
        self.log = log
        self.swap = Swap()
        self.behind: dict[str, Behind] = {}
        self.live: Behind | None = None
        self.shadow: Behind | None = None
        self._clock = clock
        self._new_id = new_prediction_id
        self._latencies: deque[float] = deque(maxlen=LATENCIES_MAX)
        self._counts = Traffic()
        self._request_count = self._row_count = self._error_count = self._refused_count = 0
        self._shadow_tasks: set[asyncio.Task[None]] = set()
        self._is_routed = asyncio.Event()
        self._waiting = 0

    async def predict(
        self, rows: Rows, *, t: Instant | None = None, deadline_s: float | None = None
    ) -> Answer:
        """Answer rows by the live version. Bad rows, a full queue and lateness are errors of their kind."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            answer = await self._predict(rows, t, began_s, deadline_s)
        except FourfoldError as error:
            if error.status < 500:
                self._refused_count += 1
            else:
                self._error_count += 1
            raise
        self._request_count += 1
        self._row_count += len(rows)
        return answer

    def route(self, duty: Duty, behind: Behind | None) -> None:
        """Give the duty's requests to this deployment from now on; to none if `None`."""
        if duty is Duty.shadow:
            self.shadow = behind
            return
        self.live = behind
        if behind is None:
            self._is_routed.clear()
        else:
            self._is_routed.set()

    async def answering(self, within_s: float | None = None) -> Behind:
        """Whoever answers. One that is on its way is awaited (by as many requests as may queue)."""
        if self.live is None and self.health()[0] in COMING and self._waiting < self.settings.queue_rows_max:
            self._waiting += 1
            try:
                async with asyncio.timeout(self.settings.deadline_s if within_s is None else within_s):
                    await self._is_routed.wait()
            except TimeoutError:
                pass  # said below, with the reason
            finally:
                self._waiting -= 1
        return self.ready()

    def ready(self) -> Behind:
        """Whoever answers now, or the error that says why nobody does."""
        if self.live is None:
            word, reason = self.health()
            raise Unavailable(
                f"endpoint '{self.name}' is {word}: {reason.partition(chr(10))[0]}",
                ways_on=["try again in a moment" if word in COMING else "deploy a version"],
                retry_after_s=1.0,
            )
        return self.live

    def health(self) -> tuple[Health, str]:
        return health(self.swap, self._clock.now())

    def traffic(self) -> Traffic:
        """What was done so far."""
        ordered = sorted(self._latencies)
        lanes = [each.lane for each in self.behind.values()]
        if self.live is not None and self.live.lane not in lanes:
            lanes.append(self.live.lane)
        batch_count = sum(lane.counts.batch_count for lane in lanes)
        return replace(
            self._counts,
            request_count=self._counts.request_count + self._request_count,
            row_count=self._counts.row_count + self._row_count,
            error_count=self._error_count,
            refused_count=self._refused_count,
            shed_count=self._counts.shed_count + sum(lane.counts.shed_count for lane in lanes),
            retried_count=self._counts.retried_count + sum(lane.counts.retried_count for lane in lanes),
            queue_rows=self.live.lane.queue_rows if self.live is not None else 0,
            log_dropped_count=self.log.dropped_count,
            latency_ms_p50=_quantile(ordered, 0.5),
            latency_ms_p99=_quantile(ordered, 0.99),
            batch_rows_mean=(
                sum(lane.counts.batch_rows for lane in lanes) / batch_count if batch_count else None
            ),
        )

    def forget(self, deployment: str) -> None:
        """A deployment is over; its counts stay."""
        gone = self.behind.pop(deployment, None)
        if gone is not None:
            self._counts = replace(
                self._counts,
                shed_count=self._counts.shed_count + gone.lane.counts.shed_count,
                retried_count=self._counts.retried_count + gone.lane.counts.retried_count,
            )

    async def _predict(
        self, rows: Rows, t: Instant | None, began_s: float, deadline_s: float | None
    ) -> Answer:
        if not rows:
            raise Refused("the request has no rows")
        if len(rows) > self.settings.request_rows_max:
            raise Refused(
                f"{len(rows)} rows in one request; at most {self.settings.request_rows_max} are answered",
                ways_on=["send fewer at once, or score a table: ff.predict_table"],
            )
        behind = await self.answering(deadline_s)
        at = self._clock.now() if t is None else t
        prepared = self._prepare(behind, rows, at)
        deadline = began_s + (self.settings.deadline_s if deadline_s is None else deadline_s)
        answered = await behind.lane.submit(prepared.rows, deadline_s=deadline)
        base = self._new_id()
        ids = [base] if len(rows) == 1 else [f"{base}.{position}" for position in range(len(rows))]
        latency_ms = (asyncio.get_running_loop().time() - began_s) * 1000.0
        self._latencies.append(latency_ms)
        self._keep(ids, answered, prepared, at, latency_ms, is_shadow=False)
        if self.shadow is not None:
            self._copy(self.shadow, behind.deployment.features, rows, prepared, ids, at)
        return Answer(
            ids,
            answered.model,
            answered.outputs,
            answered.kinds,
            at,
            prepared.watermark,
            prepared.missing,
        )

    def _keep(
        self,
        ids: list[str],
        answered: Answered,
        prepared: Prepared,
        at: Instant,
        latency_ms: float,
        *,
        is_shadow: bool,
    ) -> None:
        if self.settings.log:
            self.log.predicted(
                Served(
                    ids,
                    answered.model,
                    is_shadow,
                    at,
                    prepared.watermark,
                    self._clock.now(),
                    latency_ms,
                    prepared.rows,
                    answered.outputs,
                )
            )

    def _prepare(self, behind: Behind, rows: Rows, at: Instant) -> Prepared:
        """Look features up; refuse columns that nobody asked for."""
        asked = behind.asked()
        for row in rows:
            if not asked.keys() >= row.keys() and (refusal := unknown_columns(row, asked)) is not None:
                raise refusal
        plan = behind.plan
        if plan is None:
            return Prepared(rows, None, [()] * len(rows))
        keys = [{name: _key(row, name, behind.key_kinds) for name in plan.key_columns} for row in rows]
        vectors, watermark = plan.read(keys, at)
        merged, missing = [], []
        for row, key, vector in zip(rows, keys, vectors, strict=True):
            lacking: tuple[str, ...] = ()
            if Status.missing in vector.statuses:
                lacking = tuple(
                    name
                    for name, status in zip(plan.names, vector.statuses, strict=True)
                    if status is Status.missing
                )
                if self.settings.missing is Missing.refuse:
                    raise Refused(
                        f"nothing is known of {_named(key)}: '{lacking[0]}' would be null",
                        ways_on=["check the key, or deploy with missing='nulls'"],
                        missing=list(lacking),
                    )
            merged.append({**row, **dict(zip(plan.names, vector.values, strict=True))})
            missing.append(lacking)
        return Prepared(merged, watermark, missing)

    def _copy(
        self, shadow: Behind, features: str, rows: Rows, prepared: Prepared, ids: list[str], at: Instant
    ) -> None:
        """Give the shadow a copy once the live answer is on its way; what goes wrong with it is its own."""
        if len(self._shadow_tasks) >= SHADOW_REQUESTS_MAX:
            return  # it shows as a request without a pair
        is_same = shadow.deployment.features == features
        copy = self._ask_shadow(shadow, rows, prepared if is_same else None, ids, at)
        task = asyncio.get_running_loop().create_task(copy)
        self._shadow_tasks.add(task)
        task.add_done_callback(self._shadow_tasks.discard)

    async def _ask_shadow(
        self, shadow: Behind, rows: Rows, prepared: Prepared | None, ids: list[str], at: Instant
    ) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            if prepared is None:
                prepared = self._prepare(shadow, rows, at)
            answered = await shadow.lane.submit(prepared.rows, deadline_s=began_s + self.settings.deadline_s)
        except FourfoldError:
            return
        self._keep(ids, answered, prepared, at, (loop.time() - began_s) * 1000.0, is_shadow=True)

    async def settle(self) -> None:
        """Wait for the copies that are under way, so that a flush holds them."""
        if self._shadow_tasks:
            await asyncio.wait(tuple(self._shadow_tasks), timeout=self.settings.deadline_s)

    def phase_of(self, deployment: str) -> Phase | None:
        slot = self.swap.slot(deployment)
        return None if slot is None else slot.phase


def _key(row: Mapping[str, Scalar], name: str, kinds: Mapping[str, pa.DataType]) -> Scalar:
    if name not in row:
        raise Refused(f"the row has no key '{name}'", ways_on=["give every key; null if it is not known"])
    value = row[name]
    kind = kinds.get(name)
    if kind is None or value is None:
        return value
    return reader(kind, name)(value)  # type: ignore[no-any-return]


def _named(key: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in key.items())


def _quantile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
