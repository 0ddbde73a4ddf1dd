"""One model version's queue: requests come in, batches go to its worker, answers come back.

The lane belongs to the gateway's event loop. Which requests go together, and which are given up, is
decided by `core.decide.batch`; here is only the waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from fourfold.core.decide.batch import Estimate, admit, next_batch
from fourfold.core.errors import Defect, FourfoldError, Refused, TimedOut, Unavailable
from fourfold.core.hosting import EndpointSettings, Scalar
from fourfold.core.ports.model_worker import WorkerChannel, WorkerGone
from fourfold.mlplatform.hosting.columns import Columns, Row, json_values

logger = logging.getLogger("fourfold.hosting")

ATTEMPTS_MAX = 2
"""A row is sent again once when the worker died under it: predicting is pure."""
BATCH_S_MAX = 60.0
"""A worker that computes longer than this hangs: it is ended, as if it had crashed."""
SWEEP_S = 0.05
"""How often overdue requests are looked for while the worker is busy or away."""

Outputs = list[dict[str, Scalar]]


@dataclass(frozen=True, slots=True)
class Answered:
    """A request's rows as a version answered them (a request may be handed over to another version)."""

    model: str
    outputs: Outputs
    kinds: pa.Schema
    """The outputs' types."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A request in a lane."""

    given: Sequence[Mapping[str, Scalar]]
    values: list[Row]
    rows: int
    deadline_s: float
    """On the event loop's clock."""
    answer: asyncio.Future[Answered]
    attempts: int = 0


@dataclass(slots=True)
class LaneCounts:
    batch_count: int = 0
    batch_rows: int = 0
    shed_count: int = 0
    retried_count: int = 0


