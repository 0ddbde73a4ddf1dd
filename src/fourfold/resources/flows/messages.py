"""The words of the control socket: values to frames and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from fourfold.core import wire, words
from fourfold.core.compute import Held, JobReport
from fourfold.core.context import Ref
from fourfold.core.decide import flow as rules
from fourfold.core.decide.account import share_of
from fourfold.core.errors import FourfoldError, Refused, did_you_mean
from fourfold.core.flows import (
    BODY,
    Attempt,
    CallKey,
    CallKind,
    CallState,
    DeployedFlow,
    Failure,
    FlowRun,
    Policy,
    RunId,
    RunState,
    StepCall,
    Stored,
)
from fourfold.core.jobs import ExitKind, UnitCapacity, Usage
from fourfold.core.times import Instant, moment, seconds_between
from fourfold.core.trace import MOST_POINTS
from fourfold.core.values import replace
from fourfold.resources.flows import values
from fourfold.resources.flows.values import Frame

AHEAD_BYTES = 4 * 1024 * 1024
"""About so much goes in one frame of what a task needs: a body may have ten thousand records."""


def plain(value: object) -> Any:
    """A value as JSON for a header."""
    return wire.plain(value)


def error_out(error: FourfoldError) -> dict[str, Any]:
    """An error for a header."""
    return {
        "code": error.code,
        "message": error.message,
        "ways_on": list(error.ways_on),
        "facts": {key: str(value) for key, value in error.facts.items()},
    }


def new_run(header: Mapping[str, Any], run_id: RunId, now: Instant) -> FlowRun:
    """The run that a client asks for."""
    asked = {**header, "id": run_id, "state": RunState.queued.value, "created_at": now}
    run: FlowRun = wire.convert(asked, FlowRun, what="flow run")
    return run


def policies(header: Mapping[str, Any]) -> Mapping[str, Policy]:
    """What steps ask for."""
    asked: Mapping[str, Policy] = wire.convert(header, dict[str, Policy], what="steps")
    return asked


def deployed(header: Mapping[str, Any], now: Instant) -> DeployedFlow:
    """The deployed flow that a client asks for. A schedule's first tick is after this moment."""
    asked: DeployedFlow = wire.convert(
        {**header, "created_at": now, "last_tick": now}, DeployedFlow, what="deployed flow"
    )
    return asked


def refuse_unknown(deployed: DeployedFlow, params: Mapping[str, Any]) -> None:
    """Refuse parameters that a deployed flow does not take. Their values are checked by its own code."""
    for name in params:
        if deployed.parameters and name not in deployed.parameters:
            raise Refused(
                f"flow '{deployed.flow}' has no parameter '{name}'",
                ways_on=did_you_mean(name, deployed.parameters, what="its parameters"),
                parameter=name,
            )


def run_of(
    deployed: DeployedFlow,
    run_id: RunId,
    now: Instant,
    *,
    tick: Instant | None,
    params: Mapping[str, Any],
    key: str,
) -> FlowRun:
    """A run of a deployed flow: by hand, or for a tick of its schedule.

    The day that it is for is settled here, in the schedule's zone: a later change of the schedule does not
    change what a run is for.
    """
    at = now if tick is None else tick
    day = {}
    if deployed.scheduled_param:
        day = {deployed.scheduled_param: moment(at).astimezone(ZoneInfo(deployed.tz)).date().isoformat()}
    return FlowRun(
        run_id,
        deployed.flow,
        RunState.queued,
        deployed.code,
        deployed.environment,
        now,
        params={**day, **deployed.params, **params},
        python=deployed.python,
        cwd=deployed.cwd,
        key=f"schedule/{deployed.flow}/{tick}" if tick is not None else key,
        schedule=deployed.flow if tick is not None else "",
        scheduled_for=tick,
        deadline_at=words.deadline_instant(deployed.deadline, at),
    )


