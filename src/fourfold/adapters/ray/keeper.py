"""Runs on a node of the cluster: starts one job's command, holds its limits, keeps its output, tells its end.

Shipped to the cluster with the files that it imports, so it needs only the standard library, and runs
on Python 3.10. It is two processes. The *guard* is what Ray starts and kills. The *keeper*, in a session of
its own, starts the command and is a subreaper, so whatever the command starts stays below it. Each ends the
job when the other is gone: Ray kills only the process group that it started.

All that a reader needs is a file in Ray's own folder of logs, which Ray's state API serves from any node:

    fourfold/<job>/state.json    when it began, its port, what it used, and how it ended
    fourfold/<job>/out.000000    its output, as written, in pieces of one mebibyte
    fourfold/<job>/end-now       the keeper notices when this is read: a stop's grace is over
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # -I leaves it out

from fourfold.adapters.ray.output import Output, Stream, say
from fourfold.adapters.ray.processes import (
    cpu_seconds,
    descendants,
    io_bytes,
    kill,
    oom_kills,
    proportional_bytes,
    resident_bytes,
)
from fourfold.core.trace import Trace

SPEC = "FOURFOLD_LAUNCH"
MARK = "FOURFOLD_JOB"
END_LINE = "fourfold: "
"""Begins the last line of Ray's log of a job: Ray gives it with the job's state, so that a list tells all."""
LOOK_S = 0.5
LOOK_LIMITED_S = 0.05
TOLD_EVERY_S = 5.0
OVER_TIME_GRACE_S = 2.0
KNOCK_VALID_S = 20.0
MOST_REMOVED = 20
PASSED_ON = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
PASSED_ON_BEGINNINGS = ("LC_", "RAY_", "CUDA_", "NVIDIA_", "AWS_", "AZURE_", "GOOGLE_", "ICEBERG_")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IN_OPEN = 0x20
IN_CLOEXEC = 0o2000000

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    wake, woken = os.pipe()  # a signal writes here; both processes read it
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    spec = json.loads(base64.b64decode(os.environ[SPEC]))
    folder = spec.get("folder") or folder_of(spec["job"])
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    lives, life = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            os.close(life)
            os.close(wake)
            wake, woken = os.pipe()
            os.set_blocking(woken, False)
            signal.set_wakeup_fd(woken)
            code = Keeper(spec, folder, lives, wake).run()
        except BaseException:
            say(traceback.format_exc())
        finally:
            os._exit(code)
    os.close(lives)
    sys.exit(guard(pid, folder, wake, parent=0 if spec.get("streams") else None))


def folder_of(job: str) -> str:
    """The job's folder in Ray's folder of logs, which is where Ray has put our standard output."""
    log = os.readlink("/proc/self/fd/1")
    logs = os.environ.get("FOURFOLD_LOGS") or os.path.dirname(log)
    if not os.path.isdir(logs):
        say(f"standard output is {log}, which is not in a folder of logs\n")
        sys.exit(70)
    return os.path.join(logs, "fourfold", job)


def guard(keeper: int, folder: str, wake: int, *, parent: int | None) -> int:
    """Wait for the keeper; when it was killed, end what it left. `parent` closes with who started us."""
    pidfd = os.pidfd_open(keeper)
    poll = select.poll()
    for fd in (pidfd, wake, *([] if parent is None else [parent])):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if parent in ready:
            os._exit(70)  # the keeper sees us gone
        if wake in ready:
            os.read(wake, 64)
            kill(keeper, signal.SIGTERM)
        if pidfd in ready:
            break
    _, status = os.waitpid(keeper, 0)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    while left := descendants(os.getpid()):
        for pid in left:
            kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)
    state = read_state(folder)
    state["exit"] = {"kind": "worker_lost", "reason": "its keeper was killed", "code": None}
    state["ended_at"] = now_us()
    write_state(folder, state)
    say(f"\n{END_LINE}{json.dumps(state)}\n")
    return 70


class Keeper:
    """Starts the command, watches its limits, and ends when the last of its processes has."""

    def __init__(self, spec: dict[str, Any], folder: str, lives: int, wake: int) -> None:
        self._spec = spec
        self._folder = folder
        self._lives = lives
        self._wake = wake
        self._memory_limit = spec.get("memory_limit_bytes")
        self._time_limit_s = spec.get("time_limit_s")
        self._grace_s = spec.get("grace_s", 30.0)
        self._trace = Trace()
        self._doom: dict[str, Any] | None = None
        self._kill_at: float | None = None
        self._knocked_at: float | None = None
        self._output: Output | Stream = Stream()
        self._told_at = 0.0
        self._looked_at = self._read_at = 0.0
        self._poll = select.poll()
        self._state: dict[str, Any] = {"format": 1, "key": spec["key"], "keeper": os.getpid()}
        self._state |= {"exit": None, "usage": {}}

    def run(self) -> int:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._make_folder()
        self._oom_kills = oom_kills()
        self._moved = io_bytes()
        self._began = time.monotonic()
        most_bytes = self._spec["most_output_bytes"]
        self._output = Stream() if self._spec.get("streams") else Output(self._folder, most_bytes)
        self._state["started_at"] = now_us()
        if self._spec.get("listens"):
            self._state["port"] = self._spec.get("port") or free_port()
        knocks = watch(os.path.join(self._folder, "end-now"))
        try:
            self._leader, self._pipe = self._spawn()
        except OSError as error:
            what = error.filename or self._spec["argv"][0]
            reason = f"cannot start: {what}: {error.strerror}"
            self._output.write(f"{reason}\n".encode())
            return self._finish(end("failed", reason, 127))
        self._tell()
        leader = os.pidfd_open(self._leader)
        for fd in (leader, self._pipe, self._lives, self._wake, *([] if knocks is None else [knocks])):
            self._poll.register(fd, select.POLLIN)
        while leader not in self._hear(self._patience_ms(), knocks):
            self._look()
        self._poll.unregister(leader)
        _, status = os.waitpid(self._leader, 0)
        self._sweep(knocks)
        while self._drain():
            pass
        return self._finish(self._doom or self._verdict() or self._how_it_ended(status))

    def _hear(self, patience_ms: float, knocks: int | None) -> set[int]:
        """Wait for what happens, and heed it."""
        ready = {fd for fd, _ in self._poll.poll(patience_ms)}
        if self._pipe in ready and self._drain() == b"":
            self._poll.unregister(self._pipe)
        if self._lives in ready:
            self._poll.unregister(self._lives)
            self._end(end("worker_lost", "Ray ended its driver"), 0)
        if knocks is not None and knocks in ready:
            os.read(knocks, 4096)
            self._knocked_at = time.monotonic()
            if self._doom is not None:
                self._end(self._doom, 0)
        if self._wake in ready:
            os.read(self._wake, 64)
            self._stop()
        return ready

    def _make_folder(self) -> None:
        parent = os.path.dirname(self._folder)
        os.makedirs(parent, mode=0o700, exist_ok=True)
        oldest = time.time() - self._spec.get("kept_s", 7 * 86400)
        with os.scandir(parent) as found:
            old = [each.path for each in found if each.stat().st_mtime < oldest]
        for path in sorted(old)[:MOST_REMOVED]:
            shutil.rmtree(path, ignore_errors=True)
        os.mkdir(self._folder, 0o700)  # there is one start of a job: another would find the folder
        with open(os.path.join(self._folder, "end-now"), "w") as file:
            file.write("Reading this file after a stop ends the job by force.\n")

    def _environment(self) -> dict[str, Any]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_ON or name.startswith(PASSED_ON_BEGINNINGS)
        }
        environment.update(dict.fromkeys(THREADS, str(self._spec.get("threads", 1))))
        if "port" in self._state:
            environment["FOURFOLD_PORT"] = str(self._state["port"])
        environment.update(self._spec["env"])
        environment[MARK] = self._folder
        return environment

    def _spawn(self) -> tuple[int, int]:
        argv = [os.fsencode(word) for word in self._spec["argv"]]
        environment = {os.fsencode(k): os.fsencode(v) for k, v in self._environment().items()}
        cwd = self._spec.get("cwd") or os.path.expanduser("~")
        null = os.open(os.devnull, os.O_RDONLY)
        output, written = os.pipe()
        tell, told = os.pipe()
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                os.setsid()
                _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != keeper:
                    os._exit(1)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                    signal.signal(number, signal.SIG_DFL)
                os.dup2(null, 0)
                os.dup2(written, 1)
                os.dup2(written, 2)
                os.chdir(cwd)
                os.execvpe(argv[0], argv, environment)  # noqa: S606 - no shell is meant
            except OSError as error:
                name = os.fsdecode(error.filename or argv[0])
                os.write(told, json.dumps([error.errno, error.strerror, name]).encode())
            finally:
                os._exit(127)
        for fd in (told, written, null):
            os.close(fd)
        failure = os.read(tell, 4096)  # empty once the exec has closed the pipe
        os.close(tell)
        if failure:
            os.waitpid(pid, 0)
            os.close(output)
            number, text, name = json.loads(failure)
            raise OSError(number, text, name)
        os.set_blocking(output, False)
        return pid, output

    def _patience_ms(self) -> float:
        now = time.monotonic()
        waits = [LOOK_S if self._memory_limit is None else LOOK_LIMITED_S]
        if self._kill_at is not None:
            waits.append(self._kill_at - now)
        elif self._time_limit_s is not None:
            waits.append(self._began + self._time_limit_s - now)
        return max(0.0, min(waits)) * 1000 + 1  # poll rounds down; the extra one keeps it from spinning

    def _drain(self) -> bytes | None:
        """Take some output: None when there is none for now, nothing when there will be none."""
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return None
        self._output.write(data)
        return data

    def _stop(self) -> None:
        knock = self._knocked_at
        is_forced = knock is not None and time.monotonic() - knock < KNOCK_VALID_S
        self._end(end("cancelled", "stopped"), 0 if is_forced else self._grace_s)

    def _look(self) -> None:
        """Sample the tree's memory and hold the limits."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_LIMITED_S / 2 and self._kill_at is None:
            return  # woken by output: a flood of it must not make us look all the time
        self._looked_at = now
        memory = sum(resident_bytes(pid) for pid in descendants(os.getpid()))
        limit = self._memory_limit
        if limit is not None and memory > limit:
            # Processes that were forked share pages; the dear count, that halves them, decides.
            memory = sum(proportional_bytes(pid) for pid in descendants(os.getpid()))
            if memory > limit:
                reason = f"used {memory / 2**20:.0f} MiB of memory, over its limit of {limit / 2**20:.0f} MiB"
                self._end(end("out_of_memory", reason), 0)
        self._add_reading(now, memory)
        over = self._time_limit_s is not None and now - self._began >= self._time_limit_s
        if over and self._doom is None:
            self._end(end("over_time", f"ran longer than {self._time_limit_s:g} s"), OVER_TIME_GRACE_S)
        if self._kill_at is not None and now >= self._kill_at:
            self._signal_all(signal.SIGKILL)
        if now - self._told_at >= TOLD_EVERY_S or self._hears_an_address():
            self._tell()

    def _end(self, doom: dict[str, Any], grace_s: float) -> None:
        """Begin to end the job; the first reason stays, a shorter grace counts."""
        is_first = self._doom is None
        self._doom = self._doom or doom
        kill_at = time.monotonic() + grace_s
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if grace_s <= 0:
            self._signal_all(signal.SIGKILL)
        elif is_first:
            self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        pids = descendants(os.getpid())
        if number == signal.SIGKILL:
            for pid in pids:
                kill(pid, signal.SIGSTOP)  # so that none forks while we walk
            pids = descendants(os.getpid())
        for pid in pids:
            kill(pid, number)

    def _sweep(self, knocks: int | None) -> None:
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
                self._hear(5, knocks)

    def _hears_an_address(self) -> bool:
        """Whether `gang.py` has just written where its first rank listens."""
        if "verdict" not in self._spec or "address" in self._state:
            return False
        try:
            with open(os.path.join(self._folder, "address")) as file:
                self._state["address"] = file.read()
        except OSError:
            return False
        return True

    def _verdict(self) -> dict[str, Any] | None:
        """How it ended in the words of a command that keeps others (`gang.py`)."""
        path = self._spec.get("verdict")
        try:
            with open(os.path.join(self._folder, path or "")) as file:
                verdict = json.load(file)
        except (OSError, ValueError):
            return None
        self._state["usage"] = verdict["usage"]
        return dict(verdict["exit"])

    def _how_it_ended(self, status: int) -> dict[str, Any]:
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return end("ok" if code == 0 else "failed", f"exit status {code}" if code else "", code)
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL and oom_kills() > self._oom_kills:
            return end("out_of_memory", "the kernel ended it because memory ran out", code)
        if -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            return end("worker_lost", f"ended from outside by {name}", code)
        return end("failed", f"crashed with {name}", code)

    def _moved_bytes(self) -> tuple[int, int]:
        read, written = io_bytes()
        return read - self._moved[0], written - self._moved[1]

    def _cpu_s(self) -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime + sum(cpu_seconds(pid) for pid in descendants(os.getpid()))

    def _add_reading(self, now: float, memory: int) -> None:
        self._trace.memory_peak_bytes = max(self._trace.memory_peak_bytes, memory)
        if now - self._read_at >= LOOK_S / 2:
            self._read_at = now
            read, written = self._moved_bytes()
            at_s, cpu_s = now - self._began, self._cpu_s()
            self._trace.add(at_s, cpu_s=cpu_s, memory_bytes=memory, read_bytes=read, written_bytes=written)

    def _usage(self) -> dict[str, Any]:
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        read, written = self._moved_bytes()
        peak = max(self._trace.memory_peak_bytes, largest)
        mean = self._trace.memory_mean_bytes if self._trace.points else float(largest)
        return {
            "wall_s": time.monotonic() - self._began,
            "cpu_s": self._cpu_s(),
            "memory_peak_bytes": peak,
            "memory_mean_bytes": round(min(mean, peak)),
            # Of a single process it is exact; of a tree it is the highest that a look has met.
            "memory_peak_is_exact": largest >= self._trace.memory_peak_bytes,
            "read_bytes": read,
            "written_bytes": written,
            "trace": self._trace.points,
        }

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        write_state(self._folder, {**self._state, "usage": self._usage()})

    def _finish(self, exit_: dict[str, Any]) -> int:
        self._output.close()
        state = self._state
        state["usage"] = state["usage"] or self._usage()
        state["exit"], state["ended_at"] = exit_, now_us()
        state["output_bytes"] = self._output.kept_bytes
        write_state(self._folder, state)
        if not self._spec.get("streams"):
            short = {**state, "usage": {k: v for k, v in state["usage"].items() if k != "trace"}}
            say(f"\n{END_LINE}{json.dumps(short)}\n")  # a list of jobs holds this of each that failed
        if exit_["kind"] == "ok":
            return 0
        code = exit_["code"]
        return 70 if code is None else code if 0 < code < 256 else 128 - code if -128 < code < 0 else 70


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def watch(path: str) -> int | None:
    """A descriptor that is readable once somebody has opened the file; None where that cannot be had."""
    fd = _libc.inotify_init1(IN_CLOEXEC)
    if fd < 0 or _libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(IN_OPEN)) < 0:
        return None
    return int(fd)


def read_state(folder: str) -> dict[str, Any]:
    try:
        with open(os.path.join(folder, "state.json")) as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {"format": 1, "usage": {}}


def write_state(folder: str, state: dict[str, Any]) -> None:
    path = os.path.join(folder, "state.json")
    with contextlib.suppress(OSError):  # a full disk: the last line of the log still tells the end
        with open(path + ".new", "w") as file:
            json.dump(state, file)
        os.rename(path + ".new", path)


def now_us() -> int:
    return time.time_ns() // 1000


def end(kind: str, reason: str, code: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "reason": reason, "code": code}


if __name__ == "__main__":
    main()
