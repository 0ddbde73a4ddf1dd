"""What people write: `@step`, `@flow`, and what may be called inside a flow's body.

This module is imported at the top of users' files and of every worker, so it imports little.
"""

from __future__ import annotations

import datetime as dt
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import update_wrapper
from types import CodeType, FunctionType, ModuleType
from typing import Any, overload

from fourfold.core import requests, words
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.flows import MOST_NODES, Backoff, FlowRun, Policy
from fourfold.core.times import duration_s
from fourfold.core.words import When, Word
from fourfold.resources.flows import body as bodies
from fourfold.resources.flows.body import Future
from fourfold.resources.flows.params import scheduled_day

__all__ = [
    "Flow",
    "Future",
    "Schedule",
    "Step",
    "as_completed",
    "cron",
    "flow",
    "now",
    "random",
    "scheduled_day",
    "step",
    "wait",
]


class Step:
    """A function that a flow runs as a step. Called outside a flow, it is just the function."""

    def __init__(self, function: Callable[..., Any], name: str, policy: Policy) -> None:
        self.function = function
        self.name = name
        self.policy = policy
        self._signature = inspect.signature(function)
        update_wrapper(self, function)

    def __call__(self, *args: Any, key: str = "", **kwargs: Any) -> Any:
        """Inside a flow: start the step as soon as its inputs are there, and return a `Future`.

        `key` names the call within its run; without one, calls are counted.
        """
        body = bodies.current()
        if key and "key" in self._signature.parameters:
            kwargs, key = {**kwargs, "key": key}, ""
        if body is None:
            return self.function(*args, **kwargs)
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            wrong = [name for name in kwargs if name not in self._signature.parameters]
            hints = did_you_mean(wrong[0], self._signature.parameters, what="its parameters") if wrong else ()
            raise Refused(f"step '{self.name}' cannot be called like this: {error}", ways_on=hints) from None
        return body.call(self, args, kwargs, key)

    def map(self, *iterables: Iterable[Any], **common: Any) -> list[Any]:
        """Call the step once for each item (or tuple of items, of several iterables), in order."""
        return [self(*items, **common) for items in zip(*iterables, strict=True)]

    def __repr__(self) -> str:
        return f"<Step {self.name}>"


@overload
def step(function: Callable[..., Any], /) -> Step: ...
@overload
def step(
    *,
    name: str = "",
    cpu: float | str = 1,
    memory: int | str = 0,
    gpu: Word = 0,
    disk: Word = 0,
    bandwidth: float | str = 0,
    flops: Word = 0,
    arch: str = "",
    location: str | Sequence[str] = "",
    spot: bool | str | None = None,
    max_price: float | str | None = None,
    retries: int = 0,
    backoff: float | str = "1s..5m",
    timeout: float | str | dt.timedelta | None = None,
    deadline: When = None,
    cache: bool = False,
    pool: str = "",
    nodes: int = 1,
) -> Callable[[Callable[..., Any]], Step]: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    cpu: float | str = 1,
    memory: int | str = 0,
    gpu: Word = 0,
    disk: Word = 0,
    bandwidth: float | str = 0,
    flops: Word = 0,
    arch: str = "",
    location: str | Sequence[str] = "",
    spot: bool | str | None = None,
    max_price: float | str | None = None,
    retries: int = 0,
    backoff: float | str = "1s..5m",
    timeout: float | str | dt.timedelta | None = None,
    deadline: When = None,
    cache: bool = False,
    pool: str = "",
    nodes: int = 1,
) -> Step | Callable[[Callable[..., Any]], Step]:
    """Make a function a step of flows: run in a worker process, durably, with what it asks for.

    `backoff` is the wait before the second try, and after two dots the longest wait. With `cache`, an
    equal call (same code of the project's modules that it imports, environment and arguments) is answered
    from the record, as long as the tables and models that it read or wrote have not moved since.
    `pool` names the pool it runs in, unless the settings move it elsewhere.

    Resources are words: amounts or ranges (`cpu="2-8"`, `memory="4GiB"`, `disk="100GiB"`); GPUs by count,
    name, memory and speed (`gpu="a100:2, memory>=40GiB, capability>=8.0"`); the speed of a whole unit
    (`bandwidth="50GB/s"`, `flops="fp64>=200GFLOP/s"`), held against what was measured or published; where
    it is (`location`), whether it may be taken away (`spot`), and what it may cost in US dollars an hour
    (`max_price`). `deadline` is by when it must be done: so long after its run was made (`"2h"`), or a time
    with its zone. It starts the earlier for it; past it, it fails or is ended, and is not tried again.

    With `nodes`, the function runs once on each of so many nodes, all begun together, each with what is asked
    for: `ff.node()` says which one this is, and where the first one is. What node 0 returns is the result;
    only node 0 may write to tables, models, files and runs. One that fails or is lost ends all of them.

    >>> @step(cpu=2, memory="1GiB", retries=2, timeout="10m")
    ... def double(x): return 2 * x
    >>> double(21), double.policy.timeout_s
    (42, 600.0)
    """
    if not 0 <= retries <= 1000:
        raise Refused(f"a step is retried from 0 to 1000 times, not {retries}")
    if type(nodes) is not int or not 1 <= nodes <= MOST_NODES:
        raise Refused(f"a step runs on 1 to {MOST_NODES} nodes, not {nodes!r}")
    due_after_s, due_at = words.deadline(deadline)
    asked = {
        "cpu": cpu,
        "memory": memory,
        "gpu": gpu,
        "disk": disk,
        "bandwidth": bandwidth,
        "flops": flops,
        "arch": arch,
        "location": location,
        "spot": spot,
        "max_price": max_price,
    }
    policy = Policy(
        resources=requests.read(asked),
        retries=retries,
        backoff=_backoff(backoff),
        timeout_s=None if timeout is None else duration_s(timeout),
        deadline_s=due_after_s,
        deadline_at=due_at,
        cache=cache,
        pool=pool,
        nodes=nodes,
    )

    def make(function: Callable[..., Any]) -> Step:
        if isinstance(function, Step):
            raise Refused(f"'{function.name}' is a step already")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise Refused(
                f"step '{function.__name__}' is a generator or a coroutine",
                ways_on=["return a list or a table; in a coroutine's place, call asyncio.run(...) inside"],
            )
        return Step(function, name or function.__name__, policy)

    return make if function is None else make(function)


