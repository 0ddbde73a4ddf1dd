"""One pool: its engine, what the engine offers, and the workers that it was asked for.

Everything an engine does may take long or fail, so it is done beside the loop, in threads of the pool's
own: an engine that is down or hangs holds up nobody else. What comes of it is reported.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from fourfold.core.decide.pools import unit_name
from fourfold.core.decide.unit import unit_of
from fourfold.core.errors import FourfoldError, Remedy
from fourfold.core.figures import SpeedFigure
from fourfold.core.flows import MOST_NODES
from fourfold.core.jobs import Exit, ExitKind, Resources, UnitCapacity
from fourfold.core.ports.control import Gone, Placed, PoolChanged, PoolView, PutOff
from fourfold.core.ports.engine import Capabilities, Engine, JobStatus, Launch, Offer, Phase
from fourfold.core.traits import UnitTraits
from fourfold.resources.pools.beside import Beside

START_TIMEOUT_S = 60.0
"""A worker whose process runs and that has not connected by then is taken for lost."""
OPEN_WITHIN_S = 2.0
"""So long are engines awaited when a loop begins; those that take longer join later."""
END_WITHIN_S = 5.0
"""So long may a process take to end after its connection has, or after its grace."""
LOOK_S = 1.0
"""So often the engine is asked about workers that have not connected yet."""
RETRY_S = 3.0
"""So often an engine that failed is tried again."""
REFRESH_S = 30.0
"""So often an engine is asked what it offers: machines of a cluster come and go."""

_OVER = (Phase.ended, Phase.unknown)

Report = Callable[[Gone | Placed | PutOff | PoolChanged], None]
Make = Callable[[Capabilities], Launch]
"""Makes a launch for an engine that can do so much."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool as the settings describe it."""

    name: str
    open: Callable[[], Engine]
    """Opens the loop's own engine there; one that cannot be opened now may be later."""
    engine: str = "local://"
    """Its address, for people."""
    price_usd_per_hour: float = 0.0
    is_default: bool = False
    most_units: int = 0
    """So many of its units are used at most, the cheapest first; 0 is all of them."""
    is_for_steps: bool = True
    outlives: bool = False
    """Whether its workers outlive their connection and the loop's process, and join again."""
    python: str = ""
    """What workers begin with where Fourfold and their environment are brought; "" is for us to find."""
    cache: str = ""
    """Where its machines keep what is brought; "" is where their user's caches are."""
    cache_bytes: int = 0
    traits: UnitTraits = UnitTraits()
    """What the settings say of each of its units."""
    measured: Callable[[], Sequence[SpeedFigure]] = tuple
    """The figures that were measured of its units; asked whenever its engine is asked for offers."""

    def units(self, offers: Sequence[Offer], able: Capabilities) -> tuple[UnitCapacity, ...]:
        """What of an engine's offers the pool takes, by names of its own, with all that is known of them."""
        most_nodes = 0 if not able.nodes else MOST_NODES if able.nodes_share_units else 1
        most, measured = self.most_units or len(offers), self.measured()
        return tuple(
            unit_of(
                each,
                name=unit_name(self.name, each.unit),
                price_usd_per_hour=self.price_usd_per_hour,
                traits=self.traits,
                measured=measured,
                most_nodes=most_nodes,
            )
            for each in offers[:most]
        )


