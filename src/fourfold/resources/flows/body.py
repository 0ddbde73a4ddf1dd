"""What a flow's body does when it calls a step, waits, or has an effect: durably, or inline in a test.

`current()` is the body that runs now in this context, if any. `DurableBody` lives in the runner's
process and asks the loop; `InlineBody` calls steps at once and keeps nothing.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fourfold.core.errors import Refused
from fourfold.core.flows import CallState
from fourfold.resources.flows import codec

if TYPE_CHECKING:
    from fourfold.resources.flows.api import Step


class Future:
    """The result of a step that may not have run yet. Pass it to other steps, or ask for its `result()`."""

    __slots__ = ("_body", "_has_outcome", "_is_observed", "_outcome", "key", "name")

    def __init__(self, body: Body, key: str, name: str) -> None:
        self._body = body
        self.key = key
        self.name = name
        self._outcome: Outcome | None = None
        self._has_outcome = False
        self._is_observed = False

    def result(self) -> Any:
        """The step's result, as soon as it is there; its exception, if it failed."""
        self._is_observed = True
        return self._body.outcome(self).value()

    def exception(self) -> BaseException | None:
        """The step's exception, or `None` if it succeeded; waits like `result`."""
        self._is_observed = True
        return self._body.outcome(self).error

    def __repr__(self) -> str:
        return f"<Future {self.key}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be stored: ask for its result() first")

    def __bool__(self) -> bool:
        raise Refused(
            f"the result of step '{self.name}' is not there yet, so it is neither true nor false",
            ways_on=[f"ask for it: {self.name}(...).result()"],
        )

    def __iter__(self) -> Any:
        raise Refused(
            f"the result of step '{self.name}' is not there yet, so it cannot be looped over",
            ways_on=[f"ask for it: {self.name}(...).result()"],
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"the result of step '{self.name}' is not there yet, so it has no '{name}'; "
            f"ask for it first: .result().{name}"
        )


@dataclass(slots=True)
class Outcome:
    """What a call came to. Decoded when asked for, once."""

    load: Callable[[], Any] | None = None
    error: BaseException | None = None
    _value: Any = None
    _is_loaded: bool = False

    def value(self) -> Any:
        if self.error is not None:
            raise self.error
        if not self._is_loaded:
            self._value = self.load() if self.load is not None else None
            self._is_loaded = True
        return self._value


@dataclass(slots=True)
class Called:
    """A call as the body made it: encoded, with its inputs in order of first use."""

    key: str
    step: Step
    arguments: bytes
    deps: list[str]
    line: int
    futures: list[Future] = field(default_factory=list)


class Body(Protocol):
    """What the handles in `api` ask of the body that runs now."""

    def call(self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: str) -> Future: ...

    def outcome(self, future: Future) -> Outcome:
        """Wait for a call."""
        ...

    def first_done(self, futures: Sequence[Future]) -> int:
        """Wait until one of them is done; its index. On replay the same index."""
        ...

    def are_done(self, futures: Sequence[Future], timeout_s: float | None) -> list[bool]:
        """Wait until all are done or the time is over. On replay the same answer."""
        ...

    def effect(self, name: str, arguments: object, perform: Callable[[], Any]) -> Any:
        """Do something once: on replay the recorded answer comes back and nothing is done."""
        ...


_current: ContextVar[Body | None] = ContextVar("fourfold_body", default=None)


def current() -> Body | None:
    """The body of the flow that runs now in this context."""
    return _current.get()


@contextmanager
def running(body: Body | None) -> Iterator[None]:
    """Run the block as (or, with `None`, outside of) a flow's body."""
    token = _current.set(body)
    try:
        yield
    finally:
        _current.reset(token)


