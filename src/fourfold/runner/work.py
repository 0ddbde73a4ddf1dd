"""Carries tasks out: a step's attempt, or a flow's body. One at a time, in a process that stays warm."""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.core import context
from fourfold.core.context import Executing, Ref
from fourfold.core.errors import Refused
from fourfold.core.frames import Header
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.times import Instant
from fourfold.foundation.compute.meter import counted_flops
from fourfold.resources.flows import body as bodies
from fourfold.resources.flows import calls, codec, values
from fourfold.resources.flows.api import Flow, Step
from fourfold.resources.flows.connection import Connection
from fourfold.runner import code_cache
from fourfold.runner.durable import DurableBody, failure_of, refs_out
from fourfold.runner.meter import Meter

if TYPE_CHECKING:
    from fourfold.runner.far import FarConnection


class StepAmbient:
    """What rooms report to while a step runs."""

    def __init__(self, executing: Executing, rank: int = 0) -> None:
        self.executing = executing
        self._rank = rank
        self.reads: dict[Ref, None] = {}
        self.writes: dict[Ref, None] = {}
        self._write_index = 0

    def record_read(self, ref: Ref) -> None:
        self.reads[ref] = None

    def record_write(self, ref: Ref) -> None:
        self._check_first(f"write {ref}")
        self.writes[ref] = None

    def write_key(self) -> str:
        self._check_first("write")
        self._write_index += 1
        return f"{self.executing.flow_run}/{self.executing.call}:{self._write_index}"

    def _check_first(self, what: str) -> None:
        """Of several nodes the first alone writes: the same write from each of them would not be one."""
        if self._rank:
            raise Refused(
                f"node {self._rank} of step {self.executing.call} may not {what}: only node 0 writes",
                ways_on=["write where ff.node().is_first is true", "send node 0 what it is to write"],
                rank=self._rank,
            )