class Schedule:
    """When a flow runs by itself: a cron line in a zone."""

    def __init__(self, expression: str, tz: str, catchup: str) -> None:
        from fourfold.core.decide import cron as rule

        self.expression, self.tz, self.catchup = expression, tz, catchup
        rule.parse(expression)
        rule.zone(tz)
        if catchup not in ("none", "latest", "all"):
            raise Refused(f"catchup {catchup!r} is not known", ways_on=["take none, latest or all"])

    def __repr__(self) -> str:
        return f"cron({self.expression!r}, tz={self.tz!r})"


def cron(expression: str, *, tz: str = "UTC", catchup: str = "latest") -> Schedule:
    """A schedule: five cron fields or a nickname, in a time zone.

    `catchup` says what happens to ticks missed while nothing ran: `none` of them, the `latest`, or `all`.

    >>> cron("30 2 * * mon-fri", tz="Europe/Berlin")
    cron('30 2 * * mon-fri', tz='Europe/Berlin')
    """
    return Schedule(expression, tz, catchup)


class Flow:
    """A durable function made of steps."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        schedule: Schedule | None = None,
        on_failure: Step | None = None,
        priority: int = 0,
        deadline: str = "",
    ) -> None:
        self.function = function
        self.name = name
        self.schedule = schedule
        self.on_failure = on_failure
        self.priority = priority
        self.deadline = deadline
        self.signature = inspect.signature(function)
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body in this process: inside another flow as a part of it, elsewhere like `test`."""
        if bodies.current() is not None:
            return self.function(*args, **kwargs)
        return self.test(*args, **kwargs)

    def run(self, *, show: bool | None = None, key: str = "", **params: Any) -> Any:
        """Run durably and return the result; progress goes to stderr unless `show` is false.

        The run survives this process: started again with the same `key`, it goes on where it was.
        Raises `FlowFailed`, from the exception of the step that failed.
        """
        from fourfold.resources.flows.calls import await_run

        run = self.submit(key=key, **params)
        return await_run(self, run, show=sys.stderr.isatty() if show is None else show)

    def submit(self, *, key: str = "", **params: Any) -> FlowRun:
        """Start a durable run and return at once. Parameters are checked before anything starts."""
        from fourfold.resources.flows.calls import submit

        return submit(self, params, key=key)

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body and its steps in this process, one after the other, keeping nothing."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        today = dt.datetime.now(dt.UTC).date()
        for name, value in bound.arguments.items():
            if value is scheduled_day:
                bound.arguments[name] = today
        inline = bodies.InlineBody()
        with bodies.running(inline):
            result = self.function(*bound.args, **bound.kwargs)
        if unseen := inline.failures():
            raise unseen[0]
        return result.result() if isinstance(result, Future) else result

    def deploy(self) -> Any:
        """Keep this flow's code under its name, with its schedule."""
        from fourfold.resources.flows.calls import deploy

        return deploy(self)

    def steps(self) -> Mapping[str, Step]:
        """The steps that the flow's code names, itself or through functions of its own module."""
        found: dict[str, Step] = {} if self.on_failure is None else {self.on_failure.name: self.on_failure}
        waiting, seen = [self.function], set[Callable[..., Any]]()
        while waiting:
            function = waiting.pop()
            seen.add(function)
            names = frozenset(_names(function.__code__))
            for name in names:
                value = function.__globals__.get(name)
                values = [value]
                if isinstance(value, ModuleType):
                    values = [getattr(value, attribute, None) for attribute in names]
                for value in values:
                    if isinstance(value, Step):
                        found[value.name] = value
                    inner = value.function if isinstance(value, Flow) else value
                    if not isinstance(inner, FunctionType) or inner in seen:
                        continue
                    if inner.__globals__ is function.__globals__:
                        waiting.append(inner)
        return found

    def __repr__(self) -> str:
        return f"<Flow {self.name}>"


