"""What an engine promises of the commands that it starts. The engine in memory starts none."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fourfold.core.errors import OutOfSpace
from fourfold.core.ports.engine import Exit, ExitKind, Launch, Phase
from fourfold.testing.engine.base import EngineKitBase

EVIL = (
    "",
    " ",
    "it's",
    'say "no"',
    "two\nlines",
    "tab\there",
    "$(touch /tmp/evil) `id` ${HOME}",
    "a;b && c | d > e < f & g",
    "*?[!x]~#!%s%%",
    "back\\slash\\",
    "-n",
    "--help",
    "\N{GRINNING FACE} \u00e9\u4e2d",
)
"""Words that a shell, a template or a job script would spoil."""

TELL = """
import json, os, sys
names = json.loads(sys.argv[1])
print(json.dumps([sys.argv[2:], {name: os.environ.get(name) for name in names}]))
"""

FORKS_AWAY = """
import fcntl, os, sys, time
told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        held = open(sys.argv[1], "w")
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(tell, b"1")
        for fd in (0, 1, 2):
            os.close(fd)
        time.sleep(600)
    os._exit(0)
os.wait()
os.read(told, 1)
print("forked", flush=True)
"""

FLOOD = """
import sys
line = bytes(range(33, 97)) + bytes([10])
for _ in range(int(sys.argv[1])):
    sys.stdout.buffer.write(line)
"""

GIGABYTE = """
import os
block = (b"x" * 63 + b"\\n") * (1 << 14)
for _ in range(1 << 10):
    left = block
    while left:
        left = left[os.write(1, left):]
