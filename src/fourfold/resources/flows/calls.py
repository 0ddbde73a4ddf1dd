"""How a flow's handle starts a run, follows it and brings its result back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fourfold.core import context
from fourfold.core.errors import Refused
from fourfold.core.flows import DeployedFlow, FlowCancelled, FlowFailed, FlowRun, RunEvent, RunState
from fourfold.core.times import duration_text, seconds_between
from fourfold.resources.flows import body as bodies
from fourfold.resources.flows import bundle, codec, params

if TYPE_CHECKING:
    from fourfold.core.services.flows import Flows
    from fourfold.resources.flows.api import Flow

is_runner = False
"""Whether this process is one that carries flows out; such a process starts none while it imports code."""


def submit(flow: Flow, given: Mapping[str, Any], *, key: str = "") -> FlowRun:
    """Check the parameters, pack the code, and start a run."""
    if is_runner and bodies.current() is None and context.ambient() is None:
        raise Refused(
            f"'{flow.name}.run()' stands in the open in its file: importing the file would run it again",
            ways_on=['put it under:  if __name__ == "__main__":'],
        )
    checked = params.check(flow, given)
    key = key or context.write_key() or ""  # within a flow or a step: a repeat starts no second run
    place = _place(flow)
    return context.services().flows.submit(
        bundle.pack(bundle.closure(place)),
        flow=flow.name,
        module=place.module,
        attribute=_attribute(flow),
        params=checked,
        steps={name: step.policy for name, step in flow.steps().items()},
        key=key,
        priority=flow.priority,
        cwd=os.getcwd(),
        python=sys.executable,
        deadline=flow.deadline,
    )


def deploy(flow: Flow) -> DeployedFlow:
    """Keep a flow's code under its name, with its schedule."""
    place = _place(flow)
    schedule = flow.schedule
    return context.services().flows.deploy(
        bundle.pack(bundle.closure(place)),
        flow=flow.name,
        module=place.module,
        attribute=_attribute(flow),
        cron=schedule.expression if schedule else "",
        tz=schedule.tz if schedule else "UTC",
        catchup=schedule.catchup if schedule else "latest",
        scheduled_param=params.scheduled_param(flow),
        parameters=tuple(flow.signature.parameters),
        cwd=os.getcwd(),
        python=sys.executable,
        deadline=flow.deadline,
    )


def await_run(flow: Flow, run: FlowRun, *, show: bool) -> Any:
    """Wait for a run's end; its result, or its failure as `FlowFailed`."""
    return result_of(flow, follow(context.services().flows, run.id, show=show))


def follow(flows: Flows, run_id: str, *, show: bool) -> FlowRun:
    """Wait for a run's end, and print meanwhile what happens to it."""
    if show:
        for event in _events(flows, run_id):
            print_event(event)
    while (run := flows.wait(run_id)).state.is_open:
        pass
    return run


def _events(flows: Flows, run_id: str) -> Iterator[RunEvent]:
    """What happens to a run until it ends: told by the loop in process, asked for again over HTTP."""
    told = getattr(flows, "follow", None)
    if told is not None:
        yield from told(run_id)
        return
    after, is_open = 0, True
    while is_open:
        is_open = flows.wait(run_id, timeout_s=0.5).state.is_open
        while page := flows.events(run_id, after=after):
            yield from page
            after = page[-1].seq


def result_of(flow: Flow, run: FlowRun) -> Any:
    """The result of a run that ended, decoded; its failure raised."""
    flows = context.services().flows
    if run.state is RunState.succeeded:
        return codec.decode(flows.result(run.id))
    ways_on = [
        f"its output: fourfold flow logs {run.id}",
        f"go on from where it stopped: fourfold flow resume {run.id}",
    ]
    if run.state is RunState.cancelled:
        raise FlowCancelled(f"flow '{flow.name}' was cancelled: {run.reason}", ways_on=ways_on, run=run.id)
    failure = run.failure
    said = (
        "" if failure is None else f"{failure.type}: {failure.message}" if failure.type else failure.message
    )
    cause: BaseException | None = None
    if failure is not None and failure.error is not None and failure.error.inline is not None:
        try:
            found = codec.decode(failure.error.inline)
            cause = found if isinstance(found, BaseException) else None
        except Exception:
            cause = None
    error = FlowFailed(f"flow '{flow.name}' failed: {said}", ways_on=ways_on, run=run.id)
    if failure is not None and failure.traceback:
        error.add_note(failure.traceback)
    raise error from cause


def print_event(event: RunEvent) -> None:
    """One line of progress."""
    mark = {"succeeded": "✓", "cached": "=", "failed": "✗", "running": "▸", "retry_wait": "↻"}.get(
        event.state, "·"
    )
    if event.what != "call" or event.state in ("blocked", "ready", "leased"):
        return
    line = f"{mark} {event.call:<32} {event.state}" + (f"  {event.reason}" if event.reason else "")
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress for whoever waits


def run_text(run: FlowRun) -> str:
    """A run in one line."""
    took = ""
    if run.started_at is not None and run.ended_at is not None:
        took = f" in {duration_text(seconds_between(run.started_at, run.ended_at))}"
    return f"{run.flow} {run.state}{took} ({run.id})"


def _place(flow: Flow) -> bundle.Place:
    module = sys.modules.get(flow.function.__module__)
    if module is None:
        raise Refused(f"the module '{flow.function.__module__}' of flow '{flow.name}' is not imported")
    place = bundle.place_of(module)
    if module.__name__ == "__main__" and place.module != "__main__":
        sys.modules.setdefault(place.module, module)  # so that its classes come back as the same classes
    return place


def _attribute(flow: Flow) -> str:
    name = flow.function.__name__
    if flow.function.__globals__.get(name) is not flow:
        raise Refused(
            f"flow '{flow.name}' is not the module's own '{name}', so another process could not find it",
            ways_on=["define the flow at the top of its module"],
        )
    return name