class Pool:
    """The engine's side of one pool. Thread-safe; `report` is called from its threads.

    Nothing is started before what an earlier loop left running has been ended.
    """

    def __init__(self, plan: PoolPlan, report: Report) -> None:
        self.plan = plan
        self._report = report
        self._engine: Engine | None = None
        self._in_turn = Beside(1, name=f"fourfold-pool-{plan.name}")
        self._beside = Beside(4, name=f"fourfold-pool-{plan.name}-stop")
        self._submits: dict[str, Future[None]] = {}
        self._launched: dict[str, float | None] = {}
        self._left: set[str] = set()
        self._preparing: set[str] = set()
        self._look: Future[None] | None = None
        self._looked_at = self._refreshed_at = 0.0
        self._changing = threading.Lock()
        self._keep: tuple[str, ...] = ()
        self.view = PoolView(
            plan.name,
            fault="its engine has not answered yet",
            outlives=plan.outlives,
            is_for_steps=plan.is_for_steps,
        )

    def __repr__(self) -> str:
        state = self.view.fault or f"{len(self.view.units)} units"
        return f"<Pool {self.plan.name}: {state}>"

    # For the loop's thread: all of these return at once.

    def open(self, keep: Collection[str] = ()) -> Future[None]:
        """Begin to open the engine, and to end what is left there but for `keep`."""
        self._keep = tuple(keep)
        return self._in_turn.submit(self._refresh)

    def launch(self, worker: str, make: Make) -> None:
        """Ask for a worker. `make` is called beside the loop too: it may unpack code."""
        self._submits[worker] = self._in_turn.submit(self._submit, worker, make)

    def joined(self, worker: str) -> None:
        """A worker has connected: it is looked after by its connection now."""
        self._launched.pop(worker, None)
        self._left.discard(worker)
        self._preparing.discard(worker)

    def find_unit(self, worker: str) -> None:
        """Ask where a worker is that cannot tell, and report it: an engine may choose by itself."""
        if len(self.view.units) > 1:
            self._beside.submit(self._find_unit, worker)

    def preparing(self, worker: str, *, is_there: bool) -> None:
        """What starts a worker has connected, or has left: while it is there, the worker is not late."""
        if is_there:
            self._preparing.add(worker)
        else:
            self._preparing.discard(worker)

    def left(self, worker: str) -> None:
        """One that outlives its connection has lost it: its engine is asked until it is back, or ended."""
        self._left.add(worker)

    def stop(self, worker: str, grace_s: float, told: Callable[[], bool]) -> None:
        """End a worker and all it started; `told` says whether its end is heard of in another way."""
        self._beside.submit(self._stop, worker, grace_s, told)

    def find_out(self, worker: str) -> None:
        """A worker's connection has ended: ask how its process did, and end it if it lives on."""
        self._beside.submit(self._find_out, worker)

    def look(self) -> None:
        """Ask the engine about what is due: workers that have not connected, its units, its return."""
        now = time.monotonic()
        is_due = bool(self._launched or self._left) and now - self._looked_at >= LOOK_S
        every_s = RETRY_S if self.view.fault else REFRESH_S
        if not is_due and now - self._refreshed_at < every_s:
            return
        if self._look is None or self._look.done():
            self._look = self._in_turn.submit(self._look_at)

    @property
    def looks_within_s(self) -> float:
        """How long the loop may sleep before `look` is due again."""
        return LOOK_S if self._launched or self._left else RETRY_S if self.view.fault else REFRESH_S

    def close(self, keep: Collection[str] = ()) -> None:
        """End what runs here but for `keep`, and let the engine go. Waits for what is under way, bounded."""
        self._in_turn.close()
        self._beside.close()
        closing = threading.Thread(target=self._close, args=(keep,), daemon=True)
        closing.start()
        closing.join(END_WITHIN_S + OPEN_WITHIN_S)

    # In its threads.

    def _refresh(self) -> None:
        """Open the engine if it is not, and ask what it offers."""
        self._refreshed_at = time.monotonic()
        try:
            if self._engine is None:
                engine = self.plan.open()
                engine.reap(self._keep)  # what an earlier owner left running must not run twice
                self._engine = engine
            able = self._engine.capabilities()
            offers = self._engine.offers(Resources())
        except Exception as error:  # whatever an engine says: its pool waits, and the others go on
            self._see(fault=_text(error))
            return
        units = self.plan.units(offers, able)
        self._see(units=units, fault="", keeps_what_idles=able.survives_control_restart)

    def _see(self, **changes: object) -> None:
        with self._changing:
            seen = replace(self.view, **changes)  # type: ignore[arg-type]
            if seen == self.view:
                return
            self.view = seen
        self._report(PoolChanged(self.plan.name))

    def _submit(self, worker: str, make: Make) -> None:
        try:
            if self._engine is None:
                self._report(PutOff(worker, f"pool '{self.plan.name}' cannot be used now: {self.view.fault}"))
                return
            self._launched[worker] = None
            self._engine.submit(make(self._engine.capabilities()))
        except Exception as error:  # whatever the engine says, the call learns it and may be tried again
            text = _text(error)
            self._launched.pop(worker, None)
            if isinstance(error, FourfoldError) and error.remedy is Remedy.transient:
                self._see(fault=text)
                self._submits.pop(worker, None)
                self._report(PutOff(worker, f"pool '{self.plan.name}' did not take it: {text}"))
            else:
                self._gone(worker, Exit(ExitKind.worker_lost, f"it could not be started: {text}"))

    def _stop(self, worker: str, grace_s: float, told: Callable[[], bool]) -> None:
        with contextlib.suppress(Exception):
            if (submit := self._submits.get(worker)) is not None:
                submit.result()
            if self._engine is not None:
                self._engine.stop(worker, grace_s)
                self._engine.wait([worker], grace_s + END_WITHIN_S)
        if not told():
            self._gone(worker, Exit(ExitKind.cancelled, "it was stopped"))

    def _find_out(self, worker: str) -> None:
        ended: Exit | None = None
        with contextlib.suppress(Exception):
            assert self._engine is not None
            status = self._engine.wait([worker], END_WITHIN_S)[worker]
            if status.phase not in _OVER:  # it closed its connection but lives on
                self._engine.stop(worker, 0.0)
                status = self._engine.wait([worker], END_WITHIN_S)[worker]
            ended = status.exit
        self._gone(worker, ended or Exit(ExitKind.worker_lost, "its process ended"))

    def _find_unit(self, worker: str) -> None:
        with contextlib.suppress(Exception):
            assert self._engine is not None
            if unit := self._engine.status([worker])[worker].unit:
                self._report(Placed(worker, unit_name(self.plan.name, unit)))

    def _gone(self, worker: str, ended: Exit) -> None:
        self._launched.pop(worker, None)
        self._left.discard(worker)
        self._preparing.discard(worker)
        self._submits.pop(worker, None)
        self._report(Gone(worker, ended))

    def _look_at(self) -> None:
        now = self._looked_at = time.monotonic()
        if now - self._refreshed_at >= (RETRY_S if self.view.fault else REFRESH_S):
            self._refresh()
        asked = [*self._launched, *self._left]
        if not asked or self._engine is None:
            return
        try:
            found = self._engine.status(asked)
        except Exception as error:  # it cannot be asked now: who waits, waits
            self._see(fault=_text(error))
            return
        for worker, status in found.items():
            if worker in self._left:
                # An engine that has forgotten it says nothing of its end: the loop waits for it as long as
                # it waits itself.
                if status.phase is Phase.ended:
                    self._gone(worker, status.exit or Exit(ExitKind.worker_lost, "its process ended"))
            else:
                self._look_after(worker, status, now)

    def _look_after(self, worker: str, status: JobStatus, now: float) -> None:
        """A worker that ends, or takes too long, before it ever connects."""
        if worker not in self._launched:
            return  # it has joined meanwhile
        if status.phase not in _OVER:
            began = self._launched[worker]
            if (began is None and status.phase is Phase.running) or worker in self._preparing:
                # What waits in a cluster's own queue is late by no fault of its own, nor is what builds.
                self._launched[worker] = began = now
            if began is None or now - began <= START_TIMEOUT_S:
                return
            self._launched.pop(worker, None)
            self._beside.submit(self._stop, worker, 0.0, lambda: True)
            self._gone(worker, Exit(ExitKind.worker_lost, "it did not connect in time" + self._said(worker)))
            return
        reason = "it ended before it began"
        if status.exit is not None and status.exit.reason:
            reason += f" ({status.exit.reason})"
        self._gone(worker, Exit(ExitKind.worker_lost, reason + self._said(worker)))

    def _said(self, worker: str) -> str:
        """The last of what a worker printed, for a reason."""
        with contextlib.suppress(Exception):
            assert self._engine is not None
            text = self._engine.logs(worker).data.decode(errors="replace").strip()
            return f": {text[-500:]}" if text else ""
        return ""

    def _close(self, keep: Collection[str]) -> None:
        engine = self._engine
        if engine is None:
            return
        with contextlib.suppress(Exception):
            engine.reap(keep)
        with contextlib.suppress(Exception):
            engine.close()


def _text(error: Exception) -> str:
    return error.message if isinstance(error, FourfoldError) else f"{type(error).__name__}: {error}"
