"""Runs one container's command as a process: the node's small runtime, a program of its own.

Standard library only. Its standard input is one line of JSON; on its standard output it tells, a line each,
that the command runs and how it ended. It is a subreaper, so what the command starts stays below it and ends
with it, as in a container; and it dies with who started it. SIGTERM is passed on, SIGUSR1 ends all by force.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from typing import Any

LOOK_MS = 30
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    libc = ctypes.CDLL(None)
    parent = os.getppid()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    spec = json.loads(sys.stdin.readline())
    try:
        pid = start(spec, libc)
    except OSError as error:
        name = spec["argv"][0]
        tell({"cannot_start": f'exec: "{name}": stat {name}: {(error.strerror or "").lower()}'})
        return
    tell({"pid": pid})
    status, is_out_of_memory = watch(pid, wake, spec.get("memory_limit_bytes"))
    end_all()
    code = os.waitstatus_to_exitcode(status)
    tell({"code": 128 - code if code < 0 else code, "is_out_of_memory": is_out_of_memory})


def start(spec: dict[str, Any], libc: ctypes.CDLL) -> int:
    environment = {os.fsencode(name): os.fsencode(text) for name, text in spec["env"].items()}
    argv = [os.fsencode(word) for word in spec["argv"]]
    output = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    read, written = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            for there, here in ((0, null), (1, output), (2, output)):
                os.dup2(here, there)
            os.chdir(spec["cwd"])
            os.execvpe(argv[0], argv, environment)  # noqa: S606 - no shell is meant
        except OSError as error:
            os.write(written, str(error.errno).encode())
        finally:
            os._exit(127)
    for fd in (written, output, null):
        os.close(fd)
    failure = os.read(read, 16)
    os.close(read)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int(failure), os.strerror(int(failure)))
    return pid


def watch(pid: int, wake: int, limit_bytes: int | None) -> tuple[int, bool]:
    """Wait for the command, with its memory held below its limit."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    for fd in (pidfd, wake):
        poll.register(fd, select.POLLIN)
    is_out_of_memory = False
    while True:
        ready = {fd for fd, _ in poll.poll(None if limit_bytes is None else LOOK_MS)}
        if pidfd in ready:
            return os.waitpid(pid, 0)[1], is_out_of_memory
        if wake in ready and signal.SIGUSR1 in os.read(wake, 64):
            kill(pid, signal.SIGKILL)
        elif wake in ready:
            kill(pid, signal.SIGTERM)
        if limit_bytes is not None and sum(map(resident_bytes, descendants(os.getpid()))) > limit_bytes:
            is_out_of_memory = True
            kill(pid, signal.SIGKILL)


def end_all() -> None:
    """End whatever is left of the container."""
    while left := descendants(os.getpid()):
        for pid in left:
            kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def descendants(pid: int) -> list[int]:
    found = children(pid)
    for one in found:  # grows as we walk
        found += children(one)
    return found


def children(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    return found


def resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def tell(what: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
