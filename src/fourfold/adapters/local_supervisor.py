"""The small process that starts and ends jobs for the local engine. Run as a file; standard library only.

One supervisor serves one control process, and forks one *keeper* per job. The keeper declares itself a
subreaper, so whatever a job starts, also what forks away and changes its session, stays the keeper's
descendant: it can be counted, and ended to the last process. A fork of this small process costs about a
millisecond, where a fresh interpreter per job would cost ten times that.

Who dies, and what follows:

- the control process: its end of the socket closes and its pidfd turns readable; every job is killed.
- the supervisor: the keepers' sockets close; each kills its job and records its end.
- a keeper: the kernel kills the job's first process (PDEATHSIG); what else it started falls to the
  supervisor, which kills it and reports the job as lost.
- all of them at once: the next engine finds what is left by a mark in its environment (`reap`).

Lines of JSON travel both ways: `start`, `stop`, `close` come in; `started`, `ended` go out.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SAMPLE_LIMITED_S = 0.05  # how often a job with a memory limit is looked at
SAMPLE_S = 2.0  # and one without, for the peak of its whole tree
OVER_TIME_GRACE_S = 2.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    control_fd, control_pid = int(sys.argv[1]), int(sys.argv[2])
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the control process
    try:
        control_pidfd = os.pidfd_open(control_pid)
    except ProcessLookupError:
        return
    Supervisor(socket.socket(fileno=control_fd), control_pidfd).run()


class Lines:
    """JSON lines over a stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def send(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # the other side is gone: that is noticed where we read
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, object]] | None:
        """The messages that have come; `None` when the other side has closed."""
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Supervisor:
    """Forks keepers and passes messages between them and the control process."""

    def __init__(self, control: socket.socket, control_pidfd: int) -> None:
        self._control = Lines(control)
        self._control_pidfd = control_pidfd
        self._keepers: dict[int, tuple[str, int, Lines]] = {}  # by socket: key, pid, lines
        self._poll = select.poll()
        self._is_closing = False

    def run(self) -> None:
        control_fd = self._control.sock.fileno()
        self._poll.register(control_fd, select.POLLIN)
        self._poll.register(self._control_pidfd, select.POLLIN)
        self._control.send({"event": "ready"})
        while not (self._is_closing and not self._keepers):
            for fd, _ in self._poll.poll():
                if fd == self._control_pidfd:
                    self._control_is_gone()
                elif fd == control_fd:
                    messages = self._control.receive()
                    if messages is None:
                        self._control_is_gone()
                    for message in messages or ():
                        self._obey(message)
                elif fd in self._keepers:
                    self._hear(fd)

    def _obey(self, message: dict[str, object]) -> None:
        if message["op"] == "start":
            self._start(message)
        elif message["op"] == "stop":
            for key, _, lines in self._keepers.values():
                if key == message["key"]:
                    lines.send({"grace_s": message["grace_s"]})
        else:  # close
            self._is_closing = True
            for _, _, lines in self._keepers.values():
                lines.send({"grace_s": message["grace_s"]})

    def _start(self, spec: dict[str, object]) -> None:
        try:
            ours, theirs = socket.socketpair()
            pid = os.fork()
        except OSError as error:  # no more processes or files: this job is lost, the others go on
            exit_ = _exit("worker_lost", f"cannot start a process: {error.strerror}")
            self._control.send({"event": "ended", "key": spec["key"], "exit": exit_})
            return
        if pid == 0:
            status = 1
            try:
                ours.close()
                os.close(self._control_pidfd)
                self._control.sock.close()
                for _, _, lines in self._keepers.values():
                    lines.sock.close()  # else a brother would keep the line to the supervisor open
                Keeper(spec, Lines(theirs)).run()
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        self._keepers[ours.fileno()] = (str(spec["key"]), pid, Lines(ours))
        self._poll.register(ours.fileno(), select.POLLIN)

    def _hear(self, fd: int) -> None:
        key, pid, lines = self._keepers[fd]
        messages = lines.receive()
        for message in messages or ():
            self._control.send(message)
        if messages is not None:
            return
        self._poll.unregister(fd)
        lines.sock.close()
        del self._keepers[fd]
        _, status = os.waitpid(pid, 0)
        if status != 0:  # it died without saying how its job ended
            self._end_orphans()
            self._control.send(
                {"event": "ended", "key": key, "exit": _exit("worker_lost", "its keeper died")}
            )

    def _end_orphans(self) -> None:
        """Kill what a dead keeper left: it is now our child, and only keepers should be."""
        keepers = {pid for _, pid, _ in self._keepers.values()}
        while orphans := [pid for pid in children(os.getpid()) if pid not in keepers]:
            for orphan in orphans:
                for pid in (*descendants(orphan), orphan):
                    _kill(pid, signal.SIGKILL)
                try:
                    os.waitpid(orphan, 0)
                except ChildProcessError:
                    continue

    def _control_is_gone(self) -> None:
        for _, _, lines in self._keepers.values():
            lines.send({"grace_s": 0})
        self._poll.unregister(self._control.sock.fileno())
        self._poll.unregister(self._control_pidfd)
        self._control.sock.close()
        os.close(self._control_pidfd)
        while self._keepers:
            for fd, _ in self._poll.poll():
                self._hear(fd)
        os._exit(0)


