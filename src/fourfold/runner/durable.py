"""A flow's body in the runner's process: it asks the loop for every step, and replays what is on record."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fourfold.core.context import Executing, Ref
from fourfold.core.errors import FourfoldError, Refused
from fourfold.core.flows import Stored
from fourfold.core.frames import Header
from fourfold.core.ports.blobs import BlobStore
from fourfold.resources.flows import body as bodies
from fourfold.resources.flows import codec, values
from fourfold.resources.flows.api import Step
from fourfold.resources.flows.body import Future, Outcome
from fourfold.resources.flows.connection import Connection


class Replaced(BaseException):
    """This attempt of the body is no longer the present one: it must stop, and has no say any more."""


class DurableBody:
    """The body of one flow run, in one attempt."""

    def __init__(
        self,
        connection: Connection,
        executing: Executing,
        records: Iterable[tuple[Header, list[bytes]]],
        blobs: Callable[[], BlobStore],
    ) -> None:
        self._connection = connection
        self._executing = executing
        self._blobs = blobs
        self._keys = bodies.Keys()
        self._records = {header["key"]: (header, parts) for header, parts in records}
        self._outcomes: dict[str, Outcome] = {}
        self._settled_order: list[str] = []
        self._futures: dict[str, Future] = {}
        self._receiving = threading.Lock()
        self._ambient = BodyAmbient(executing)
        self._policies: dict[int, dict[str, Any]] = {}

    @property
    def ambient(self) -> BodyAmbient:
        return self._ambient

    def call(self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: str) -> Future:
        future = Future(self, self._keys.next(step.name, key), step.name)
        called = bodies.encode_call(step, args, kwargs, future.key)
        arguments = values.store(called.arguments, self._blobs)
        self._futures[future.key] = future
        if (record := self._records.pop(future.key, None)) is not None:
            self._compare(record[0], future.key, step.name, arguments, called.deps, called.line)
            self._take(*record)
            return future
        parts: list[bytes] = []
        self._connection.send(
            {
                "type": "call",
                **self._fence(),
                "key": future.key,
                "name": step.name,
                "policy": self._policy(step),
                "module": step.function.__module__,
                "qualname": step.function.__qualname__,
                "line": called.line,
                "deps": called.deps,
                "arguments": values.to_wire(arguments, parts),
            },
            parts,
        )
        return future

    def outcome(self, future: Future) -> Outcome:
        self._pump(lambda: future.key in self._outcomes)
        return self._outcomes[future.key]

    def first_done(self, futures: Sequence[Future]) -> int:
        keys = [future.key for future in futures]

        def pick() -> int:
            self._pump(lambda: any(key in self._outcomes for key in keys))
            order = {key: index for index, key in enumerate(self._settled_order)}
            return min(range(len(keys)), key=lambda index: order.get(keys[index], len(order)))

        return int(self.effect("first_done", keys, pick))

    def are_done(self, futures: Sequence[Future], timeout_s: float | None) -> list[bool]:
        keys = [future.key for future in futures]

        def look() -> list[bool]:
            self._pump(lambda: all(key in self._outcomes for key in keys), timeout_s)
            return [key in self._outcomes for key in keys]

        return list(self.effect("are_done", keys, look))

    def effect(self, name: str, arguments: object, perform: Callable[[], Any]) -> Any:
        key = self._keys.next(name)
        line = bodies.calling_line()
        encoded = codec.encode(arguments, future=_future_key, what=f"an argument of {name}")
        given = Stored(codec.digest(encoded), len(encoded), encoded if len(encoded) <= 1024 else b"")
        if (record := self._records.pop(key, None)) is not None:
            self._compare(record[0], key, name, given, [], line)
            self._take(*record)
            return self._outcomes[key].value()
        parts: list[bytes] = []
        message: Header = {
            "type": "effect",
            **self._fence(),
            "key": key,
            "name": name,
            "line": line,
            "arguments": {"digest": given.digest, "size_bytes": given.size_bytes},
        }
        error: Exception | None = None
        with self._ambient.effect(key) as touched:
            try:
                data = codec.encode(perform(), what=f"the answer of {name}")
                message["result"] = values.to_wire(values.store(data, self._blobs), parts)
            except Exception as caught:
                error = caught
                message["failure"] = failure_of(caught, key, parts)
        message["reads"], message["writes"] = refs_out(touched.reads), refs_out(touched.writes)
        self._connection.send(message, parts)
        self._pump(lambda: key in self._outcomes)
        if error is not None:
            raise error
        return self._outcomes[key].value()

    def finish(self) -> None:
        """Wait for every call that was made; a failure that nobody looked at is the flow's failure."""
        for future in list(self._futures.values()):
            outcome = self.outcome(future)
            if outcome.error is not None and not future._is_observed:  # noqa: SLF001 - its own body
                raise outcome.error

    def _fence(self) -> dict[str, Any]:
        return {"run": self._executing.flow_run, "n": self._executing.attempt}

    def _policy(self, step: Step) -> dict[str, Any]:
        known = self._policies.get(id(step))
        if known is None:
            known = self._policies[id(step)] = dataclasses.asdict(step.policy)
        return known

    def _compare(
        self, record: Header, key: str, name: str, given: Stored, deps: Sequence[str], line: int
    ) -> None:
        """A body that is run again must make the same calls."""
        known = record.get("arguments_digest")
        if (
            record["name"] == name
            and (known is None or known == given.digest)
            and record["deps"] == list(deps)
        ):
            return
        raise Refused(
            f"line {line}: {name} is called with other arguments than on record for call {key} "
            f"(made at line {record['line']} before)",
            ways_on=[
                "a flow must make the same calls when it is run again",
                "use ff.now() and ff.random() instead of the clock and chance; read changing things in steps",
            ],
            line=line,
            call=key,
        )

    def _pump(self, until: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Receive until the condition holds; several threads of a body take turns."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not until():
            with self._receiving:
                if until():
                    return
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return
                received = self._connection.receive(left)
                if received is not None:
                    self._take(*received)

    def _take(self, header: Header, parts: list[bytes]) -> None:
        match header["type"]:
            case "settled":
                key = header["key"]
                result = values.from_wire(header.get("result"), parts)
                failure = header.get("failure")
                told = values.from_wire(failure.get("error"), parts) if failure else None
                self._outcomes[key] = bodies.outcome_of(
                    header["state"],
                    load=lambda: None if result is None else codec.decode(values.fetch(result, self._blobs)),
                    failure=failure,
                    key=key,
                    error=told.inline if told else None,
                )
                self._settled_order.append(key)
            case "refused":
                if header.get("is_stale"):
                    raise Replaced(header["reason"])
                raise Refused(header["reason"], call=header["key"])
            case _:
                pass  # a later version's message; nothing that a body waits for


class BodyAmbient:
    """What rooms report to while the body itself reads and writes."""

    def __init__(self, executing: Executing) -> None:
        self.executing = executing
        self.reads: dict[Ref, None] = {}
        self.writes: dict[Ref, None] = {}
        self._effect = ""
        self._write_index = 0

    def record_read(self, ref: Ref) -> None:
        self.reads[ref] = None

    def record_write(self, ref: Ref) -> None:
        self.writes[ref] = None

    def write_key(self) -> str:
        self._write_index += 1
        return f"{self.executing.flow_run}/{self._effect or self.executing.call}:{self._write_index}"

    @contextmanager
    def effect(self, key: str) -> Any:
        """Count reads, writes and write keys for one effect."""
        before = (self._effect, self._write_index)
        self._effect, self._write_index = key, 0
        self.reads, self.writes = {}, {}
        try:
            yield self
        finally:
            self._effect, self._write_index = before


def failure_of(error: BaseException, call: str, parts: list[bytes]) -> dict[str, Any]:
    """An exception for a frame's header."""
    from fourfold.core.errors import Remedy

    wire: dict[str, Any] = {
        "kind": "out_of_memory" if isinstance(error, MemoryError) else "failed",
        "type": type(error).__name__,
        "message": _text(error),
        "traceback": bodies.short_traceback(error)[-16_000:],
        "call": call,
        "is_permanent": isinstance(error, FourfoldError) and error.remedy is Remedy.permanent,
    }
    data = codec.encode_error(error)
    if data is not None and len(data) <= 64 * 1024:
        wire["error"] = values.to_wire(Stored(codec.digest(data), len(data), data), parts)
    return wire


def _text(error: BaseException) -> str:
    try:
        return str(error)[:4000]
    except Exception as broken:  # an exception whose text raises is still an exception
        return f"(its text cannot be made: {type(broken).__name__})"


def refs_out(refs: Mapping[Ref, None]) -> list[list[str]]:
    return [[ref.kind, ref.name, ref.version] for ref in refs]


def _future_key(value: Any) -> int | None:
    if isinstance(value, Future):
        raise Refused(
            f"the result of step '{value.name}' is not there yet", ways_on=["ask for its result() first"]
        )
    return None