def event(
    run: FlowRun, header: Mapping[str, Any], parts: Sequence[bytes], key: CallKey, n: int, now: Instant
) -> rules.Event | None:
    """What a worker that is busy with attempt `n` of call `key` says; `None` for a word that is not known.

    Raises when the frame is not what it says it is.
    """
    match header["type"]:
        case "finished" if header["key"] == key:
            result = values.from_wire(header["result"], parts)
            reads, writes = refs(header, "reads"), refs(header, "writes")
            return rules.Finished(key, n, result, usage(header), reads, writes, header.get("log_end"))
        case "failed" if header["key"] == key:
            told = failure(header["failure"], parts)
            return rules.Failed(key, n, told, usage(header), log_end=header.get("log_end"))
        case "call" if key == BODY:
            return rules.CallMade(call(run, header, parts, now), n)
        case "effect" if key == BODY:
            return rules.EffectDone(effect(run, header, parts, now), n)
        case _:
            return None


def call(run: FlowRun, header: Mapping[str, Any], parts: Sequence[bytes], now: Instant) -> StepCall:
    """The call of a step that a body tells of."""
    policy: Policy = wire.convert(header["policy"], Policy, what="policy")
    return StepCall(
        run.id,
        CallKey(header["key"]),
        0,
        CallKind.step,
        header["name"],
        CallState.blocked,
        now,
        policy=policy,
        arguments=values.from_wire(header["arguments"], parts),
        deps=tuple(CallKey(dep) for dep in header["deps"]),
        module=header["module"],
        qualname=header["qualname"],
        line=header["line"],
    )


def effect(run: FlowRun, header: Mapping[str, Any], parts: Sequence[bytes], now: Instant) -> StepCall:
    """What a body did itself, with its outcome."""
    told = header.get("failure")
    return StepCall(
        run.id,
        CallKey(header["key"]),
        0,
        CallKind.effect,
        header["name"],
        CallState.ready,
        now,
        arguments=Stored(header["arguments"]["digest"], header["arguments"]["size_bytes"]),
        line=header["line"],
        started_at=now,
        result=values.from_wire(header.get("result"), parts),
        failure=failure(told, parts) if told else None,
        reads=refs(header, "reads"),
        writes=refs(header, "writes"),
    )


def failure(told: Mapping[str, Any], parts: Sequence[bytes]) -> Failure:
    """The failure that a worker tells of."""
    return Failure(
        ExitKind(told["kind"]),
        told["type"],
        told["message"],
        told.get("traceback", ""),
        told.get("call", ""),
        bool(told.get("is_permanent")),
        values.from_wire(told.get("error"), parts),
    )


def failure_out(told: Failure, parts: list[bytes]) -> dict[str, Any]:
    """A failure for a body."""
    return {
        "kind": told.kind.value,
        "type": told.type,
        "message": told.message,
        "traceback": told.traceback,
        "call": told.call,
        "error": values.to_wire(told.error, parts),
    }


def usage(header: Mapping[str, Any]) -> Usage:
    """What the worker's meter read."""
    told = header.get("usage") or {}
    trace = tuple(tuple(int(each) for each in point) for point in told.get("trace", ())[:MOST_POINTS])
    return Usage(
        wall_s=told.get("wall_s", 0.0),
        cpu_s=told.get("cpu_s"),
        memory_peak_bytes=told.get("memory_peak_bytes"),
        read_bytes=told.get("read_bytes"),
        written_bytes=told.get("written_bytes"),
        memory_peak_is_exact=told.get("memory_peak_is_exact", True),
        flops=told.get("flops"),
        memory_mean_bytes=told.get("memory_mean_bytes"),
        disk_wait_s=told.get("disk_wait_s"),
        gpu_s=told.get("gpu_s"),
        gpu_memory_peak_bytes=told.get("gpu_memory_peak_bytes"),
        trace=trace,
    )


def refs(header: Mapping[str, Any], name: str) -> tuple[Ref, ...]:
    """What was read or written."""
    return tuple(Ref(*ref) for ref in header.get(name, ()))


def settled(call: StepCall) -> Frame:
    """A settled call's outcome, for the body."""
    parts: list[bytes] = []
    header = {"type": "settled", "key": call.key, "state": call.state.value}
    header |= _outcome(call, parts)
    return header, parts


def _outcome(call: StepCall, parts: list[bytes]) -> dict[str, Any]:
    if call.state.is_good:
        return {"result": values.to_wire(call.result, parts)}
    told = call.failure or Failure(ExitKind.failed, "", call.reason, call=call.key)
    return {"failure": failure_out(told, parts)}


