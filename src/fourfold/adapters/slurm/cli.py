"""A cluster by the commands of Slurm on this machine.

Nodes and accounts are read as JSON. The queue is not: `squeue --json` of release 22.05 heeds no filter and
tells three kilobytes of every job of the cluster, where a line of our own user's jobs takes sixty bytes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from fourfold.adapters.slurm import records
from fourfold.adapters.slurm.address import SlurmAddress
from fourfold.adapters.slurm.cluster import Node, Order, Partition, SlurmJob, Traits
from fourfold.core.errors import FourfoldError, Missing, Refused, TooMuch, Unauthenticated, Unavailable
from fourfold.core.times import SECOND_US, Instant

PASSED_ON = ("HOME", "USER", "LOGNAME", "SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "KRB5CCNAME")
"""What the commands need of our environment. Others (`SBATCH_…`) would change what we ask for."""
SEPARATOR = "|"
FIELDS = ("%A", "%T", "%r", "%B", "%N", "%S", "%e", "%j")
"""Number, state, reason, batch host, nodes, start, end; the name last, for it may hold anything."""
MOST_NAMES = 200
"""Names in one question to accounting; more are asked in turns."""
NOBODY_ANSWERS = re.compile(
    r"unable to contact|socket timed out|zero bytes|connection (refused|timed out|reset)|communication|"
    r"temporarily unable|no route to host|slurm backup controller|resource temporarily unavailable|"
    r"slurmdbd|DNS SRV lookup|configuration source",
    re.IGNORECASE,
)
NOT_BELIEVED = re.compile(r"authentication|invalid.*credential|munge|token", re.IGNORECASE)
TOO_MANY = re.compile(r"job submit limit|submit limit|job violates accounting/qos policy", re.IGNORECASE)


class SlurmCommands:
    """Fulfils `Cluster` by `sbatch`, `squeue`, `scancel`, `sinfo`, `scontrol` and `sacct`."""

    def __init__(self, address: SlurmAddress, environ: Mapping[str, str]) -> None:
        self._address = address
        self._environment = {
            **{name: environ[name] for name in PASSED_ON if name in environ},
            "PATH": environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
        }

    def __repr__(self) -> str:
        return "<SlurmCommands>"

    def submit(self, order: Order) -> int:
        # The environment of the command is small, so all of it may go along: any other choice makes Slurm
        # start a login shell on the node and take what its profile sets.
        command = [
            "sbatch", "--parsable", "--export=ALL", "--no-requeue", "--chdir=/", "--input=/dev/null",
            "--open-mode=append", f"--output={order.output.replace('%', '%%')}",
            f"--job-name={order.name}", f"--comment={order.comment}",
            f"--nodes={order.nodes}", f"--ntasks={order.nodes}", f"--cpus-per-task={order.cpus}",
        ]  # fmt: skip
        if order.nodes > 1:
            command.append("--ntasks-per-node=1")
        if order.memory_mib is not None:
            command.append(f"--mem={order.memory_mib}M")
        if order.gpus:
            command.append("--gres=" + ":".join(filter(None, ("gpu", order.gpu_name, str(order.gpus)))))
        if order.time_limit_min is not None:
            command.append(f"--time={order.time_limit_min}")
        asked = {name: getattr(self._address, name) for name in ("partition", "account", "qos", "constraint")}
        command += [f"--{name}={value}" for name, value in asked.items() if value]
        told = self._run(command, given=order.script)
        try:
            return int(told.split()[-1].partition(";")[0])
        except (IndexError, ValueError) as error:
            raise Unavailable(f"sbatch answered with something else than a number: {told[:200]!r}") from error

    def queue(self, job_ids: Collection[int]) -> list[SlurmJob]:
        del job_ids  # all of our user's are told at once, whichever are meant
        told = self._run(
            ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}",
             f"--format={SEPARATOR.join(FIELDS)}"],
            more={"SLURM_TIME_FORMAT": "%s"},  # for this alone: `sacct` cannot read its own options with it
        )  # fmt: skip
        return [_queued(line) for line in told.splitlines() if line.count(SEPARATOR) >= len(FIELDS) - 1]

    def history(self, names: Collection[str], *, since: Instant) -> list[SlurmJob]:
        ordered, found = sorted(names), []
        for at in range(0, len(ordered), MOST_NAMES):
            some = ",".join(ordered[at : at + MOST_NAMES])
            start = f"--starttime=now-{_minutes_ago(since)}minutes"
            try:
                told = self._run(["sacct", "--json", f"--user={os.getuid()}", start, f"--name={some}"])
            except Refused as error:
                if "accounting storage is disabled" in str(error).lower():
                    return []
                raise
            found += [records.accounted_job(each) for each in _parse(told, "sacct").get("jobs") or []]
        return found

    def nodes(self) -> list[Node]:
        told = _parse(self._run(["sinfo", "--json"]), "sinfo")
        listed = told.get("nodes")
        if listed is None:  # from release 23.02 on, `sinfo --json` tells of groups of equal nodes
            listed = _parse(self._run(["scontrol", "show", "nodes", "--json"]), "scontrol").get("nodes") or []
        return [records.node(each) for each in listed]

    def partitions(self) -> list[Partition]:
        told = self._run(["scontrol", "show", "partition", "--oneliner"])
        return [_partition(line) for line in told.splitlines() if line.startswith("PartitionName=")]

    def traits(self) -> Traits:
        return traits_of(self._run(["scontrol", "show", "config"]))

    def cancel(self, job_ids: Collection[int]) -> None:
        if job_ids:
            self._run(["scancel", "--quiet", *map(str, sorted(job_ids))], forgiving=True)

    def close(self) -> None:
        """Nothing is held."""

    # How.

    def _run(
        self,
        command: list[str],
        *,
        given: str = "",
        forgiving: bool = False,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """What a command prints; it is ended, with all it started, when its time is over."""
        try:
            process = subprocess.Popen(
                command,
                env={**self._environment, **more},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise Missing(
                f"the command '{command[0]}' of Slurm is not on this machine",
                ways_on=["apt-get install slurm-client", "or name its REST door: slurm+rest://host:port"],
            ) from error
        with process:
            try:
                out, err = process.communicate(given.encode(), self._address.timeout_s)
            except subprocess.TimeoutExpired as error:
                _kill_group(process)
                process.communicate()
                raise Unavailable(
                    f"Slurm does not answer: '{command[0]}' took longer than {self._address.timeout_s:g} s",
                    ways_on=["see whether its controller is up: scontrol ping"],
                ) from error
            except BaseException:
                _kill_group(process)
                raise
        said = err.decode(errors="replace").strip()
        if process.returncode == 0 or (forgiving and not NOBODY_ANSWERS.search(said)):
            return out.decode(errors="replace")
        raise trouble(command[0], said or f"it ended with status {process.returncode}")


def trouble(what: str, said: str) -> FourfoldError:
    """The error for what Slurm said.

    >>> trouble("sbatch", "sbatch: error: Batch job submission failed: Invalid partition name specified")
    Refused("Slurm refuses ('sbatch'): Batch job submission failed: Invalid partition name specified")
    """
    last = [
        line.removeprefix(f"{what}: ").removeprefix("error: ") for line in said.splitlines() if line.strip()
    ]
    text = "; ".join(last[-3:])[:500]
    if NOBODY_ANSWERS.search(said):
        return Unavailable(
            f"Slurm does not answer ('{what}'): {text}",
            ways_on=["see whether its controller is up: scontrol ping"],
        )
    if NOT_BELIEVED.search(said):
        return Unauthenticated(
            f"Slurm does not believe who we are ('{what}'): {text}",
            ways_on=["see that munged runs here with the cluster's key, or set SLURM_JWT"],
        )
    if TOO_MANY.search(said):
        return TooMuch(f"Slurm takes no more jobs now ('{what}'): {text}")
    return Refused(f"Slurm refuses ('{what}'): {text}")


def traits_of(config: str) -> Traits:
    """What `scontrol show config` says of memory.

    >>> traits_of("TaskPlugin = task/cgroup,task/affinity\\nConstrainRAMSpace = yes\\nDefMemPerCPU = 1000")
    Traits(enforces_memory=True, has_default_memory=True)
    >>> traits_of("TaskPlugin = task/none\\nDefMemPerNode = UNLIMITED")
    Traits(enforces_memory=False, has_default_memory=False)
    """
    settings = {}
    for line in config.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            settings[name.strip()] = value.strip()
    by_cgroup = "task/cgroup" in settings.get("TaskPlugin", "") and settings.get("ConstrainRAMSpace") == "yes"
    by_looking = "OverMemoryKill" in settings.get("JobAcctGatherParams", "")
    default = settings.get("DefMemPerNode") or settings.get("DefMemPerCPU") or "UNLIMITED"
    return Traits(by_cgroup or by_looking, default not in ("UNLIMITED", "0"))


def _queued(line: str) -> SlurmJob:
    number, state, reason, host, nodes, start, end, name = line.split(SEPARATOR, len(FIELDS) - 1)
    node = host if host not in ("n/a", "(null)") else nodes
    return SlurmJob(int(number), name, state, reason, node, _seconds(start), _seconds(end))


def _seconds(text: str) -> Instant | None:
    return Instant(int(text) * SECOND_US) if text.isdigit() else None


def _partition(line: str) -> Partition:
    settings = dict(word.partition("=")[::2] for word in line.split(" "))
    state = settings.get("State", "UP")
    return Partition(
        settings["PartitionName"],
        limit_s(settings.get("MaxTime", "UNLIMITED")),
        settings.get("Default") == "YES",
        ""
        if state in ("UP", "DOWN")
        else state.lower(),  # one that is down takes jobs, and starts them later
    )


def limit_s(text: str) -> float | None:
    """A time of Slurm in seconds; none for no limit.

    >>> limit_s("1-00:00:00"), limit_s("00:30:00"), limit_s("UNLIMITED")
    (86400.0, 1800.0, None)
    """
    days, dash, rest = text.rpartition("-")
    pieces = rest.split(":")
    if not all(piece.isdigit() for piece in pieces) or (dash and not days.isdigit()):
        return None
    seconds = 0
    for piece in pieces:
        seconds = seconds * 60 + int(piece)
    return float(seconds + int(days or 0) * 86400)


def _minutes_ago(since: Instant) -> int:
    return max(1, int(time.time() - since / SECOND_US) // 60 + 2)


def _parse(told: str, what: str) -> dict[str, Any]:
    try:
        parsed = json.loads(told)
    except json.JSONDecodeError as error:
        raise Refused(
            f"'{what} --json' does not answer with JSON: {told[:100]!r}",
            ways_on=["Slurm 21.08 or newer is needed, with its JSON serializer"],
        ) from error
    if not isinstance(
        parsed, dict
    ):  # `sacct` of 22.05 ends well and says "[]" to what it does not understand
        raise Refused(f"'{what} --json' does not answer as we know it: {told[:100]!r}")
    return parsed


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
