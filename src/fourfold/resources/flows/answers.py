"""What the loop answers to its clients' words: submit, watch, cancel, resume, deploy, start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fourfold.core.decide import flow as rules
from fourfold.core.errors import Refused
from fourfold.core.times import Instant
from fourfold.resources.flows import messages

if TYPE_CHECKING:
    from fourfold.resources.flows.loop import Loop


def answer(loop: Loop, peer: str, header: Mapping[str, Any], now: Instant) -> dict[str, Any]:
    """The answer to one word. It goes out once what it led to is stored."""
    match header["type"]:
        case "submit":
            run = messages.new_run(header["run"], loop.new_run_id(), now)
            return {"run": messages.plain(loop.submit(run, messages.policies(header.get("steps") or {})))}
        case "watch":
            return {"is_open": loop.watch(header["run"], peer, with_events=bool(header.get("with_events")))}
        case "cancel":
            flow = loop.wanted(header["run"])
            loop.tell(flow, rules.CancelAsked(header.get("why") or "cancelled"))
            return {"run": messages.plain(flow.run)}
        case "resume":
            flow = loop.wanted(header["run"])
            loop.tell(flow, rules.ResumeAsked())
            return {"run": messages.plain(flow.run)}
        case "deploy":
            asked = messages.deployed(header["deployed"], now)
            return {"deployed": messages.plain(loop.deploy(asked))}
        case "start":
            known = loop.scheduler.get(header["flow"])
            params = header.get("params") or {}
            messages.refuse_unknown(known, params)
            run = loop.new_run(known, None, params, header.get("key", ""))
            return {"run": messages.plain(loop.submit(replace(run, user=header.get("user", ""))))}
        case "pause_schedule":
            known = loop.scheduler.get(header["flow"])
            last_tick = known.last_tick if header["is_paused"] else now  # what passed meanwhile stays passed
            asked = replace(known, is_paused=bool(header["is_paused"]), last_tick=last_tick)
            return {"deployed": messages.plain(loop.deploy(asked))}
        case "why":
            return {"holds": loop.placing.holds(header["run"]), "is_firing": loop.scheduler.is_firing}
        case "pools":
            return {"pools": messages.plain(loop.crew.loads())}
        case other:
            raise Refused(f"the owner does not know what {other!r} means; is it of another version?")
