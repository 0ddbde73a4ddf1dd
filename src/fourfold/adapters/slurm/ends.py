"""How a job ended, by the word that Slurm has for it."""

from __future__ import annotations

from fourfold.adapters.slurm.cluster import SlurmJob
from fourfold.core.jobs import Exit, ExitKind

KINDS: dict[str, tuple[ExitKind, str]] = {
    "OUT_OF_MEMORY": (ExitKind.out_of_memory, "went past the memory that it had reserved"),
    "TIMEOUT": (ExitKind.over_time, "ran longer than Slurm allows it"),
    "DEADLINE": (ExitKind.over_time, "would not have ended by its deadline"),
    "NODE_FAIL": (ExitKind.worker_lost, "its node died or was cut off"),
    "BOOT_FAIL": (ExitKind.worker_lost, "its node did not start"),
    "PREEMPTED": (ExitKind.preempted, "had to make room for a job that goes first"),
    "REVOKED": (ExitKind.worker_lost, "another cluster took it"),
}


def exit_for(job: SlurmJob | None, *, was_started: bool, was_stopped: bool, told: Exit | None = None) -> Exit:
    """What to say of a job of which its keeper told no end, or only that it was ended from outside (`told`).

    >>> exit_for(SlurmJob(12, "ff-a", "NODE_FAIL", node="n2"), was_started=True, was_stopped=False).reason
    'its node died or was cut off (Slurm job 12 on n2)'
    >>> exit_for(SlurmJob(12, "ff-a", "PENDING"), was_started=False, was_stopped=True).reason
    'stopped before it started'
    """
    if job is None and told is not None and not was_stopped:
        return told
    if job is None or (was_stopped and not was_started):
        if was_stopped:
            return Exit(ExitKind.cancelled, "stopped" if was_started else "stopped before it started")
        return Exit(ExitKind.worker_lost, "Slurm knows nothing of it any more")
    where = f" (Slurm job {job.job_id}{f' on {job.node}' if job.node else ''})"
    if was_stopped:
        return Exit(ExitKind.cancelled, f"stopped{where}", _code(job))
    if job.state in KINDS:
        kind, reason = KINDS[job.state]
        return Exit(kind, reason + where, _code(job))
    if job.state == "CANCELLED":
        return Exit(ExitKind.cancelled, f"cancelled in Slurm by somebody else{where}", _code(job))
    if told is not None:
        return told
    if was_started:
        return Exit(ExitKind.worker_lost, f"what watched it died without a word{where}", _code(job))
    if job.state == "FAILED":
        reason = f"the node could not start it: {job.reason or 'see its log'}{where}"
        return Exit(ExitKind.worker_lost, reason, _code(job))
    return Exit(
        ExitKind.worker_lost, f"Slurm says '{job.state.lower()}', and nothing started{where}", _code(job)
    )


def _code(job: SlurmJob) -> int | None:
    return -job.signal if job.signal is not None else job.code or None
