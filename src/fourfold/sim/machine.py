"""The machine that the loop cannot see into: an engine, its worker processes, and what they say.

Words travel in order for each peer, as on a socket, but take their time; those under way when a process
dies may be lost, and a word may come twice, or long after its sender is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fourfold.core.decide.pools import PoolRules, units_of
from fourfold.core.flows import BODY, CallKey, CallState, Stored
from fourfold.core.jobs import Exit, ExitKind, UnitCapacity
from fourfold.core.ports.control import (
    Arrival,
    Away,
    Gone,
    Joined,
    Message,
    PoolChanged,
    PoolView,
    PutOff,
    WorkerSpec,
)
from fourfold.core.times import Instant, after, seconds_between
from fourfold.core.wire import plain
from fourfold.resources.flows import values
from fourfold.resources.flows.gangs import peers_of, worker_of
from fourfold.sim import programs
from fourfold.sim.ledger import Ledger, Task
from fourfold.sim.programs import Await, Call, Choose, Names, Think
from fourfold.sim.world import Violation, World
from fourfold.testing.clock import START

Header = dict[str, Any]
Post = Callable[[int, Arrival], None]
Pause = float | Callable[[], bool]
"""What a body waits for: some seconds, or something to come true."""

UNITS = (
    UnitCapacity("local/large", 4, 8 * programs.GIB, most_nodes=4),
    UnitCapacity("local/small", 1, programs.GIB),
)
AWAY_S = 60.0
LAB_UNITS = (UnitCapacity("lab/node", 2, 2 * programs.GIB, most_nodes=2),)
"""Of a second pool on other machines: its engine is down now and then, its workers outlive the loop."""
POOLS = PoolRules("local", patterns=(("*/c*", "lab"),))


@dataclass(eq=False, slots=True)
class Process:
    """One worker process."""

    name: str
    """As its peer: of a gang, each process has its own."""
    spec: WorkerSpec
    owner: int
    """Which of the loop's lives it is connected to; only one that outlives its connection changes it."""
    life: str = ""
    """Names the process, where it outlives its connection."""
    line: int = 0
    """Counts its connections: what was under way on an earlier one is lost."""
    is_welcome: bool = False
    """Whether the loop has answered on this connection."""
    lost_at: Instant | None = None
    """Since when it has no connection."""
    cut_off_until: Instant = START
    has: Task | None = None
    """The task that it works on, or worked on last."""
    result: tuple[Header, list[bytes]] | None = None
    """What that came to, kept until the next task."""
    is_joined: bool = False
    is_alive: bool = True
    are_words_lost: bool = False
    task: Task | None = None
    body: Iterator[Pause] | None = None
    waits_for: Callable[[], bool] | None = None
    outcomes: dict[str, tuple[bool, Stored | None]] = field(default_factory=dict)
    ahead: list[values.Frame] = field(default_factory=list)
    said: tuple[Header, list[bytes]] | None = None