def task(run: FlowRun, call: StepCall, attempt: Attempt, calls: Mapping[CallKey, StepCall]) -> list[Frame]:
    """What a worker is told to do. What it needs for that goes ahead, in frames of bounded size."""
    header: dict[str, Any] = {
        "type": "task",
        "kind": call.kind.value,
        "run": run.id,
        "key": call.key,
        "n": attempt.n,
        "name": call.name,
        "code": run.code.digest,
        "environment": run.environment,
        "user": run.user,
    }
    parts: list[bytes] = []
    if call.kind is CallKind.body:
        at = run.scheduled_for if run.scheduled_for is not None else run.created_at
        code = run.code
        header |= {"module": code.module, "qualname": code.flow, "params": dict(run.params), "at": at}
        settled_calls = [known for known in calls.values() if known.key != BODY and not known.state.is_open]
        settled_calls.sort(key=lambda known: (known.ended_at or 0, known.seq))
        ahead = _ahead(_record(known) for known in settled_calls)
    else:
        arguments = values.to_wire(call.arguments, parts)
        header |= {"module": call.module, "qualname": call.qualname, "arguments": arguments}
        ahead = _ahead(_input(calls[dep]) for dep in call.deps)
    return [*ahead, (header, parts)]


def _ahead(items: Iterable[Frame]) -> list[Frame]:
    """Items with parts of their own, many to a frame; each item counts its parts from zero."""
    made: list[Frame] = []
    size = AHEAD_BYTES
    for item, parts in items:
        if size >= AHEAD_BYTES:
            made.append(({"type": "ahead", "items": []}, []))
            size = 0
        header, all_parts = made[-1]
        header["items"].append({"item": item, "part_count": len(parts)})
        all_parts += parts
        size += 200 + sum(map(len, parts))
    return made


def _input(call: StepCall) -> Frame:
    parts: list[bytes] = []
    return values.to_wire(call.result, parts) or {}, parts


def _record(call: StepCall) -> Frame:
    """A settled call, for a body that is run again: what it came to, and what it was called with."""
    header, parts = settled(call)
    header |= {
        "name": call.name,
        "line": call.line,
        "deps": list(call.deps),
        "arguments_digest": call.arguments.digest if call.arguments else None,
    }
    return header, parts


def job(run: FlowRun, call: StepCall, attempt: Attempt, units: Sequence[UnitCapacity]) -> JobReport:
    """An attempt that ended, for the accounts. A body holds no step's slot, so it costs nothing.

    `units` are what it ran on, one for each node, as far as that is known. What several nodes held and used
    is added up.
    """
    assert attempt.ended_at is not None
    assert attempt.exit is not None
    is_body, asked, nodes = call.kind is CallKind.body, call.policy.resources, call.policy.nodes
    of_one = Held(0.0) if is_body else Held(asked.cpu.low, round(asked.memory_bytes.low), asked.gpu.low)
    wholes = {unit.name: Held(unit.cpu, unit.memory_bytes, unit.gpu) for unit in units}
    started = attempt.started_at or attempt.leased_at
    usage = attempt.usage
    if not usage.wall_s:  # its worker died and could not tell
        usage = replace(usage, wall_s=seconds_between(started, attempt.ended_at))
    return JobReport(
        attempt.key,
        call.name,
        attempt.unit or "local",
        started,
        attempt.ended_at,
        attempt.exit,
        usage,
        _sum([of_one] * nodes),
        kind="flow" if is_body else "step",
        flow_run=run.id,
        environment=run.environment,
        user=run.user,
        whole=_sum(wholes.values()) if wholes else None,
        unit_share=sum(share_of(of_one, wholes[unit.name]) for unit in units) if len(units) > 1 else None,
    )


def _sum(held: Iterable[Held]) -> Held:
    each = list(held)
    return Held(sum(h.cpu for h in each), sum(h.memory_bytes for h in each), sum(h.gpu for h in each))


def cache_key(run: FlowRun, call: StepCall, inputs: Sequence[StepCall]) -> str:
    """Equal for calls of equal code in an equal environment with equal arguments."""
    total = hashlib.blake2b(digest_size=32)
    pieces = [call.code, call.module, call.qualname, run.environment]
    pieces.append(call.arguments.digest if call.arguments else "")
    pieces += [known.result.digest if known.result else "" for known in inputs]
    for piece in pieces:
        total.update(piece.encode() + b"\0")
    return total.hexdigest()
