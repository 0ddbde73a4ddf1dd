"""Keeps one job: starts its processes, watches their limits, and ends when the last of them has.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import time

from fourfold.adapters.local_engine import groups
from fourfold.adapters.local_engine.lines import Lines
from fourfold.adapters.local_engine.looks import Looks
from fourfold.adapters.local_engine.output import Output
from fourfold.adapters.local_engine.ports import Port
from fourfold.adapters.local_engine.processes import (
    descendants,
    kill,
    moved_bytes,
    proportional_bytes,
    resident_bytes,
    stat,
)

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
WAKE_S = 0.25
"""How often limits and output are held, at least."""
FLOOD_WAKE_S = 0.02
FLOOD_BYTES = 4 << 20
"""Output that grew by so much since the last time is held more often."""
POLL_MEMORY_S = 0.05
"""How often memory is polled where no group holds it."""
OVER_TIME_GRACE_S = 2.0
OTHER_NODES_GRACE_S = 5.0
"""When one of several nodes fails, the others have so long to end politely."""
END_BYTES = 8192
"""Reserved for the journal of a job's end, so that a job which fills the disk has one too."""

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Let whatever our descendants leave behind fall to us."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def groups_of(spec: dict[str, object]) -> tuple[dict[str, str] | None, str, int]:
    """Where a job's groups are: the place, the job's name there, the number of nodes."""
    place = spec.get("groups")
    assert place is None or isinstance(place, dict)
    return place, groups.name_of(str(spec["folder"])), int(str(spec["nodes"]))