class Machine:
    """Starts processes, carries words, and lets things go wrong."""

    units = (*UNITS, *LAB_UNITS)

    def __init__(self, world: World, ledger: Ledger, post: Post) -> None:
        self.world = world
        self.ledger = ledger
        self._post = post
        self.processes: dict[str, Process] = {}
        self.clients: dict[str, Callable[[Header], None]] = {}
        self._lanes: dict[str, Instant] = {}
        self._started: set[str] = set()
        self._exits: dict[str, Exit] = {}
        """How a worker's job ended: as the first of its processes that ended badly."""
        self.views = {"local": PoolView("local", UNITS), "lab": PoolView("lab", LAB_UNITS, outlives=True)}

    # The engine

    def fail_lab(self, tell: Callable[[Arrival], None]) -> None:
        """The engine of the second pool cannot be reached for a while."""

        def see(fault: str) -> None:
            self.views["lab"] = PoolView("lab", LAB_UNITS, fault, outlives=True)
            tell(PoolChanged("lab"))

        see("it does not answer")
        self.world.later(self.world.chance.uniform(1, 60), lambda: see(""))

    def present(self) -> int:
        """The life of the loop that can be reached now; 0 for none."""
        return 0

    def submit(self, name: str, spec: WorkerSpec, owner: int) -> None:
        """Start a worker; a name that was submitted before is not started again."""
        if name in self._started:
            return
        self._started.add(name)
        if self.views[spec.pool].fault:
            self.world.later(0.1, lambda: self._post(owner, PutOff(name, "its pool does not answer")))
            return
        if self.world.fault("launch fails"):
            gone = Gone(name, Exit(ExitKind.worker_lost, "it could not be started"))
            self.world.later(0.2, lambda: self._post(owner, gone))
            return
        outlives = self.views[spec.pool].outlives
        self._start_all(name, spec, owner, life="one" if outlives else "")
        if outlives and self.world.fault("engine starts a job twice"):
            self._start_all(name, spec, owner, life="two")

    def _start_all(self, name: str, spec: WorkerSpec, owner: int, *, life: str) -> None:
        """Start a worker's processes: all are there before the first one runs."""
        started = [Process(peer, spec, owner, life) for peer in peers_of(name, spec.nodes)]
        self.processes |= {process.name + process.life: process for process in started}
        for process in started:
            self._start(process)

    def _start(self, process: Process) -> None:
        wait_s = 40.0 if self.world.fault("launch is slow") else self.world.chance.uniform(0.05, 0.4)
        if self.world.fault("worker dies as it starts"):
            self.world.later(
                wait_s / 2, lambda: self.end(process, Exit(ExitKind.worker_lost, "it fell over"))
            )
        self.world.later(wait_s, lambda: self._join(process))

    def _join(self, process: Process) -> None:
        if not process.is_alive:
            return
        if process.life:
            self._rejoin(process)
        else:
            process.is_joined = True
            self._say_arrival(process, Joined(process.name, group="one"))

    # Processes that outlive their connection

    def _far(self) -> list[Process]:
        return [process for process in self.processes.values() if process.life]

    def _on_line(self, name: str) -> Process | None:
        """The process to which frames for this worker go."""
        own = [process for process in self._far() if process.name == name and process.is_joined]
        return own[0] if own else self.processes.get(name)

    def _rejoin(self, process: Process) -> None:
        """Connect to the loop's present life, or try again; and end when nothing was heard for too long."""
        if not process.is_alive or process.is_joined:
            return
        if process.lost_at is not None and seconds_between(process.lost_at, self.world.now) > AWAY_S:
            is_told = self.world.chance.random() < 0.5  # its engine may not reach its machine either
            self.end(process, Exit(ExitKind.worker_lost, "it heard nothing for too long"), is_told=is_told)
            return
        other = self._on_line(process.name)
        if other is not None:
            self.end(process, Exit(ExitKind.worker_lost, "another process is this worker"), is_told=False)
            return
        owner = self.present()
        if not owner or process.cut_off_until > self.world.now:
            process.lost_at = process.lost_at or self.world.now
            self.world.later(self.world.chance.uniform(0.2, 5), lambda: self._rejoin(process))
            return
        process.is_joined, process.owner, process.lost_at = True, owner, None
        self.world.note("worker", f"{process.name}{process.life} connects to owner {owner}")
        is_done = process.task is None
        joined = Joined(process.name, process.life, process.has, is_done, group=process.life)
        self._say_arrival(process, joined)

    def _disconnect(self, process: Process, *, is_told: bool) -> None:
        """The connection ends; what was under way on it is lost, and the loop notices soon."""
        if not process.is_joined:
            return
        process.is_joined, process.lost_at, owner = False, self.world.now, process.owner
        process.line += 1
        process.is_welcome = False
        notices_s = self.world.chance.uniform(0, 10)

        def notice() -> None:
            if process.is_alive and not process.is_joined:
                self._post(owner, Away(process.name))

        if is_told:
            self.world.later(notices_s, notice)
        self.world.later(self.world.chance.choice((0.01, 1.0, 12.0)), lambda: self._rejoin(process))

    def lose_a_connection(self) -> None:
        """One of the connections over a network ends, for a moment or for long."""
        joined = sorted((each for each in self._far() if each.is_joined), key=lambda each: each.name)
        if not joined:
            return
        process = self.world.chance.choice(joined)
        cut_off_s = self.world.chance.choice((0.0, 0.0, 20.0, 3 * AWAY_S))
        self.world.note("network", f"loses {process.name} for {cut_off_s:g} s")
        process.cut_off_until = after(self.world.now, cut_off_s)
        self._disconnect(process, is_told=True)

    def keep_only(self, owner: int, names: Collection[str]) -> None:
        """A new owner ends what it does not go on with, and hears of what has ended meanwhile."""
        for process in self._far():
            if worker_of(process.name) not in names:
                self.end(process, Exit(ExitKind.worker_lost, "its owner is gone"), is_told=False)
        alive = {worker_of(process.name) for process in self._far()}
        for name in sorted(set(names) - alive):
            gone = Gone(name, Exit(ExitKind.worker_lost, "it ended while no owner was there"))
            self.world.later(self.world.chance.uniform(0, 2), lambda gone=gone: self._post(owner, gone))  # type: ignore[misc]

    def stop(self, name: str, grace_s: float) -> None:
        """End a process within the grace."""
        ended = Exit(ExitKind.cancelled, "it was stopped")
        for process in [each for each in self.processes.values() if worker_of(each.name) == name]:
            wait_s = self.world.chance.uniform(0, grace_s)
            if process.cut_off_until > self.world.now:  # its engine does not reach it either
                wait_s += seconds_between(self.world.now, process.cut_off_until)
            self.world.later(wait_s, lambda each=process: self.end(each, ended))  # type: ignore[misc]

    def end(
        self, process: Process, ended: Exit, *, are_words_lost: bool = False, is_told: bool = True
    ) -> None:
        """The process ends; the loop hears of it after all that it said, or after what was not lost."""
        if not process.is_alive:
            return
        self.world.note("worker", f"{process.name} ends: {ended.reason}")
        process.is_alive = False
        process.are_words_lost = are_words_lost
        self.processes.pop(process.name + process.life, None)
        self._rest(process)
        worker = worker_of(process.name)
        others = [each for each in self.processes.values() if worker_of(each.name) == worker]
        if ended.kind is not ExitKind.ok:  # the engine ends those of the same start
            self._exits.setdefault(worker + process.life, ended)
            for each in [each for each in others if each.life == process.life]:
                wait_s, told = self.world.chance.uniform(0, 5), Exit(ended.kind, f"with {process.name}")
                self.world.later(wait_s, lambda each=each, told=told: self.end(each, told))  # type: ignore[misc]
        ended = self._exits.get(worker + process.life, ended)
        if process.life:
            process.is_joined, process.owner = False, self.present()  # its engine tells whoever asks now
            process.line += are_words_lost
        if is_told and not others:
            self._say_arrival(process, Gone(worker, ended))
        if self.world.fault("word comes late") and process.said is not None:
            late = Message(process.name, *process.said)
            self.world.later(30.0, lambda: self._post(process.owner, late))

    def reap(self) -> None:
        """End everything that is left of an earlier owner."""
        for process in list(self.processes.values()):
            if not process.life:
                self.end(process, Exit(ExitKind.worker_lost, "its owner is gone"))

    def owner_died(self) -> None:
        """Workers see their connection close, each in its own time."""
        for process in list(self.processes.values()):
            if process.life:
                self._disconnect(process, is_told=False)
                continue
            wait_s = self.world.chance.uniform(0, 3)
            self.world.later(wait_s, lambda each=process: self.end(each, Exit(ExitKind.worker_lost, "alone")))  # type: ignore[misc]

    def all_die(self) -> None:
        """The engine falls over, and takes its workers along."""
        for process in list(self.processes.values()):
            self.end(process, Exit(ExitKind.worker_lost, "the engine crashed"), are_words_lost=True)

    # Words

    def send(self, owner: int, peer: str, header: Header, parts: Sequence[bytes]) -> None:
        """A frame from the loop."""
        if (client := self.clients.get(peer)) is not None:
            self._travel(f"to {peer}", lambda: client(header))
            return
        process = self._on_line(peer)
        if process is None or process.owner != owner or not process.is_joined:
            return
        if header["type"] in ("welcome", "refused"):
            process.is_welcome = True
        if process.life and not process.is_welcome:
            return  # meant for an earlier connection: the loop has not heard of this one yet
        held, line = list(parts), process.line

        def arrive() -> None:
            if process.line == line:
                self._hear(process, header, held)

        self._travel(f"to {peer}", arrive)

    def ask(self, owner: int, client: str, header: Header) -> None:
        """A frame from a client."""
        self._travel(f"from {client}", lambda: self._post(owner, Message(client, header)))

    def _say(self, process: Process, header: Header, parts: list[bytes]) -> None:
        assert process.task is not None
        run, key, n = process.task
        header = {"run": run, "n": n, "key": key, **header}
        process.said = (header, parts)
        if process.life:
            process.result = (header, parts)
            if not process.is_joined:
                return  # it is told when it is asked for
        self._say_arrival(process, Message(process.name, header, parts))
        if self.world.fault("word comes twice"):
            self._say_arrival(process, Message(process.name, header, parts))

    def _say_arrival(self, process: Process, arrival: Arrival) -> None:
        owner, line = process.owner, process.line

        def arrive() -> None:
            if isinstance(arrival, Gone) or (process.line == line and not process.are_words_lost):
                self._post(owner, arrival)

        self._travel(f"from {process.name}", arrive)

    def _travel(self, lane: str, arrive: Callable[[], None]) -> None:
        earliest = self._lanes.get(lane, self.world.now)
        at = Instant(self.world.now + round(self.world.chance.expovariate(200) * 1e6))
        self._lanes[lane] = self.world.at(max(at, earliest), arrive)

    # Work

    def _hear(self, process: Process, header: Header, parts: list[bytes]) -> None:
        if not process.is_alive:
            return
        match header["type"]:
            case "welcome":
                process.ahead.clear()  # what went ahead on an earlier connection is sent again
                if header["tell_result"] and process.result is not None:
                    self._say_arrival(process, Message(process.name, *process.result))
            case "refused" if process.life and header.get("is_stale"):
                self.end(process, Exit(ExitKind.worker_lost, header["reason"]))
            case "exit":
                self.end(process, Exit(ExitKind.ok, "it was told to"))
            case "ahead":
                process.ahead += values.ahead_items(header, parts)
            case "task":
                self._begin(process, header, parts)
            case "settled" if process.body is not None:
                process.outcomes[header["key"]] = _outcome(header, parts)
                if process.waits_for is not None and process.waits_for():
                    self._go_on(process)
            case "refused" if process.body is not None:
                if header.get("is_stale"):
                    self.end(process, Exit(ExitKind.failed, "it was replaced", 1))
                else:
                    self._refused(process, header["reason"])
            case _:
                pass

    def _refused(self, process: Process, reason: str) -> None:
        """A body that is being replaced fails by it; the present one has done nothing wrong."""
        assert process.task is not None
        run, _, n = process.task
        present = self.ledger.calls[run][BODY]
        if present.attempt == n and present.state.is_live:
            raise Violation(f"the body of {run}, attempt {n}, was refused: {reason}")
        self._done(process, _failed("Refused", reason), [])

    def _begin(self, process: Process, header: Header, parts: list[bytes]) -> None:
        task = (header["run"], CallKey(header["key"]), header["n"])
        attempt = self.ledger.attempts.get(task)
        units = units_of(attempt.unit) if attempt is not None else ()
        rank = int(process.name.partition(".")[2] or 0)
        unit = units[rank] if units else ""
        self.ledger.begins(process.name, task, unit, process.spec.resources)
        self.world.note("worker", f"{process.name} begins {task[0]}/{task[1]}@{task[2]}")
        for each in self.processes.values():
            if each.task == task and each.life != process.life:
                raise Violation(f"{task} is worked on by ranks of two starts of {worker_of(process.name)}")
        process.task = process.has = task
        process.result = None
        ahead, process.ahead = process.ahead, []
        if header["kind"] == "body":
            process.outcomes = {}
            process.body = self._body(process, header, ahead)
            if self.world.fault("worker dies at work"):
                self._dies_within(process, 20.0)
            self._go_on(process)
        else:
            self._step(process, header, parts, ahead)

    def _rest(self, process: Process) -> None:
        if process.task is not None:
            self.ledger.rests(process.name)
        process.task = process.body = process.waits_for = None

    def _done(self, process: Process, answer: Header, parts: list[bytes]) -> None:
        if self.world.fault("worker dies when done"):
            self.end(process, Exit(ExitKind.worker_lost, "killed"), are_words_lost=True)
            return
        self._say(process, answer, parts)
        self._rest(process)

    def _dies_within(self, process: Process, seconds: float) -> None:
        task = process.task
        kind = self.world.chance.choice((ExitKind.worker_lost, ExitKind.preempted))
        lost = self.world.chance.random() < 0.5

        def die() -> None:
            if process.task == task:
                self.end(process, Exit(kind, "killed"), are_words_lost=lost)

        self.world.later(self.world.chance.uniform(0, seconds), die)

    def _step(self, process: Process, header: Header, parts: list[bytes], ahead: list[values.Frame]) -> None:
        task = process.task
        given = values.from_wire(header["arguments"], parts)
        inputs = [values.from_wire(*each) for each in ahead]
        if given is None or None in inputs:
            raise Violation(f"{task} was sent without its inputs")
        call = flow_of(self.ledger, header["run"]).calls[_INDEX[given.digest]]
        chance = self.world.chance
        takes_s = chance.choice((0.0, 0.05, 1.0, 10.0)) * chance.random()
        if self.world.fault("worker dies at work"):
            self._dies_within(process, takes_s)
        trouble = chance.choice(_TROUBLES) if chance.random() < call.trouble else ""

        def over() -> None:
            if process.task != task or not process.is_alive:
                return
            match trouble:
                case "":
                    out: list[bytes] = []
                    if process.name.partition(".")[2] not in ("", "0"):  # not the one whose value counts
                        self._done(process, {"type": "finished", "result": None}, [])
                        return
                    made = programs.step_result(
                        header["name"], given, [each for each in inputs if each is not None]
                    )
                    self._done(process, {"type": "finished", "result": values.to_wire(made, out)}, out)
                case "dies":
                    self.end(process, Exit(ExitKind.out_of_memory, "out of memory"))
                case "hangs" if call.policy.timeout_s is not None:
                    pass  # the loop must end it
                case _:
                    is_permanent = trouble == "permanent"
                    self._done(process, _failed("RuntimeError", "trouble", is_permanent=is_permanent), [])

        self.world.later(takes_s, over)

    # Bodies

    def _go_on(self, process: Process) -> None:
        """Let a body compute until it waits."""
        task, body = process.task, process.body
        assert body is not None
        process.waits_for = None
        for pause in body:
            if isinstance(pause, float):
                self.world.later(pause, lambda: self._go_on(process) if process.task == task else None)
                return
            if not pause():
                process.waits_for = pause
                return
            if not process.is_alive:
                return

    def _body(self, process: Process, header: Header, ahead: list[values.Frame]) -> Iterator[Pause]:
        """A flow's body, as its process sees it: calls, waits, effects; on record or anew."""
        flow = flow_of(self.ledger, header["run"])
        records = {record["key"]: (record, parts) for record, parts in ahead}
        names, told = Names(), []
        outcomes = process.outcomes
        observed: set[CallKey] = set()

        def is_there(key: CallKey) -> Callable[[], bool]:
            return lambda: key in outcomes

        for op in flow.ops:
            match op:
                case Call():
                    name = programs.call_name(op, names.choices, lambda key: _answer(outcomes[key]))
                    key = names.next(name)
                    deps = [names.calls[dep] for dep in op.deps]
                    given = programs.arguments(len(names.calls))
                    names.calls.append(key)
                    observed.update(deps)
                    if (record := records.get(key)) is not None:
                        if record[0]["deps"] != deps or record[0]["arguments_digest"] != given.digest:
                            raise Violation(f"{header['run']}/{key} is on record with another call's inputs")
                        outcomes[key] = _outcome(*record)
                        continue
                    out: list[bytes] = []
                    wire = values.to_wire(given, out)
                    self._say(process, _call(key, name, op, deps, wire), out)
                case Await(index, is_caught):
                    key = names.calls[index]
                    observed.add(key)
                    yield is_there(key)
                    if not outcomes[key][0] and not is_caught:
                        self._done(process, _failed("StepFailed", key), [])
                        return
                case Choose(name):
                    key = names.next(name)
                    names.choices.append(key)
                    if (record := records.get(key)) is not None:
                        outcomes[key] = _outcome(*record)
                    else:
                        self._act(process, key, name)
                        yield is_there(key)
                    told.append(_answer(outcomes[key]))
                case Think(seconds):
                    yield seconds
        for key in names.calls:
            yield is_there(key)
            if not outcomes[key][0] and key not in observed:
                self._done(process, _failed("StepFailed", key), [])
                return
        out = []
        made = programs.body_result([outcomes[key][1] for key in names.calls], told)
        self._done(process, {"type": "finished", "result": values.to_wire(made, out)}, out)

    def _act(self, process: Process, key: CallKey, name: str) -> None:
        """An effect: the world answers differently each time, so only the record can make it repeat."""
        assert process.task is not None
        self.ledger.acts(process.task[0], key)
        answer = self.world.chance.choice((b"left", b"right"))
        given, out = programs.value("nothing"), list[bytes]()
        result = Stored(answer.hex(), len(answer), answer)
        header = {
            "type": "effect",
            "key": key,
            "name": name,
            "line": 1,
            "arguments": {"digest": given.digest, "size_bytes": given.size_bytes},
            "result": values.to_wire(result, out),
        }
        self._say(process, header, out)


