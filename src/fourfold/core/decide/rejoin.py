"""What is said to a worker that connects, for the first time or again, by what it was given and what it has.

A worker on another machine outlives its connection and the loop's own process. The fence is the task (run,
call and attempt), and its *life*: the engine may have started its job twice, and only one process may be
the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Task = tuple[str, str, int]
"""Run, call and attempt."""


class Rejoin(StrEnum):
    """What follows for the worker."""

    go_on = "go on"
    """It is welcome, and needs nothing."""
    tell_result = "tell its result"
    """It has a result that did not arrive."""
    take_task = "take its task"
    """It was given a task that did not arrive."""
    refuse = "refuse"
    """It must end: another has its place, or its work does not count any more."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the loop knows of the worker."""

    task: Task | None
    life: str = ""
    """The process that joined under this name; "" while none has in this life of the loop."""
    may_have_begun: bool = False
    """Whether its task may have been sent before this life of the loop."""


def rejoin(known: Standing | None, *, life: str, has: Task | None, is_done: bool) -> tuple[Rejoin, str]:
    """Decide about a worker that says which task it has, and whether it is done with it; and why.

    >>> task = ("run_1", "fit#0", 2)
    >>> rejoin(Standing(task, "a"), life="a", has=task, is_done=True)[0].value
    'tell its result'
    >>> rejoin(Standing(task, "a"), life="b", has=None, is_done=False)
    (<Rejoin.refuse: 'refuse'>, 'another process is this worker: its job was started twice')
    """
    if known is None:
        return Rejoin.refuse, "this worker was given up, and its work is done elsewhere"
    if known.life and known.life != life:
        return Rejoin.refuse, "another process is this worker: its job was started twice"
    if known.task is not None and has == known.task:
        if is_done:
            return Rejoin.tell_result, "its result did not arrive"
        return Rejoin.go_on, "it works on its task"
    if has is not None and not is_done:
        return Rejoin.refuse, f"attempt {has[2]} of {has[1]} is no longer the present one"
    if known.task is None:
        return Rejoin.go_on, "it is idle"
    if not known.life and known.may_have_begun:
        # Its task was sent by an earlier loop: a process without it may be a second one of its job.
        return Rejoin.refuse, "it does not have the task that it was given"
    return Rejoin.take_task, "its task did not arrive"
