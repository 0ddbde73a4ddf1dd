"""When a failed attempt is tried again, by how it ended.

What the code did wrong (it raised, ran over time, ate its memory) uses up one of the step's `retries`.
What was done to it (its worker died, it was pre-empted) does not, up to a bound: a step that kills its
own process would else run for ever.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fourfold.core.flows import Backoff, Failure, StepCall
from fourfold.core.jobs import ExitKind
from fourfold.core.times import Instant, after, duration_text

MOST_LOSSES = 3
"""So many times may a worker die under one call before the call is to blame."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again at `at`."""

    at: Instant
    reason: str
    uses_try: bool
    is_loss: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The call has failed."""

    reason: str


def after_failure(call: StepCall, failure: Failure, now: Instant) -> Again | GiveUp:
    """What to do after the call's latest attempt failed."""
    match failure.kind:
        case ExitKind.worker_lost:
            losses = call.losses + 1
            if losses >= MOST_LOSSES:
                return GiveUp(
                    f"its process died {losses} times while it ran ({failure.message}); a step that ends its "
                    "own process, or a machine without memory, would go on like this for ever"
                )
            return Again(
                now,
                f"its process died ({failure.message}); this uses up no try",
                uses_try=False,
                is_loss=True,
            )
        case ExitKind.preempted:
            return Again(now, "it was pre-empted; this uses up no try", uses_try=False)
        case ExitKind.cancelled:
            return GiveUp("it was cancelled")
        case ExitKind.ok:
            raise AssertionError("what ended well has not failed")
        case ExitKind.failed | ExitKind.out_of_memory | ExitKind.over_time:
            tries, most = call.tries + 1, call.policy.retries + 1
            what = f"{failure.type}: {failure.message}" if failure.type else failure.message
            if failure.is_permanent:
                return GiveUp(f"{what} (trying again cannot help)")
            if tries >= most:
                return GiveUp(f"{what} (try {tries} of {most})" if most > 1 else what)
            wait_s = backoff_s(call.policy.backoff, tries, seed=f"{call.run}/{call.key}")
            return Again(
                after(now, wait_s),
                f"try {tries} of {most} failed ({what}); again in {duration_text(wait_s)}",
                uses_try=True,
            )


def backoff_s(backoff: Backoff, tries: int, *, seed: str) -> float:
    """How long to wait after so many tries; the jitter comes from the seed, so a replay waits as long.

    >>> backoff_s(Backoff(first_s=1, most_s=60, jitter=0), 4, seed="")
    8.0
    """
    plain = min(backoff.first_s * 2.0 ** min(tries - 1, 60), backoff.most_s)
    if not backoff.jitter:
        return plain
    draw = int.from_bytes(hashlib.blake2b(f"{seed}#{tries}".encode(), digest_size=8).digest(), "big") / 2**64
    return plain * (1 + backoff.jitter * (2 * draw - 1))