class Keeper:
    """One job, or all nodes of one: the processes below this one."""

    def __init__(self, spec: dict[str, object], supervisor: Lines) -> None:
        self._key = str(spec["key"])
        self._folder = str(spec["folder"])
        self._argv = [str(word) for word in spec["argv"]]  # type: ignore[attr-defined]
        self._env = {str(k): str(v) for k, v in spec["env"].items()}  # type: ignore[attr-defined]
        self._cwd = str(spec["cwd"])
        self._nodes = int(str(spec["nodes"]))
        self._listens = bool(spec["listens"])
        self._time_limit_s = _number(spec.get("time_limit_s"))
        self._memory_limit = _number(spec.get("memory_limit_bytes"))
        self._log_bytes = int(str(spec["log_bytes"]))
        self._groups = groups.of_job(*groups_of(spec))
        self._supervisor = supervisor
        self._running: dict[int, tuple[int, int]] = {}  # by pidfd: pid, rank
        self._doom: dict[str, object] | None = None  # how we shall say it ended, once that is settled
        self._kill_at: float | None = None
        self._wake_s = WAKE_S

    def run(self) -> None:
        """Keep the job until its last process has ended, and say how it did."""
        adopt_orphans()
        self._oom_kills = _oom_kills()
        self._moved = moved_bytes("self")
        self._began = time.monotonic()
        self._started_at_us = time.time_ns() // 1000
        try:
            self._reserve_end()
            self._output = Output(self._folder, self._log_bytes)
            self._make_groups()
            self._ports = [Port() for _ in range(self._nodes if self._listens else 0)]
            self._master = Port() if self._nodes > 1 else None
            leaders = self._spawn()
        except OSError as error:
            what = error.filename or self._argv[0]
            self._looks = Looks(self._groups, self._began)
            self._finish(_exit("failed", f"cannot start: {what}: {error.strerror}", 127))
            return
        self._looks = Looks(self._groups, self._began)
        poll = select.poll()
        for rank, pid in enumerate(leaders):
            pidfd = os.pidfd_open(pid)
            self._running[pidfd] = (pid, rank)
            poll.register(pidfd, select.POLLIN)
        self._tell_started(leaders[0])
        poll.register(self._supervisor.sock.fileno(), select.POLLIN)
        while self._running:
            for fd, _ in poll.poll(self._patience_ms()):
                if fd in self._running:
                    poll.unregister(fd)
                    self._leader_ended(*self._running.pop(fd))
                    os.close(fd)
                else:
                    self._hear(poll)
            self._hold()
        self._sweep()
        self._output.hold()
        self._finish(self._doom or _exit("ok", "", 0))

    # Starting.

    def _reserve_end(self) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(f"{self._folder}/end.json.new", os.O_WRONLY | os.O_CREAT, 0o600)
            with contextlib.suppress(OSError):
                os.posix_fallocate(fd, 0, END_BYTES)
            os.close(fd)

    def _make_groups(self) -> None:
        try:
            for group in self._groups:
                group.make(self._memory_limit)
        except OSError:  # full, or taken away since the engine looked: memory is polled instead
            for group in self._groups:
                group.remove()
            self._groups = []

    def _spawn(self) -> list[int]:
        """Start a process per node, all or none: each waits at a gate until all are there."""
        null = os.open(os.devnull, os.O_RDONLY)
        gate, opens = os.pipe()
        tell, told = os.pipe()
        keeper, pids = os.getpid(), list[int]()
        try:
            for rank in range(self._nodes):
                pid = os.fork()
                if pid == 0:
                    os.close(opens)
                    self._become(rank, keeper, null, gate, told)
                pids.append(pid)
            os.close(told)
            os.write(opens, b"." * self._nodes)
            failures = b""
            while piece := os.read(tell, 4096):  # empty once each exec has closed the pipe
                failures += piece
            if failures:
                number, text, name = json.loads(failures.split(b"\n")[0])
                raise OSError(number, text, name)
        except OSError:
            for pid in pids:
                kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        finally:
            for fd in (null, gate, opens, tell):
                os.close(fd)
        return pids

    def _become(self, rank: int, keeper: int, null: int, gate: int, told: int) -> None:
        """In the new process: become the job's command."""
        try:
            os.setsid()
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != keeper:
                os._exit(1)
            if self._groups:
                self._groups[rank].join()
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(null, 0)
            os.dup2(self._output.fd, 1)
            os.dup2(self._output.fd, 2)
            os.chdir(self._cwd)
            if os.read(gate, 1):
                os.execvpe(self._argv[0], self._argv, self._env_of(rank))  # noqa: S606 - no shell is meant
        except OSError as error:
            os.write(told, json.dumps([error.errno, error.strerror, error.filename]).encode() + b"\n")
        finally:
            os._exit(127)

    def _env_of(self, rank: int) -> dict[str, str]:
        env = dict(self._env)
        if self._listens:
            env["FOURFOLD_PORT"] = str(self._ports[rank].number)
        if self._master is not None:
            env |= {
                "RANK": str(rank),
                "WORLD_SIZE": str(self._nodes),
                "LOCAL_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._master.number),
            }
        return env

    def _tell_started(self, leader: int) -> None:
        started: dict[str, object] = {"key": self._key, "pid": leader, "keeper": os.getpid()}
        started |= {"at_us": self._started_at_us}
        started |= {"address": f"127.0.0.1:{self._ports[0].number}" if self._listens else ""}
        with contextlib.suppress(OSError):  # for other processes of the project
            with open(f"{self._folder}/started.json.new", "w") as file:
                json.dump(started, file)
            os.rename(f"{self._folder}/started.json.new", f"{self._folder}/started.json")
        self._supervisor.send({"event": "started", **started})

    # While it runs.

    def _patience_ms(self) -> float:
        now = time.monotonic()
        waits = [self._wake_s if self._doom is None else WAKE_S, self._looks.due_at - now]
        if self._kill_at is not None:
            waits.append(self._kill_at - now)
        elif self._time_limit_s is not None:
            waits.append(self._began + self._time_limit_s - now)
        return max(0.0, min(waits)) * 1000 + 1  # poll rounds down; the extra one keeps it from spinning

    def _hear(self, poll: select.poll) -> None:
        messages = self._supervisor.receive()
        if messages is None:  # the supervisor died
            poll.unregister(self._supervisor.sock.fileno())
            messages = [{"grace_s": 0}]
        for message in messages:
            self._end(_exit("cancelled", "stopped"), float(str(message["grace_s"])))

    def _hold(self) -> None:
        """Hold the limits: output, time, memory."""
        grown, is_held = self._output.hold()
        self._wake_s = FLOOD_WAKE_S if grown > FLOOD_BYTES else WAKE_S
        if not is_held:
            reason = f"printed more than {self._log_bytes} bytes, on a file system that cannot give up a part"
            self._end(_exit("failed", reason), 0)
        now = time.monotonic()
        if self._time_limit_s is not None and now - self._began >= self._time_limit_s and self._doom is None:
            self._end(_exit("over_time", f"ran longer than {self._time_limit_s:g} s"), OVER_TIME_GRACE_S)
        if self._kill_at is not None and now >= self._kill_at:
            self._signal_all(signal.SIGKILL)
        if now >= self._looks.due_at:
            self._looks.look(POLL_MEMORY_S if self._memory_limit is not None and not self._groups else None)
            self._hold_memory()
            self._looks.keep(f"{self._folder}/usage.json")

    def _hold_memory(self) -> None:
        limit = self._memory_limit
        if limit is None:
            return
        if self._groups:
            if any(group.oom_kills() for group in self._groups):
                self._end(self._over_memory(), 0)
            return
        # Of what has forked away nobody knows the node: it counts in the sum.
        trees = [[pid, *descendants(pid)] for pid, _ in self._running.values()]
        for pids, most in (
            *((tree, limit) for tree in trees),
            (descendants(os.getpid()), limit * self._nodes),
        ):
            if _memory(pids, is_exact=False) > most:
                # Processes that were forked share pages; the dear count, that halves them, decides.
                used = _memory(pids, is_exact=True)
                self._looks.met(used)
                if used > most:
                    self._end(self._over_memory(used), 0)

    def _over_memory(self, used: int | None = None) -> dict[str, object]:
        limit = f"its limit of {(self._memory_limit or 0) / 2**20:.0f} MiB"
        told = (
            f"used {used / 2**20:.0f} MiB of memory, over {limit}"
            if used
            else f"used more memory than {limit}"
        )
        return _exit("out_of_memory", told)

    def _leader_ended(self, pid: int, rank: int) -> None:
        _, status = os.waitpid(pid, 0)
        exit_ = self._how_it_ended(status)
        if exit_["kind"] == "ok":
            return
        if self._nodes > 1:
            exit_["reason"] = f"node {rank}: {exit_['reason']}"
        is_last = not self._running
        if is_last or self._doom is not None:
            self._doom = self._doom or exit_
        else:
            self._end(exit_, OTHER_NODES_GRACE_S)

    def _end(self, doom: dict[str, object], grace_s: float) -> None:
        """Begin to end the job; the first reason stays, a shorter grace counts."""
        is_first = self._doom is None
        self._doom = self._doom or doom
        kill_at = time.monotonic() + grace_s
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if grace_s <= 0:
            self._signal_all(signal.SIGKILL)
        elif is_first:
            self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        pids = self._pids()
        if number == signal.SIGKILL:
            for pid in pids:
                kill(pid, signal.SIGSTOP)  # so that none forks while we walk
            pids = self._pids()
        for pid in pids:
            kill(pid, number)

    def _pids(self) -> list[int]:
        pids = descendants(os.getpid())
        known = set(pids)
        return pids + [pid for group in self._groups for pid in group.pids() if pid not in known]

    # The end.

    def _sweep(self) -> None:
        """End what the first processes left behind, and wait for the last of it."""
        while True:
            # A job that was asked to stop gives all its processes the grace; one that ended has no others.
            patient = self._kill_at is not None and time.monotonic() < self._kill_at
            if not patient:
                self._signal_all(signal.SIGKILL)
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                time.sleep(0.005)

    def _how_it_ended(self, status: int) -> dict[str, object]:
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return _exit("ok", "", 0)
        if any(group.oom_kills() for group in self._groups):
            return self._over_memory()
        if code > 0:
            return _exit("failed", f"exit status {code}", code)
        name = signal.Signals(-code).name
        if os.path.exists(os.path.join(self._folder, "cancelled")):
            return _exit("cancelled", "stopped by another process of the project", code)
        if -code == signal.SIGKILL and _oom_kills() > self._oom_kills:
            return _exit("out_of_memory", "the kernel ended it because memory ran out", code)
        if -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            return _exit("worker_lost", f"ended from outside by {name}", code)
        return _exit("failed", f"crashed with {name}", code)

    def _finish(self, exit_: dict[str, object]) -> None:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        read, written = (
            after - before for after, before in zip(moved_bytes("self"), self._moved, strict=True)
        )
        record = {
            "format": 1,
            "key": self._key,
            "started_at": self._started_at_us,
            "ended_at": time.time_ns() // 1000,
            "exit": exit_,
            "usage": self._looks.usage(used, read_bytes=read, written_bytes=written),
        }
        for group in self._groups:
            group.remove()
        path = f"{self._folder}/end.json"
        with contextlib.suppress(OSError):  # the control process hears of it all the same
            with open(path + ".new", "r+b" if os.path.exists(path + ".new") else "wb") as file:
                file.write(json.dumps(record).encode())
                file.truncate()
            os.rename(path + ".new", path)
        self._supervisor.send({"event": "ended", **record})


def _memory(pids: list[int], *, is_exact: bool) -> int:
    if is_exact:
        return sum(proportional_bytes(pid) for pid in pids)
    return sum(resident_bytes(fields) for fields in map(stat, pids) if fields is not None)


def _oom_kills() -> int:
    """How many processes the kernel has ended for want of memory since it started."""
    try:
        with open("/proc/vmstat") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, StopIteration):
        return 0


def _exit(kind: str, reason: str, code: int | None = None) -> dict[str, object]:
    return {"kind": kind, "reason": reason, "code": code}


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))
