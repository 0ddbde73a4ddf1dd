"""The words of the control socket: values to frames and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fourfold.core import wire
from fourfold.core.compute import Held, JobReport
from fourfold.core.context import Ref
from fourfold.core.decide.place import Lease
from fourfold.core.errors import FourfoldError
from fourfold.core.flows import (
    BODY,
    Attempt,
    CallKey,
    CallKind,
    CallState,
    Deployment,
    Failure,
    FlowRun,
    Policy,
    RunId,
    RunState,
    StepCall,
    Stored,
)
from fourfold.core.ports.engine import ExitKind, Resources, Usage
from fourfold.core.times import Instant, seconds_between
from fourfold.resources.flows import values

Frame = tuple[dict[str, Any], list[bytes]]


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


def resources(header: Mapping[str, Any]) -> Mapping[str, Resources]:
    """What steps ask for."""
    asked: Mapping[str, Resources] = wire.convert(header, dict[str, Resources], what="steps")
    return asked


def deployment(header: Mapping[str, Any], now: Instant) -> Deployment:
    """The deployment that a client asks for. A schedule's first tick is after this moment."""
    asked: Deployment = wire.convert(
        {**header, "created_at": now, "last_tick": now}, Deployment, what="deployment"
    )
    return asked


def run_of(
    deployment: Deployment,
    run_id: RunId,
    now: Instant,
    *,
    tick: Instant | None,
    params: Mapping[str, Any],
    key: str,
) -> FlowRun:
    """A run of a deployed flow: by hand, or for a tick of its schedule."""
    return FlowRun(
        run_id,
        deployment.flow,
        RunState.queued,
        deployment.code,
        deployment.environment,
        now,
        params={**deployment.params, **params},
        python=deployment.python,
        cwd=deployment.cwd,
        key=f"schedule/{deployment.flow}/{tick}" if tick is not None else key,
        schedule=deployment.flow if tick is not None else "",
        scheduled_for=tick,
    )


def call(
    run: FlowRun, kind: str, header: Mapping[str, Any], parts: Sequence[bytes], now: Instant
) -> StepCall:
    """The call or effect that a body tells of."""
    if kind == "call":
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
    return Usage(
        wall_s=told.get("wall_s", 0.0),
        cpu_s=told.get("cpu_s"),
        memory_peak_bytes=told.get("memory_peak_bytes"),
        read_bytes=told.get("read_bytes"),
        written_bytes=told.get("written_bytes"),
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


def task(run: FlowRun, call: StepCall, attempt: Attempt, calls: Mapping[CallKey, StepCall], tz: str) -> Frame:
    """What a worker is told to do. A body is told all that has settled, in one message."""
    parts: list[bytes] = []
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
        "log": attempt.log,
    }
    if call.kind is not CallKind.body:
        inputs = [values.to_wire(calls[dep].result, parts) for dep in call.deps]
        header |= {
            "module": call.module,
            "qualname": call.qualname,
            "inputs": inputs,
            "arguments": values.to_wire(call.arguments, parts),
        }
        return header, parts
    at = run.scheduled_for if run.scheduled_for is not None else run.created_at
    records = []
    for known in sorted(calls.values(), key=lambda known: (known.ended_at or 0, known.seq)):
        if known.key == BODY or known.state.is_open:
            continue
        records.append(
            {
                "type": "settled",
                "key": known.key,
                "name": known.name,
                "line": known.line,
                "deps": list(known.deps),
                "arguments_digest": known.arguments.digest if known.arguments else None,
                "state": known.state.value,
                **_outcome(known, parts),
            }
        )
    header |= {
        "module": run.code.module,
        "qualname": run.code.flow,
        "params": dict(run.params),
        "at": at,
        "tz": tz,
        "records": records,
    }
    return header, parts


def job(run: FlowRun, call: StepCall, attempt: Attempt, lease: Lease | None) -> JobReport:
    """An attempt that ended, for the accounts. A body holds no step's slot, so it costs nothing."""
    assert attempt.ended_at is not None
    assert attempt.exit is not None
    held = Held(0.0) if lease is None else Held(lease.cpu, lease.memory_bytes, lease.gpu)
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
        held,
        kind="step" if lease is not None else "flow",
        flow_run=run.id,
        environment=run.environment,
        user=run.user,
    )


def cache_key(run: FlowRun, call: StepCall, inputs: Sequence[StepCall]) -> str:
    """Equal for calls of equal code in an equal environment with equal arguments."""
    total = hashlib.blake2b(digest_size=32)
    pieces = [call.code, call.module, call.qualname, run.environment]
    pieces.append(call.arguments.digest if call.arguments else "")
    pieces += [known.result.digest if known.result else "" for known in inputs]
    for piece in pieces:
        total.update(piece.encode() + b"\0")
    return total.hexdigest()
