"""When a run that says it is running is not: its process died without a word."""

from __future__ import annotations

from fourfold.core.models import Host, Run, RunStatus
from fourfold.core.times import Instant, duration_text, seconds_between

HEARTBEAT_S = 10.0
"""How often a living run says so."""
LEASE_S = 90.0
"""How long a run may be silent."""


def lost_because(run: Run, *, now: Instant, here: Host, is_alive: bool) -> str:
    """Why a run counts as lost; empty if it does not.

    `here` is the machine that asks, and `is_alive` whether the run's process exists on it (only looked at
    when the run is of this machine).

    >>> run = Run("r", "r", "e", RunStatus.running, "ada", Instant(0), host=Host("box", 12))
    >>> lost_because(run, now=Instant(5_000_000), here=Host("box", 40), is_alive=False)
    'its process 12 on box ended without saying so'
    >>> lost_because(run, now=Instant(5_000_000), here=Host("other", 40), is_alive=False)
    ''
    >>> lost_because(run, now=Instant(95_000_000), here=Host("other", 40), is_alive=False)
    'nothing was heard of it for 1m 35s'
    """
    if run.status is not RunStatus.running:
        return ""
    if run.host.name and run.host.name == here.name and run.host.pid and not is_alive:
        return f"its process {run.host.pid} on {run.host.name} ended without saying so"
    silent_s = seconds_between(run.seen_at, now)
    if silent_s > LEASE_S:
        return f"nothing was heard of it for {duration_text(silent_s)}"
    return ""