_TROUBLES = ("raises", "raises", "permanent", "hangs", "dies")
_INDEX = {programs.arguments(index).digest: index for index in range(64)}
"""Which call of its program a step's arguments name."""

_program = lru_cache(maxsize=1024)(programs.program)


def flow_of(ledger: Ledger, run: str) -> programs.Program:
    """The program that a run carries out."""
    return _program(int(ledger.runs[run].params["seed"]))


def _call(key: CallKey, name: str, op: Call, deps: list[CallKey], given: Header | None) -> Header:
    return {
        "type": "call",
        "key": key,
        "name": name,
        "policy": plain(op.policy),
        "module": "simulated",
        "qualname": name,
        "line": 1,
        "deps": deps,
        "arguments": given,
    }


def _failed(kind: str, message: str, *, is_permanent: bool = False) -> Header:
    failure = {"kind": "failed", "type": kind, "message": message, "is_permanent": is_permanent}
    return {"type": "failed", "failure": failure}


def _outcome(header: Header, parts: Sequence[bytes]) -> tuple[bool, Stored | None]:
    return CallState(header["state"]).is_good, values.from_wire(header.get("result"), parts)


def _answer(outcome: tuple[bool, Stored | None]) -> str:
    assert outcome[1] is not None
    assert outcome[1].inline is not None
    return outcome[1].inline.decode()


__all__ = ["AWAY_S", "BODY", "POOLS", "UNITS", "Machine", "Process", "flow_of"]