class Keeper:
    """Starts one job's command, watches its limits, and ends when the last of its processes has."""

    def __init__(self, spec: dict[str, object], supervisor: Lines) -> None:
        self._key = str(spec["key"])
        self._folder = str(spec["folder"])
        self._argv = [str(word) for word in spec["argv"]]  # type: ignore[attr-defined]
        self._env = {str(k): str(v) for k, v in spec["env"].items()}  # type: ignore[attr-defined]
        self._cwd = str(spec["cwd"])
        self._time_limit_s = _number(spec.get("time_limit_s"))
        self._memory_limit = _number(spec.get("memory_limit_bytes"))
        self._supervisor = supervisor
        self._memory_peak = 0
        self._doom: dict[str, object] | None = None  # how we shall say it ended, once we decided to end it
        self._kill_at: float | None = None

    def run(self) -> None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._oom_kills = _oom_kills()
        self._moved = _io()
        self._began = time.monotonic()
        self._started_at_us = time.time_ns() // 1000
        try:
            self._leader = self._spawn()
        except OSError as error:
            what = error.filename or self._argv[0]
            self._finish(_exit("failed", f"cannot start: {what}: {error.strerror}", 127))
            return
        pidfd = os.pidfd_open(self._leader)
        started = {"event": "started", "key": self._key, "pid": self._leader, "keeper": os.getpid()}
        self._supervisor.send({**started, "at_us": self._started_at_us})
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self._supervisor.sock.fileno(), select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._patience_ms())}
            if pidfd in ready:
                break
            if ready:
                self._hear(poll)
            self._look()
        _, status = os.waitpid(self._leader, 0)
        self._sweep()
        self._finish(self._doom or self._how_it_ended(status))

    def _spawn(self) -> int:
        log = os.open(os.path.join(self._folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        tell, told = os.pipe()
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != keeper:
                    os._exit(1)
                for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                    signal.signal(number, signal.SIG_DFL)
                os.dup2(null, 0)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.chdir(self._cwd)
                os.execvpe(self._argv[0], self._argv, self._env)  # noqa: S606 - no shell is meant
            except OSError as error:
                os.write(told, json.dumps([error.errno, error.strerror, error.filename]).encode())
            finally:
                os._exit(127)
        os.close(told)
        os.close(log)
        os.close(null)
        failure = os.read(tell, 4096)  # empty once the exec has closed the pipe
        os.close(tell)
        if failure:
            os.waitpid(pid, 0)
            number, text, name = json.loads(failure)
            raise OSError(number, text, name)
        return pid

    def _patience_ms(self) -> float:
        now = time.monotonic()
        waits = [SAMPLE_S if self._memory_limit is None else SAMPLE_LIMITED_S]
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

    def _look(self) -> None:
        """Sample the tree's memory and hold the limits."""
        now = time.monotonic()
        memory = sum(_resident_bytes(pid) for pid in descendants(os.getpid()))
        limit = self._memory_limit
        if limit is not None and memory > limit:
            # Processes that were forked share pages; the dear count, that halves them, decides.
            memory = sum(_proportional_bytes(pid) for pid in descendants(os.getpid()))
            if memory > limit:
                reason = f"used {memory / 2**20:.0f} MiB of memory, over its limit of {limit / 2**20:.0f} MiB"
                self._end(_exit("out_of_memory", reason), 0)
        self._memory_peak = max(self._memory_peak, memory)
        over = self._time_limit_s is not None and now - self._began >= self._time_limit_s
        if over and self._doom is None:
            self._end(_exit("over_time", f"ran longer than {self._time_limit_s:g} s"), OVER_TIME_GRACE_S)
        if self._kill_at is not None and now >= self._kill_at:
            self._signal_all(signal.SIGKILL)

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
        pids = descendants(os.getpid())
        if number == signal.SIGKILL:
            for pid in pids:
                _kill(pid, signal.SIGSTOP)  # so that none forks while we walk
            pids = descendants(os.getpid())
        for pid in pids:
            _kill(pid, number)

    def _sweep(self) -> None:
        """End what the first process left behind, and wait for the last of it."""
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
        if code >= 0:
            return _exit("ok" if code == 0 else "failed", f"exit status {code}" if code else "", code)
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
        read, written = (after - before for after, before in zip(_io(), self._moved, strict=True))
        record = {
            "format": 1,
            "key": self._key,
            "started_at": self._started_at_us,
            "ended_at": time.time_ns() // 1000,
            "exit": exit_,
            "usage": {
                "wall_s": time.monotonic() - self._began,
                "cpu_s": used.ru_utime + used.ru_stime,
                "memory_peak_bytes": max(self._memory_peak, used.ru_maxrss * 1024),
                # Of a single process it is exact; of a tree it is the highest that a look has met.
                "memory_peak_is_exact": used.ru_maxrss * 1024 >= self._memory_peak,
                "read_bytes": read,
                "written_bytes": written,
            },
        }
        path = os.path.join(self._folder, "end.json")
        try:
            with open(path + ".new", "w") as file:
                json.dump(record, file)
            os.rename(path + ".new", path)
        except OSError:
            pass  # a full disk: the control process still hears of it
        self._supervisor.send({"event": "ended", **record})


def children(pid: int) -> list[int]:
    """The children of a process, of whichever of its threads."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    found = children(pid)
    for one in found:  # grows as we walk
        found += children(one)
    return found


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return _resident_bytes(pid)


def _io() -> tuple[int, int]:
    """Bytes read and written by this process and by children that it has waited for."""
    try:
        with open("/proc/self/io") as file:
            words = file.read().split()
        return int(words[1]), int(words[3])
    except OSError:
        return 0, 0


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


if __name__ == "__main__":
    main()