@dataclass(slots=True)
class Lane:
    """The queue before one model version, and its worker while it has one."""

    model: str
    settings: EndpointSettings
    on_idle: Callable[[], None]
    """Called when nothing is queued or in flight any more."""
    counts: LaneCounts = field(default_factory=LaneCounts)
    columns: Columns | None = None
    """Known once a worker has called in."""
    outputs: pa.Schema | None = None
    queue_rows: int = 0
    _queue: deque[Ticket] = field(default_factory=deque)
    _flight: list[Ticket] = field(default_factory=list)
    _channel: WorkerChannel | None = None
    _estimate: Estimate = field(default_factory=Estimate)
    _task: asyncio.Task[None] | None = None
    _sweeper: asyncio.TimerHandle | None = None
    _reason_away: str = "it has no worker yet"

    @property
    def is_idle(self) -> bool:
        return not self._queue and not self._flight

    def describe(self, inputs: pa.Schema, outputs: pa.Schema) -> None:
        """What the model takes and gives."""
        self.columns = Columns(inputs)
        self.outputs = outputs

    def attach(self, channel: WorkerChannel) -> None:
        """A worker is ready: what waited goes to it."""
        self._channel = channel
        self._wake()

    def detach(self, reason: str) -> None:
        """The worker is away; requests wait for the next one, within their deadlines."""
        self._channel = None
        self._reason_away = reason

    def submit(self, given: Sequence[Mapping[str, Scalar]], *, deadline_s: float) -> asyncio.Future[Answered]:
        """Queue rows. Refuses what the model cannot take, and what the queue has no room for."""
        if self.columns is None:
            raise Unavailable(f"model {self.model} has no worker", ways_on=["try again in a moment"])
        values = self.columns.rows(given)
        asked = admit(
            queue_rows=self.queue_rows,
            rows=len(values),
            queue_rows_max=self.settings.queue_rows_max,
            batch_rows_max=self.settings.batch_rows_max,
            estimate=self._estimate,
        )
        if not asked.is_admitted:
            self.counts.shed_count += 1
            raise Unavailable(
                f"model {self.model} has more than it can do: {asked.reason}",
                ways_on=["send less at once, or try again later"],
                retry_after_s=round(asked.retry_after_s, 3),
            )
        loop = asyncio.get_running_loop()
        ticket = Ticket(given, values, len(values), deadline_s, loop.create_future())
        self._queue.append(ticket)
        self.queue_rows += ticket.rows
        self._wake()
        return ticket.answer

    def adopt(self, other: Lane) -> None:
        """Take over what another lane can no longer answer."""
        for ticket in (*other._flight, *other._queue):
            if ticket.answer.done():
                continue
            try:
                if self.columns is not None:
                    ticket.values = self.columns.rows(ticket.given)
            except Refused as error:  # it was right for the version that it was sent to
                ticket.answer.set_exception(
                    Unavailable(
                        f"model {other.model} was replaced by {self.model}, which takes other rows: "
                        f"{error.message}",
                        ways_on=["look features and columns up again, and send the request again"],
                    )
                )
                continue
            self._queue.append(ticket)
            self.queue_rows += ticket.rows
        other._flight.clear()
        other._queue.clear()
        other.queue_rows = 0
        self._wake()

    def abandon(self, error: FourfoldError) -> None:
        """Nobody will answer here any more."""
        _fail((*self._flight, *self._queue), error)
        self._flight.clear()
        self._queue.clear()
        self.queue_rows = 0
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _wake(self) -> None:
        if self._task is None and self._channel is not None and self._queue:
            self._task = asyncio.get_running_loop().create_task(self._run())
        if self._sweeper is None and self._queue:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def _run(self) -> None:
        """Batch after batch until the queue is empty or the worker away."""
        try:
            await asyncio.sleep(0)  # what arrives in this turn of the loop goes together
            while self._queue and self._channel is not None:
                batch = self._next()
                if batch:
                    self._flight = batch
                    try:
                        await self._send(self._channel, batch)
                    except Exception as error:  # a defect of ours must not leave a request without an answer
                        logger.exception("a defect in the lane of %s", self.model)
                        _fail(batch, Defect(f"a defect of the gateway: {type(error).__name__}"))
                    self._flight = []
        finally:
            self._task = None
        if self.is_idle:
            self.on_idle()
        else:
            self._wake()

    def _next(self) -> list[Ticket]:
        now_s = asyncio.get_running_loop().time()
        # Who was under a worker that died goes alone: if its rows are what ends workers, no other pays.
        is_suspect = self._queue[0].attempts > 0
        waiting = itertools.islice(self._queue, 1) if is_suspect else self._queue
        decided = next_batch(waiting, self._estimate, now_s, rows_max=self.settings.batch_rows_max)
        shed = set(decided.shed)
        batch = []
        for position in range(decided.seen):
            ticket = self._queue.popleft()
            self.queue_rows -= ticket.rows
            if ticket.answer.done():
                continue
            if position in shed:
                self._give_up(ticket)
            else:
                batch.append(ticket)
        return batch

    async def _send(self, channel: WorkerChannel, batch: list[Ticket]) -> None:
        loop = asyncio.get_running_loop()
        assert self.columns is not None
        row_count = sum(ticket.rows for ticket in batch)
        began_s = loop.time()
        for ticket in batch:
            ticket.attempts += 1
        try:
            rows = self.columns.batch([row for ticket in batch for row in ticket.values])
            async with asyncio.timeout(BATCH_S_MAX):
                answers = await channel.predict(rows)
        except WorkerGone:
            self._again(batch)
            return
        except TimeoutError:
            channel.close()
            self._again(batch)
            return
        except (FourfoldError, pa.ArrowException) as error:
            await self._alone(channel, batch, error)
            return
        self._estimate = self._estimate.learn(row_count, loop.time() - began_s)
        self.counts.batch_count += 1
        self.counts.batch_rows += row_count
        self._answer(batch, answers)

    def _answer(self, batch: list[Ticket], answers: pa.RecordBatch) -> None:
        names = answers.schema.names
        rows = list(zip(*(json_values(column) for column in answers.columns), strict=True))
        start = 0
        for ticket in batch:
            end = start + ticket.rows
            if not ticket.answer.done():
                outputs = [dict(zip(names, row, strict=True)) for row in rows[start:end]]
                ticket.answer.set_result(Answered(self.model, outputs, answers.schema))
            start = end

    async def _alone(
        self, channel: WorkerChannel, batch: list[Ticket], error: FourfoldError | pa.ArrowException
    ) -> None:
        """The model refused a batch: one request's rows must not fail the others', so each goes alone."""
        if len(batch) == 1:
            is_told = isinstance(error, FourfoldError)
            _fail(batch, error if is_told else Refused(f"rows do not fit: {error}"))
            return
        for position, ticket in enumerate(batch):
            if self._channel is not channel:  # one of them ended the worker: the others wait for the next
                self._again(batch[position:])
                return
            if not ticket.answer.done():
                ticket.attempts -= 1  # the common try was not its own
                await self._send(channel, [ticket])

    def _again(self, batch: list[Ticket]) -> None:
        """The worker died under these: once more, at the head of the queue, and then no more."""
        for ticket in reversed(batch):
            if ticket.answer.done():
                continue
            if ticket.attempts < ATTEMPTS_MAX:
                self._queue.appendleft(ticket)
                self.queue_rows += ticket.rows
                self.counts.retried_count += ticket.rows
            else:
                ticket.answer.set_exception(
                    Unavailable(
                        f"the worker of model {self.model} died twice under this request",
                        ways_on=["look at the rows: they may be what ends it", "see the endpoint's events"],
                    )
                )
        self.detach("its worker ended and is being restarted")

    def _sweep(self) -> None:
        """Give up what is overdue, queued or in flight."""
        self._sweeper = None
        now_s = asyncio.get_running_loop().time()
        for ticket in (*self._flight, *self._queue):
            if ticket.deadline_s <= now_s and not ticket.answer.done():
                self._give_up(ticket)
        while self._queue and self._queue[0].answer.done():
            self.queue_rows -= self._queue.popleft().rows
        if self._queue or self._flight:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _give_up(self, ticket: Ticket) -> None:
        self.counts.shed_count += 1
        if self._channel is None:
            error: FourfoldError = Unavailable(
                f"model {self.model} cannot answer now: {self._reason_away}",
                ways_on=["try again in a moment", "see the endpoint's events"],
                retry_after_s=1.0,
            )
        else:
            error = TimedOut(
                f"model {self.model} cannot answer within the request's deadline",
                ways_on=["allow more with the header X-Request-Timeout-S, or send fewer rows"],
            )
        _fail([ticket], error)


def _fail(tickets: Iterable[Ticket], error: FourfoldError) -> None:
    for ticket in tickets:
        if not ticket.answer.done():
            ticket.answer.set_exception(error)