@overload
def flow(function: Callable[..., Any], /) -> Flow: ...
@overload
def flow(
    *,
    name: str = "",
    schedule: Schedule | None = None,
    on_failure: Step | None = None,
    priority: int = 0,
    deadline: When = None,
) -> Callable[[Callable[..., Any]], Flow]: ...
def flow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    schedule: Schedule | None = None,
    on_failure: Step | None = None,
    priority: int = 0,
    deadline: When = None,
) -> Flow | Callable[[Callable[..., Any]], Flow]:
    """Make a function a flow: plain Python that calls steps, and survives crashes.

    `on_failure` is a step that is called with the failure's text when the run fails. `deadline` is by when a
    run must be done: so long after it was made or due by its schedule, or a time with its zone. What is not
    done by then is ended, and the run has failed.

    >>> @step
    ... def add(a, b): return a + b
    >>> @flow
    ... def total(n: int = 3):
    ...     return sum(f.result() for f in [add(i, 1) for i in range(n)])
    >>> total.test(n=4)
    10
    """

    def make(function: Callable[..., Any]) -> Flow:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                raise Refused(f"flow '{function.__name__}' takes '{parameter}': name each parameter instead")
        return Flow(
            function,
            name or function.__name__,
            schedule=schedule,
            on_failure=on_failure,
            priority=priority,
            deadline=words.deadline_text(deadline),
        )

    return make if function is None else make(function)


def as_completed(futures: Iterable[Future]) -> Iterator[Future]:
    """The futures in the order in which they end; when the flow is run again, in the same order."""
    left = list(futures)
    while left:
        body = bodies.current()
        index = 0 if body is None else body.first_done(left)
        yield left.pop(index)


def wait(
    futures: Sequence[Future], *, timeout: float | str | None = None
) -> tuple[list[Future], list[Future]]:
    """Wait until all are done, or the time is over: those that are done, and those that are not."""
    body = bodies.current()
    if body is None:
        return list(futures), []
    done = body.are_done(futures, None if timeout is None else duration_s(timeout))
    return (
        [future for future, is_done in zip(futures, done, strict=True) if is_done],
        [future for future, is_done in zip(futures, done, strict=True) if not is_done],
    )


def now() -> dt.datetime:
    """The time, UTC. In a flow's body it is recorded: run again, the body sees the same time."""

    def read() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    body = bodies.current()
    return read() if body is None else body.effect("now", None, read)


def random() -> float:
    """A number from 0 to 1 by chance. In a flow's body it is recorded, like `now`."""

    def draw() -> float:
        import random as chance

        return chance.SystemRandom().random()

    body = bodies.current()
    return draw() if body is None else body.effect("random", None, draw)


def _backoff(value: float | str) -> Backoff:
    if isinstance(value, str) and ".." in value:
        first, _, most = value.partition("..")
        made = Backoff(first_s=duration_s(first), most_s=duration_s(most))
    else:
        made = Backoff(first_s=duration_s(value))
    if made.most_s < made.first_s:
        raise Refused(f"backoff {value!r} runs from more to less", ways_on=["write for example 2s..5m"])
    return made


def _names(code: CodeType) -> Iterator[str]:
    """The names of globals and attributes that a function's code mentions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
