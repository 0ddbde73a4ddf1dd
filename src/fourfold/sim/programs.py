"""Flows to simulate: random programs that make calls, wait, branch and fail, all drawn from one seed.

A program is data. The body's process interprets it and speaks the words of a real body; `replay` walks
through it with nothing but the records of a run, and says what the run must have come to.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fourfold.core.flows import Backoff, CallKey, Policy, StepCall, Stored
from fourfold.core.jobs import Resources
from fourfold.core.quantities import Range

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Call:
    """Call a step with the results of earlier calls. With `chosen_by` an effect's answer is in its name."""

    name: str
    deps: tuple[int, ...]
    policy: Policy
    trouble: float
    """How likely each attempt is to fail by its own fault."""
    chosen_by: int | None = None


@dataclass(frozen=True, slots=True)
class Await:
    """Ask for a call's result. Its failure is the body's, unless it is caught."""

    call: int
    is_caught: bool


@dataclass(frozen=True, slots=True)
class Choose:
    """An effect: take what the world says at this moment, and keep to it when run again."""

    name: str


@dataclass(frozen=True, slots=True)
class Think:
    """Compute for a while."""

    seconds: float


Op = Call | Await | Choose | Think


@dataclass(frozen=True, slots=True)
class Program:
    """A flow's body."""

    seed: int
    ops: tuple[Op, ...]

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(op for op in self.ops if isinstance(op, Call))


def program(seed: int) -> Program:
    """The program of a seed.

    >>> program(3) == program(3), program(3) == program(4)
    (True, False)
    """
    chance = random.Random(f"program {seed}")  # noqa: S311 - a simulation must repeat
    of_nodes = random.Random(f"nodes {seed}")  # noqa: S311 - of its own, so that programs are what they were
    ops: list[Op] = []
    calls = choices = 0
    shape = chance.choice(("chain", "fan", "any", "any"))
    for _ in range(chance.randint(1, 10)):
        draw = chance.random()
        if draw < 0.1:
            ops.append(Choose(chance.choice(("now", "first_done"))))
            choices += 1
        elif draw < 0.2:
            ops.append(Think(chance.choice((0.0, 0.5, 20.0))))
        elif draw < 0.35 and calls:
            ops.append(Await(chance.randrange(calls), chance.random() < 0.7))
        else:
            nodes = 2 if of_nodes.random() < 0.15 else 1
            ops.append(_call(chance, shape, calls, choices, nodes))
            calls += 1
    return Program(seed, tuple(ops))


def _call(chance: random.Random, shape: str, calls: int, choices: int, nodes: int) -> Call:
    deps: tuple[int, ...] = ()
    if calls:
        match shape:
            case "chain":
                deps = (calls - 1,)
            case "fan":
                deps = (0,)
            case _:
                deps = tuple(sorted(chance.sample(range(calls), chance.randint(0, min(3, calls)))))
    policy = Policy(
        Resources(cpu=Range(chance.choice((0.5, 1, 1, 2))), memory_bytes=Range(chance.choice((0, 0, GIB)))),
        retries=chance.choice((0, 1, 2)),
        backoff=Backoff(first_s=chance.choice((0.0, 0.1, 5.0)), most_s=30.0),
        timeout_s=chance.choice((None, 30.0)),
        cache=chance.random() < 0.3,
        nodes=nodes,
    )
    if chance.random() < 0.02:
        policy = Policy(Resources(cpu=Range(99)))  # no unit can ever give it
    return Call(
        chance.choice("abc"),
        deps,
        policy,
        chance.choice((0.0, 0.0, 0.3, 0.8)),
        chance.randrange(choices) if choices and chance.random() < 0.5 else None,
    )


# What values are


def value(*pieces: str) -> Stored:
    """A small result that tells what it was made from."""
    data = hashlib.blake2b("\0".join(pieces).encode(), digest_size=12).digest()
    return Stored(data.hex(), len(data), data)


def arguments(index: int) -> Stored:
    """The encoded arguments of a program's call, but for its inputs."""
    return value("arguments", str(index))


def step_result(name: str, given: Stored, inputs: Sequence[Stored]) -> Stored:
    """What a step makes of its arguments and inputs: the same each time."""
    return value("result", name, given.digest, *(dep.digest for dep in inputs))


# Keys, and walking through


class Names:
    """Numbers a body's calls as a body does: `a#0`, `a#1`."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self.calls: list[CallKey] = []
        self.choices: list[CallKey] = []

    def next(self, name: str) -> CallKey:
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return CallKey(f"{name}#{count}")


def call_name(call: Call, choices: Sequence[CallKey], answer: Callable[[CallKey], str]) -> str:
    """The step that the call is of, which an earlier effect's answer may decide."""
    if call.chosen_by is None:
        return call.name
    return f"{call.name}-{answer(choices[call.chosen_by])}"


def replay(flow: Program, records: Mapping[CallKey, StepCall]) -> Stored | str:
    """What a run of the program must have come to, by its records: its result, or the call that failed it.

    Every record is compared with what the program would have made, and must be settled.
    """
    names, told = Names(), []
    for op in flow.ops:
        match op:
            case Call():
                name = call_name(op, names.choices, lambda key: answer_of(records[key]))
                key = names.next(name)
                record = records[key]
                given = arguments(len(names.calls))
                deps = tuple(names.calls[dep] for dep in op.deps)
                assert record.arguments == given, f"{key} was called with other arguments"
                assert record.deps == deps, f"{key} has other inputs"
                names.calls.append(key)
                if record.state.is_good:
                    inputs = [records[dep].result for dep in deps]
                    assert all(each is not None for each in inputs), f"{key} ran without its inputs"
                    made = step_result(name, given, [each for each in inputs if each is not None])
                    assert record.result == made, f"{key} holds a result that is not its own"
            case Await(index, is_caught):
                record = records[names.calls[index]]
                if not record.state.is_good and not is_caught:
                    return names.calls[index]
            case Choose(name):
                key = names.next(name)
                told.append(answer_of(records[key]))
                names.choices.append(key)
            case _:
                pass
    observed = {op.call for op in flow.ops if isinstance(op, Await)}
    observed |= {dep for op in flow.calls for dep in op.deps}
    for index, key in enumerate(names.calls):
        if not records[key].state.is_good and index not in observed:
            return key
    return body_result([records[key].result for key in names.calls], told)


def answer_of(record: StepCall) -> str:
    """What an effect answered."""
    assert record.result is not None
    assert record.result.inline is not None
    return record.result.inline.decode()


def body_result(results: Sequence[Stored | None], told: Sequence[str]) -> Stored:
    """What a body that ended well returns: all that it saw."""
    return value("body", *(result.digest if result is not None else "" for result in results), *told)
