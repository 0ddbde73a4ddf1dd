"""The small process that starts and ends jobs for the local engine. Standard library only (see `link.BOOT`).

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

import os
import select
import signal
import socket
import sys

from fourfold.adapters.local_engine import groups
from fourfold.adapters.local_engine.keeper import Keeper, adopt_orphans, groups_of
from fourfold.adapters.local_engine.lines import Lines
from fourfold.adapters.local_engine.processes import children, descendants, kill


def main() -> None:
    """Serve the control process at the other end of the socket."""
    control_fd, control_pid = int(sys.argv[1]), int(sys.argv[2])
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the control process
    try:
        control_pidfd = os.pidfd_open(control_pid)
    except ProcessLookupError:
        return
    Supervisor(socket.socket(fileno=control_fd), control_pidfd).run()


class Supervisor:
    """Forks keepers and passes messages between them and the control process."""

    def __init__(self, control: socket.socket, control_pidfd: int) -> None:
        self._control = Lines(control)
        self._control_pidfd = control_pidfd
        self._keepers: dict[int, tuple[str, int, Lines]] = {}  # by socket: key, pid, lines
        self._places: dict[int, tuple[dict[str, str] | None, str, int]] = {}  # by keeper: its job's groups
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
            self._lost(str(spec["key"]), f"cannot start a process: {error.strerror}")
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
        self._places[pid] = groups_of(spec)
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
            for group in groups.of_job(*self._places[pid]):
                group.remove()
            self._lost(key, "its keeper died")
        del self._places[pid]

    def _end_orphans(self) -> None:
        """Kill what a dead keeper left: it is now our child, and only keepers should be."""
        keepers = {pid for _, pid, _ in self._keepers.values()}
        while orphans := [pid for pid in children(os.getpid()) if pid not in keepers]:
            for orphan in orphans:
                for pid in (*descendants(orphan), orphan):
                    kill(pid, signal.SIGKILL)
                try:
                    os.waitpid(orphan, 0)
                except ChildProcessError:
                    continue

    def _lost(self, key: str, reason: str) -> None:
        exit_ = {"kind": "worker_lost", "reason": reason, "code": None}
        self._control.send({"event": "ended", "key": key, "exit": exit_})

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