class Keys:
    """Numbers the calls of one body: `train#0`, `train#1`..."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._own: set[str] = set()

    def next(self, name: str, own: str = "") -> str:
        if own:
            key = f"{name}:{own}"
            if key in self._own:
                raise Refused(
                    f"step '{name}' was called twice with key {own!r}", ways_on=["give each call its own key"]
                )
            self._own.add(key)
            return key
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return f"{name}#{count}"


def encode_call(step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: str) -> Called:
    """Encode a call's arguments; futures among them, however deep, become its inputs."""
    futures: list[Future] = []

    def number(value: Any) -> int | None:
        if type(value) is not Future:
            return None
        for index, known in enumerate(futures):
            if known is value or known.key == value.key:
                return index
        value._is_observed = True  # noqa: SLF001 - whoever depends on it sees its failure
        futures.append(value)
        return len(futures) - 1

    arguments = codec.encode(
        [list(args), dict(kwargs)], future=number, what=f"an argument of step '{step.name}'"
    )
    return Called(key, step, arguments, [future.key for future in futures], calling_line(), futures)


def calling_line() -> int:
    """The line of the user's code that called us."""
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to ask who called
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("fourfold."):
        frame = frame.f_back
    return frame.f_lineno


class InlineBody:
    """Runs each step at once, in this process: for tests. Nothing is kept, nothing is retried later."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._outcomes: dict[str, Outcome] = {}

    def call(self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: str) -> Future:
        future = Future(self, self._keys.next(step.name, key), step.name)
        called = encode_call(step, args, kwargs, future.key)
        try:
            inputs = [self.outcome(dep).value() for dep in called.futures]
            arguments = codec.decode(called.arguments, inputs=inputs)
            self._outcomes[future.key] = self._attempts(step, *arguments)
        except Exception as error:
            self._outcomes[future.key] = Outcome(error=error)
        return future

    def _attempts(self, step: Step, args: list[Any], kwargs: dict[str, Any]) -> Outcome:
        for tries in range(step.policy.retries + 1):
            try:
                with running(None):
                    value = step.function(*args, **kwargs)
                data = codec.encode(value, what=f"the result of step '{step.name}'")
                return Outcome(load=lambda data=data: codec.decode(data))  # type: ignore[misc]
            except Exception:
                if tries == step.policy.retries:
                    raise
        raise AssertionError("a step is tried at least once")

    def outcome(self, future: Future) -> Outcome:
        return self._outcomes[future.key]

    def first_done(self, _futures: Sequence[Future]) -> int:
        return 0

    def are_done(self, futures: Sequence[Future], _timeout_s: float | None) -> list[bool]:
        return [True] * len(futures)

    def effect(self, _name: str, _arguments: object, perform: Callable[[], Any]) -> Any:
        return perform()

    def failures(self) -> list[BaseException]:
        """What failed, whether somebody asked for it or not."""
        return [outcome.error for outcome in self._outcomes.values() if outcome.error is not None]


def short_traceback(error: BaseException) -> str:
    """The traceback from the user's code on, without the frames of ours above it."""
    summary = traceback.TracebackException.from_exception(error)
    own = [
        index
        for index, frame in enumerate(summary.stack)
        if "/fourfold/runner/" in frame.filename.replace("\\", "/")
    ]
    if own and own[-1] + 1 < len(summary.stack):
        summary.stack = traceback.StackSummary.from_list(list(summary.stack)[own[-1] + 1 :])
    return "".join(summary.format())


def outcome_of(
    state: str, *, load: Callable[[], Any], failure: Mapping[str, Any] | None, key: str, error: bytes | None
) -> Outcome:
    """The outcome that a settled call's record tells of."""
    if CallState(state).is_good:
        return Outcome(load=load)
    from fourfold.core.flows import StepFailed

    told = failure or {}
    restored: BaseException | None = None
    if error is not None:
        try:
            found = codec.decode(error)
            restored = found if isinstance(found, BaseException) else None
        except Exception:  # its class may be gone, or refuse to be made: the text stays
            restored = None
    where = f"in step {told.get('call') or key}"
    if restored is not None:
        restored.add_note(where + (f"\n{told['traceback']}" if told.get("traceback") else ""))
        return Outcome(error=restored)
    kind, message = told.get("type", ""), told.get("message", state)
    text = f"step {key} {state.replace('_', ' ')}: " + (f"{kind}: {message}" if kind else str(message))
    failed = StepFailed(text, call=key, kind=told.get("kind", ""), type=kind)
    if told.get("traceback"):
        failed.add_note(told["traceback"])
    return Outcome(error=failed)