class Worker:
    """Performs the tasks that the loop sends over its connection."""

    def __init__(
        self,
        connection: Connection | FarConnection,
        *,
        fetch: Callable[[str], bytes] | None = None,
        rank: int | None = None,
    ) -> None:
        """`fetch` gives the bundle of code with a digest, where the owner's folder may not be seen; `rank` is
        that of this process, where the worker is several."""
        self._rank, self._is_one_of_several = rank or 0, rank is not None
        self._connection = connection
        self._fetch = fetch
        self._meter = Meter(counted_flops)
        self._code = self._wanted = ""
        self._functions: dict[tuple[str, str], Callable[..., Any]] = {}
        self._cwd = os.getcwd()
        self._ahead: list[values.Frame] = []

    def expect(self, header: Header, parts: list[bytes]) -> None:
        """Keep what the next task needs."""
        self._ahead += values.ahead_items(header, parts)

    def forget_ahead(self) -> None:
        """A connection begins: what went ahead on an earlier one is sent again."""
        self._ahead.clear()

    def perform(self, task: Header, parts: list[bytes]) -> None:
        """Carry one task out and report how it ended."""
        ahead, self._ahead = self._ahead, []
        answer: Header = {"run": task["run"], "key": task["key"], "n": task["n"]}
        out: list[bytes] = []
        self._meter.start()
        try:
            answer |= self._attempt(task, parts, ahead, out)
        except Exception as error:
            if self._is_one_of_several:
                error.add_note(f"on node {self._rank}")
            out.clear()
            answer |= {"type": "failed", "failure": failure_of(error, task["key"], out)}
            sys.stderr.write(answer["failure"]["traceback"])
        except SystemExit as error:
            out.clear()
            answer |= {"type": "failed", "failure": _exit_failure(error, task["key"])}
        answer["usage"] = self._meter.stop()
        answer["log_end"] = _printed()
        os.chdir(self._cwd)  # the next task finds its folder where it was
        self._connection.send(answer, out)

    def _attempt(
        self, task: Header, parts: list[bytes], ahead: list[values.Frame], out: list[bytes]
    ) -> dict[str, Any]:
        """Run the step or the body; what is to be told of it, with binary parts in `out`."""
        self._use_code(os.environ["FOURFOLD_CODE"])
        executing = Executing(
            task["run"], task["key"], task["n"], task["code"], task["environment"], task["user"]
        )
        if task["kind"] == "body":
            stored = values.store(self._body(task, ahead, executing), _blobs)
            return {"type": "finished", "result": values.to_wire(stored, out)}
        ambient = StepAmbient(executing, self._rank)
        value = self._step(task, parts, ahead, ambient)
        touched = {"reads": refs_out(ambient.reads), "writes": refs_out(ambient.writes)}
        if self._rank:  # what the first one returns is the result
            return {"type": "finished", "result": None, **touched}
        encoded = codec.encode(value, what=f"the result of step '{task['name']}'")
        return {"type": "finished", "result": values.to_wire(values.store(encoded, _blobs), out), **touched}

    def _step(self, task: Header, parts: list[bytes], ahead: list[values.Frame], ambient: StepAmbient) -> Any:
        function = self._function(task["module"], task["qualname"])
        inputs = [codec.decode(values.fetch(_stored(*each), _blobs)) for each in ahead]
        arguments = values.fetch(_stored(task["arguments"], parts), _blobs)
        args, kwargs = codec.decode(arguments, inputs=inputs)
        with context.within(ambient):
            return function(*args, **kwargs)

    def _body(self, task: Header, ahead: list[values.Frame], executing: Executing) -> bytes:
        from fourfold.resources.flows import params

        module = importlib.import_module(task["module"])
        flow = getattr(module, task["qualname"])
        assert isinstance(flow, Flow), "a run is made from a flow"
        assert isinstance(self._connection, Connection), "bodies run beside the loop"
        body = DurableBody(self._connection, executing, ahead, _blobs)
        arguments = params.read(flow, task["params"], at=Instant(task["at"]))
        with bodies.running(body), context.within(body.ambient):
            try:
                result = flow.function(**arguments)
                if isinstance(result, bodies.Future):
                    result = result.result()
                body.finish()
            except Exception as error:
                if flow.on_failure is not None:
                    self._on_failure(body, flow.on_failure, error)
                raise

            def resolved(value: Any) -> int | None:
                if isinstance(value, bodies.Future):
                    futures.append(value.result())
                    return len(futures) - 1
                return None

            futures: list[Any] = []
            data = codec.encode(result, future=resolved, what=f"the result of flow '{flow.name}'")
            if futures:
                data = codec.encode(codec.decode(data, inputs=futures))
        return data

    def _on_failure(self, body: DurableBody, step: Step, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):  # its own failure is on record; the flow's failure stands
            body.outcome(body.call(step, (text,), {}, "on_failure")).value()

    def _function(self, module: str, qualname: str) -> Callable[..., Any]:
        found = self._functions.get((module, qualname))
        if found is None:
            target: Any = importlib.import_module(module)
            for piece in qualname.split("."):
                target = getattr(target, piece)
            found = target.function if isinstance(target, Step) else target
            assert callable(found)
            self._functions[module, qualname] = found
        return found

    def _use_code(self, path: str) -> None:
        if path != self._wanted and self._fetch is not None and not os.path.isdir(path):
            self._wanted, path = path, str(code_cache.fetched(Path(path).name, self._fetch))
        elif path == self._wanted:
            return
        if path != self._code:
            assert not self._code, "a worker holds one bundle of code for its life"
            sys.path.insert(0, path)
            self._code = path
            calls.is_runner = True


def _printed() -> int | None:
    """How much this process has printed so far: its output is a file of its engine's."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    about = os.fstat(1)
    return about.st_size if stat.S_ISREG(about.st_mode) else None


def _blobs() -> BlobStore:
    """Where large values are, without the services above it: opening those takes a second."""
    from fourfold.wiring import open_project

    return open_project().blobs


def _stored(wire: Header, parts: list[bytes]) -> Any:
    stored = values.from_wire(wire, parts)
    assert stored is not None
    return stored


def _exit_failure(error: SystemExit, call: str) -> dict[str, Any]:
    return {
        "kind": "failed",
        "type": "SystemExit",
        "message": f"the step called exit({error.code!r})",
        "traceback": "",
        "call": call,
        "is_permanent": False,
    }