"""

FILLS = """
import sys
try:
    with open(sys.argv[1], "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 65536)
except OSError as error:
    sys.exit(error.errno)
"""
FULL = 28
"""What `FILLS` ends with (`ENOSPC`)."""
DISK_BYTES = 8 << 20

BURN = """
import time
block = bytearray(96 << 20)
end = time.process_time() + 0.6
while time.process_time() < end: pass
time.sleep(0.2)
"""

ORPHAN_S = 5.0
"""Nothing outlives its job by more."""


class RunningCommands(EngineKitBase):
    """Words arrive as they were given, output as it was written, and nothing is left behind."""

    def test_words_and_settings_arrive_as_they_were_given(self) -> None:
        if not self.runs_commands:
            return
        with closing(self.open()) as engine:
            env = {f"EVIL_{index}": word for index, word in enumerate(EVIL)}
            argv = self.python(TELL, json.dumps(sorted(env)), *EVIL)
            engine.submit(Launch("a", argv, env=env))
            self.ended(engine, "a")
            arguments, seen = json.loads(self.output(engine, "a"))
            assert tuple(arguments) == EVIL
            assert seen == env

    def test_output_that_is_no_text_is_kept_byte_by_byte(self) -> None:
        if not self.runs_commands:
            return
        script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 3); sys.stdout.flush(); "
        script += "sys.stderr.buffer.write(b'\\xff\\xfe end')"
        with closing(self.open()) as engine:
            engine.submit(Launch("a", self.python(script)))
            self.ended(engine, "a")
            assert self.output(engine, "a") == bytes(range(256)) * 3 + b"\xff\xfe end"

    def test_a_command_that_does_not_exist_fails_and_its_name_is_told(self) -> None:
        if not self.runs_commands:
            return
        with closing(self.open()) as engine:
            engine.submit(Launch("a", ("/no/such/command", "argument")))
            exit_ = self.ended(engine, "a").exit
            assert exit_ is not None
            assert (exit_.kind, exit_.code) == (ExitKind.failed, 127)
            assert "/no/such/command" in exit_.reason + self.output(engine, "a").decode(errors="replace")

    def test_what_a_job_leaves_running_is_ended_with_it(self) -> None:
        if not self.runs_commands:
            return
        with closing(self.open()) as engine, tempfile.NamedTemporaryFile(dir=os.getcwd()) as file:
            if not engine.capabilities().shares_files:
                return  # nobody here could tell
            engine.submit(Launch("a", self.python(FORKS_AWAY, file.name)))
            exit_ = self.ended(engine, "a").exit
            assert exit_ is not None
            assert exit_.kind is ExitKind.ok
            is_gone = _is_unlocked(file.name, within_s=ORPHAN_S)
            if why := self.gaps.get("test_what_a_job_leaves_running_is_ended_with_it"):
                assert not is_gone, f"this gap has closed; take it from the list: {why}"
            else:
                assert is_gone, f"a process outlived its job by more than {ORPHAN_S:g} s"

    def test_much_output_is_read_piece_by_piece_without_loading_it(self) -> None:
        if not self.runs_commands:
            return
        count, width, piece = 120_000, 65, 100_000
        with closing(self.open()) as engine:
            engine.submit(Launch("a", self.python(FLOOD, str(count))))
            self.ended(engine, "a")
            near_end = count * width - piece - 1
            chunk = engine.logs("a", near_end, piece)
            assert len(chunk.data) <= piece
            assert chunk.next_offset == near_end + len(chunk.data)
            assert not chunk.is_end
            line = bytes(range(33, 97)) + b"\n"
            start = near_end % width
            assert (line * (piece // width + 2))[start : start + len(chunk.data)] == chunk.data
            last = engine.logs("a", count * width - 1)
            assert (last.data, last.is_end) == (b"\n", True)
            beyond = engine.logs("a", count * width)
            assert (beyond.data, beyond.is_end) == (b"", True)

    def test_a_gigabyte_of_output_is_held_and_others_go_on(self) -> None:
        if not self.runs_commands:
            return
        with closing(self.open()) as engine:
            engine.submit(Launch("flood", self.python(GIGABYTE)))
            engine.submit(Launch("other", self.python("print('ran')")))
            other, flood = self.ended(engine, "other").exit, self.ended(engine, "flood").exit
            assert other == Exit(ExitKind.ok, "", 0)
            assert self.output(engine, "other") == b"ran\n"
            assert flood is not None
            assert flood.kind is ExitKind.ok or (flood.kind, "printed more" in flood.reason) == (
                ExitKind.failed,
                True,
            )
            kept = self.output(engine, "flood")
            assert kept.startswith(b"x" * 63 + b"\n")
            assert len(kept) <= 1.5 * self.most_output_bytes

    def test_a_job_that_fills_the_disk_ends_and_others_go_on(self) -> None:
        if not self.runs_commands:
            return
        with _small_disk() as folder:
            if folder is None or (opened := self.open_in(folder / "jobs")) is None:
                return
            with closing(opened) as engine:
                filler = folder / "filler"
                engine.submit(Launch("fills", self.python(FILLS, str(filler))))
                exit_ = self.ended(engine, "fills").exit
                assert exit_ is not None
                assert (exit_.kind, exit_.code) == (ExitKind.failed, FULL), exit_
                assert engine.status(["fills"])["fills"].exit == exit_
                try:
                    engine.submit(Launch("no room", self.python("print('ran')")))
                except OutOfSpace:
                    assert engine.status(["no room"])["no room"].phase is Phase.unknown
                filler.unlink()
                engine.submit(Launch("other", self.python("print('ran')")))
                assert self.ended(engine, "other").exit == Exit(ExitKind.ok, "", 0)
                assert self.output(engine, "other") == b"ran\n"

    def test_output_is_seen_while_the_job_runs(self) -> None:
        if not self.runs_commands:
            return
        script = "import time; print('under way', flush=True); time.sleep(600)"
        with closing(self.open()) as engine:
            engine.submit(Launch("a", self.python(script)))
            self.eventually(lambda: b"under way" in engine.logs("a").data, "its first line is seen")
            assert not engine.logs("a").is_end
            assert engine.status(["a"])["a"].phase is Phase.running
            engine.stop("a", 0)
            self.ended(engine, "a")
            assert engine.logs("a").is_end

    def test_use_is_plausible(self) -> None:
        if not self.runs_commands:
            return
        with closing(self.open()) as engine:
            engine.submit(Launch("a", self.python(BURN)))
            self.ended(engine, "a")
            usage = engine.usage("a")
            assert usage.wall_s >= 0.5
            assert usage.cpu_s is None or 0.5 <= usage.cpu_s <= 3
            peak, mean = usage.memory_peak_bytes, usage.memory_mean_bytes
            assert peak is None or 90 << 20 <= peak <= 512 << 20
            assert mean is None or peak is None or 1 << 20 <= mean <= peak


@contextmanager
def _small_disk() -> Iterator[Path | None]:
    """A file system of some mebibytes; `None` where none can be made."""
    folder = tempfile.mkdtemp(dir=os.getcwd())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
    is_mounted = not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        yield Path(folder) if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", folder], check=False)
        os.rmdir(folder)


def _is_unlocked(path: str, *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    with open(path) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            else:
                return True
