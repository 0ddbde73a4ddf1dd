"""The moves that a call of a flow run can make: the one table of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from fourfold.core.flows import CallState


class Move(StrEnum):
    """What can happen to a call."""

    unblock = "unblock"
    input_failed = "input_failed"
    hit = "hit"
    lease = "lease"
    start = "start"
    give_back = "give_back"
    finish = "finish"
    fail = "fail"
    wait = "wait"
    due = "due"
    cancel = "cancel"
    resume = "resume"
    resume_blocked = "resume_blocked"


_S, _M = CallState, Move
TRANSITIONS: Mapping[tuple[CallState, Move], CallState] = {
    (_S.blocked, _M.unblock): _S.ready,
    (_S.blocked, _M.input_failed): _S.upstream_failed,
    (_S.blocked, _M.cancel): _S.cancelled,
    (_S.ready, _M.hit): _S.cached,
    (_S.ready, _M.lease): _S.leased,
    (_S.ready, _M.finish): _S.succeeded,  # an effect: the body did it itself
    (_S.ready, _M.fail): _S.failed,  # refused before any attempt, or an effect
    (_S.ready, _M.cancel): _S.cancelled,
    (_S.leased, _M.start): _S.running,
    (_S.leased, _M.give_back): _S.ready,
    (_S.leased, _M.finish): _S.succeeded,  # the word that it began was lost
    (_S.leased, _M.fail): _S.failed,
    (_S.leased, _M.wait): _S.retry_wait,
    (_S.leased, _M.cancel): _S.cancelled,
    (_S.running, _M.give_back): _S.ready,
    (_S.running, _M.finish): _S.succeeded,
    (_S.running, _M.fail): _S.failed,
    (_S.running, _M.wait): _S.retry_wait,
    (_S.running, _M.cancel): _S.cancelled,
    (_S.retry_wait, _M.due): _S.ready,
    (_S.retry_wait, _M.cancel): _S.cancelled,
    (_S.failed, _M.resume): _S.ready,
    (_S.failed, _M.resume_blocked): _S.blocked,
    (_S.upstream_failed, _M.resume): _S.ready,
    (_S.upstream_failed, _M.resume_blocked): _S.blocked,
    (_S.cancelled, _M.resume): _S.ready,
    (_S.cancelled, _M.resume_blocked): _S.blocked,
    (_S.succeeded, _M.resume): _S.ready,  # the body only: it is run again, its calls are not
}
"""From where, by what, to where. What is not here cannot happen."""
