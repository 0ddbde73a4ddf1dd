"""A process whose changes of files are seen before they happen, and can be its last, or find the disk full.

The kernel itself asks: a seccomp filter stops each system call that changes a file and hands it to us, so
what SQLite, Arrow, DuckDB or a thread of theirs does counts as much as what Python does. Linux on x86-64.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

_CREATING = os.O_CREAT | os.O_TRUNC
_OPENS = {2: "open", 257: "openat"}
_CALLS = {
    **_OPENS,
    1: "write",
    18: "pwrite",
    20: "writev",
    296: "pwritev",
    328: "pwritev",
    40: "sendfile",
    326: "copy_file_range",
    285: "fallocate",
    76: "truncate",
    77: "ftruncate",
    74: "fsync",
    75: "fdatasync",
    277: "sync_file_range",
    82: "rename",
    264: "renameat",
    316: "renameat",
    86: "link",
    265: "linkat",
    88: "symlink",
    266: "symlinkat",
    87: "unlink",
    263: "unlinkat",
    83: "mkdir",
    258: "mkdirat",
    84: "rmdir",
    90: "chmod",
    91: "fchmod",
    268: "fchmodat",
    280: "utimensat",
}
"""Number to name, of x86-64."""
_SYNCS = {"fsync", "fdatasync", "sync_file_range"}
_NAMES_A_FILE = {"fchmod", "ftruncate", "fallocate", "write", "pwrite", "writev", "pwritev"} | _SYNCS
TAKES_ROOM = {
    *("open", "openat", "write", "pwrite", "writev", "pwritev", "sendfile", "copy_file_range", "fallocate"),
    *("rename", "renameat", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat"),
}
"""What fails on a full disk; that which removes, syncs or marks goes on."""

_AUDIT_ARCH_X86_64 = 0xC000003E
_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER = 317, 1, 8
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_RECV, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


CAN_WATCH = sys.platform.startswith("linux") and platform.machine() == "x86_64"


def watched() -> int:
    """From here on this process waits at each change of a file until whoever has this descriptor answers."""
    if _libc.prctl(38, 1, 0, 0, 0):  # no new privileges: who has none may watch himself only then
        raise OSError(ctypes.get_errno(), "prctl")
    code = _filter()
    program = _Program(len(code) // 8, code)
    listener: int = _libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def _filter() -> bytes:
    """Asks about the calls above, and of those that open a file about those that may make one."""
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    ask, allow = 0x7FC00000, 0x7FFF0000

    def instruction(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_so, if_not, value)

    parts = [
        instruction(load, 4),
        instruction(equal, _AUDIT_ARCH_X86_64, 1, 0),
        instruction(answer, allow),
        instruction(load, 0),
    ]
    for number, name in _CALLS.items():
        if number not in _OPENS:
            parts += [instruction(equal, number, 0, 1), instruction(answer, ask)]
            continue
        flags = 24 if name == "open" else 32
        parts += [
            instruction(equal, number, 0, 4),
            instruction(load, flags),
            instruction(any_bit, _CREATING, 0, 1),
            instruction(answer, ask),
            instruction(answer, allow),
        ]
    return b"".join([*parts, instruction(answer, allow)])


class Fate(StrEnum):
    """What happens at a step."""

    lives = "lives"
    dies = "dies"
    """The process is killed before it, or in the middle of a write."""
    full = "full"
    """From it on the disk has no room; a write that meets it gets half of its bytes in."""


@dataclass(frozen=True)
class Step:
    """One change of a file of ours, about to happen."""

    call: str
    path: str

    def __str__(self) -> str:
        return f"{self.call} {self.path}"


@dataclass
class Watch:
    """Answers for one process; counts its changes under `roots`, once it was told to begin."""

    process: int
    listener: int
    roots: tuple[Path, ...]
    fate: Fate = Fate.lives
    at: int = 0
    steps: list[Step] | None = None
    """The changes since the beginning; nobody counts before and after."""
    is_met: bool = False
    """Whether the step was come to at which fate was due."""
    is_torn: bool = False
    """Whether a write in which the process dies gets half of its bytes in."""
    _roots: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._roots = tuple(f"{root}/" for root in self.roots)

    def begin(self) -> None:
        self.steps = []

    def end(self) -> None:
        self.steps = None

    def answer(self) -> None:
        """Answer one call that waits."""
        buffer = array.array("B", bytes(_NOTIFICATION.size))
        try:
            fcntl.ioctl(self.listener, _RECV, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # who asked is gone
                return
            raise
        ident, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        try:
            value, failure = self._decided(thread, _CALLS[number], arguments)
        except ProcessLookupError:
            return
        go_on = _CONTINUE if failure == 0 and value is None else 0
        with suppress(FileNotFoundError):
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(ident, value or 0, -failure, go_on))

    def _decided(self, thread: int, call: str, arguments: list[int]) -> tuple[int | None, int]:
        """What the call answers instead of happening, or nothing; and which error."""
        path = self._path(thread, call, arguments)
        if path is None or not path.startswith(self._roots):
            return None, 0
        instead = 0 if call in _SYNCS else None  # only processes die here, so that nothing needs a disk
        if self.steps is None:
            return instead, 0
        if call in _OPENS.values() and os.path.exists(path):
            flags = arguments[1 if call == "open" else 2]
            if not flags & os.O_TRUNC or os.path.getsize(path) == 0:
                return instead, 0
        if call.startswith("mkdir") and os.path.exists(path):
            return instead, 0
        number = len(self.steps)
        self.steps.append(Step(call, path))
        if self.fate is Fate.lives or number < self.at:
            return instead, 0
        is_first, self.is_met = not self.is_met, True
        if self.fate is Fate.dies:
            if is_first and self.is_torn and call in ("write", "pwrite"):
                self._write_half(call, arguments)
            os.kill(self.process, signal.SIGKILL)
            raise ProcessLookupError
        if call not in TAKES_ROOM:
            return instead, 0
        if is_first and call in ("write", "pwrite") and (half := self._write_half(call, arguments)):
            return half, 0
        return None, errno.ENOSPC

    def _path(self, thread: int, call: str, arguments: list[int]) -> str | None:
        try:
            if call in _NAMES_A_FILE:
                return self._open_file(thread, arguments[0])
            if call in ("sendfile", "copy_file_range"):
                return self._open_file(thread, arguments[0 if call == "sendfile" else 2])
            if call == "linkat":
                return self._named(thread, arguments[2], arguments[3])
            if call == "symlinkat":
                return self._named(thread, arguments[1], arguments[2])
            if call in ("link", "symlink", "rename"):
                return self._named(thread, None, arguments[1])
            if call == "renameat":
                return self._named(thread, arguments[2], arguments[3])
            if call.endswith("at"):
                return self._named(thread, arguments[0], arguments[1])
            return self._named(thread, None, arguments[0])
        except FileNotFoundError:
            return None

    def _open_file(self, thread: int, descriptor: int) -> str:
        return os.readlink(f"/proc/{thread}/fd/{descriptor & 0xFFFFFFFF}").removesuffix(" (deleted)")

    def _named(self, thread: int, folder: int | None, at: int) -> str:
        if at == 0:  # a call about the descriptor itself
            return self._open_file(thread, folder or 0)
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            memory.seek(at)
            name = b""
            while b"\0" not in name:
                page = memory.read(256)
                if not page:
                    break
                name += page
        path = os.fsdecode(name.split(b"\0", 1)[0])
        if path.startswith("/"):
            return os.path.normpath(path)
        here = ctypes.c_int(folder & 0xFFFFFFFF).value if folder is not None else -100
        base = os.readlink(f"/proc/{thread}/cwd") if here == -100 else self._open_file(thread, here)
        return os.path.normpath(os.path.join(base, path))

    def _write_half(self, call: str, arguments: list[int]) -> int:
        """Carry out the first half of a write in the process's own file."""
        descriptor, at, length = arguments[0], arguments[1], arguments[2] // 2
        if not length:
            return 0
        process = _libc.syscall(_PIDFD_OPEN, self.process, 0)
        file = _libc.syscall(_PIDFD_GETFD, process, ctypes.c_int(descriptor & 0xFFFFFFFF), 0)
        os.close(process)
        if file < 0:
            return 0
        try:
            with open(f"/proc/{self.process}/mem", "rb", buffering=0) as memory:
                memory.seek(at)
                data = memory.read(length)
            return os.pwrite(file, data, arguments[3]) if call == "pwrite" else os.write(file, data)
        finally:
            os.close(file)


def serve(watch: Watch, also: int, hear: Callable[[], bool], *, timeout_s: float) -> bool:
    """Answer for the process until `hear`, called when `also` can be read, says that it is done, or the
    process is gone. False when it took longer than that."""
    poll = select.poll()
    poll.register(watch.listener, select.POLLIN)
    poll.register(also, select.POLLIN)
    while True:
        ready = dict(poll.poll(timeout_s * 1000))
        if not ready:
            return False
        if also in ready and not hear():
            return True
        events = ready.get(watch.listener, 0)
        if events & select.POLLIN:
            watch.answer()
        elif events:
            return True
