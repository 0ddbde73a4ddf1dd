"""What Slurm starts on a node: it starts the job's command, watches it, and says how it ended.

Run as a file by any Python from 3.9 on; standard library only; a copy of it lies beside the jobs. It declares
itself a subreaper, so that whatever the command starts, also what forks away and changes its session, stays
below it, can be measured, and is ended to the last process. It talks to nobody: files in the job's folder
tell it what to do (`stop.json`), and others what came of it (`start.json`, `use.json`, `end.json`).

Of several nodes, the keeper of the batch script starts a keeper for each rank by `srun`, and sums them up.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOK_S = 0.1  # how often we look for a wish to stop, and at memory where it is limited
FLOODED = "it printed more than its pool keeps (most_output_bytes)"
USE_S = 5.0  # how often use.json is written, and memory looked at where it is not limited
END_BYTES = 8192
OVER_TIME_GRACE_S = 2.0
FOREIGN_GRACE_S = 20.0  # when Slurm ends us: less than the 30 s (KillWait) after which it kills
RANKS_WITHIN_S = 60.0  # how long a rank waits to hear where the first one is
FIRST_PORT, MOST_TRIES = 20000, 500
TEMPORARY = 75  # EX_TEMPFAIL: this start does not count
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PASSED_ON = (
    "SLURMD_NODENAME",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "GPU_DEVICE_ORDINAL",
    "TMPDIR",
)
OURS = ("SLURM_JWT", "SLURM_EXPORT_ENV", "SLURM_GET_USER_ENV")

Record = dict[str, Any]

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    folder = sys.argv[1]
    for name in OURS:
        os.environ.pop(name, None)  # a token is for those who submit; `srun` would try it on the nodes
    signal.signal(signal.SIGTERM, _told_to_end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    launch = read(folder, "launch.json")
    if launch is None:
        sys.exit("the folder of this job is gone: " + folder)
    if len(sys.argv) > 2:
        sys.exit(run_rank(folder, launch, int(os.environ["SLURM_PROCID"])))
    now = time.time_ns() // 1000
    if os.path.exists(os.path.join(folder, "stop.json")):
        record = ended(launch, now, now, how("cancelled", "stopped before it started"))
        write_once(folder, "end.json", record)
        return
    start = {
        "job_id": int(os.environ["SLURM_JOB_ID"]),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        "node": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        "pid": os.getpid(),
        "at": now,
    }
    if os.path.exists(os.path.join(folder, "end.json")) or not write_once(folder, "start.json", start):
        sys.stdout.write("Slurm starts this job once more; it was started before, so nothing is done\n")
        sys.exit(TEMPORARY)
    reserve(folder)
    sys.exit(run_ranks(folder, launch) if launch["nodes"] > 1 else run_alone(folder, launch))


def run_alone(folder: str, launch: Record) -> int:
    environment = environment_of(folder)
    os.unlink(os.path.join(folder, "env.json"))
    if launch["listens"]:
        port = free_port()
        environment["FOURFOLD_PORT"] = str(port)
        write(folder, "address.json", {"address": f"{our_name()}:{port}"})
    log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    record = Watch(folder, launch, launch["argv"], environment, log).run()
    write_once(folder, "end.json", record)
    return status_of(record)


def run_ranks(folder: str, launch: Record) -> int:
    """Start a keeper on each node, and say how all of it ended once the last has."""
    nodes = str(launch["nodes"])
    argv = ["srun", "--nodes=" + nodes, "--ntasks=" + nodes, "--ntasks-per-node=1", "--kill-on-bad-exit=1",
            "--cpus-per-task=" + str(launch["cpus"]), "--export=ALL", "--input=none", "--quiet",
            sys.executable, "-I", "-S", os.path.abspath(__file__), folder, "rank"]  # fmt: skip
    log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # The ranks keep the limits and heed the wish to stop; we end `srun` only when they do not.
    patient = dict(launch, time_limit_s=None, memory_limit_bytes=None, cwd="/")
    record = Watch(folder, patient, argv, dict(os.environ), log, is_head=True).run()
    ranks = [read(folder, f"end.{rank}.json") for rank in range(launch["nodes"])]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, "env.json"))
    record = sum_up(record, ranks)
    write_once(folder, "end.json", record)
    return status_of(record)


def sum_up(head: Record, ranks: list[Record | None]) -> Record:
    """The job's end from those of its ranks: of those that failed, the one that failed first."""
    told = [each for each in ranks if each is not None]
    is_flooded = head["exit"]["reason"] == FLOODED
    own = [each for each in told if not each["was_told"]]  # others were ended because one had failed
    failed = [each for each in own if each["exit"]["kind"] != "ok"]
    if failed and not is_flooded:
        first = min(failed, key=lambda each: (each["exit"]["kind"] == "worker_lost", each["ended_at"]))
        head = dict(head, exit=first["exit"])
    elif len(own) == len(ranks):
        head = dict(head, exit=how("ok", "", 0))
    elif head["exit"]["kind"] in ("ok", "failed") and not is_flooded:
        lost = [str(rank) for rank, each in enumerate(ranks) if each is None]
        head = dict(head, exit=how("worker_lost", "no word came from rank " + (", ".join(lost) or "any")))
    usage: Record = dict(head["usage"])
    for name in ("cpu_s", "memory_peak_bytes", "read_bytes", "written_bytes"):
        usage[name] = sum(each["usage"][name] for each in told)
    usage["memory_peak_is_exact"] = all(each["usage"]["memory_peak_is_exact"] for each in told)
    return dict(head, usage=usage)


def run_rank(folder: str, launch: Record, rank: int) -> int:
    environment = environment_of(folder)
    if rank == 0:
        write(folder, "master.json", {"host": our_name(), "port": free_port()})
    deadline = time.monotonic() + RANKS_WITHIN_S
    while (master := read(folder, "master.json")) is None:
        if time.monotonic() > deadline:
            sys.exit("rank 0 has not said where it is")
        time.sleep(0.05)
    environment.update(
        RANK=str(rank),
        WORLD_SIZE=str(launch["nodes"]),
        LOCAL_RANK="0",
        MASTER_ADDR=master["host"],
        MASTER_PORT=str(master["port"]),
    )
    if launch["listens"]:
        port = free_port()
        environment["FOURFOLD_PORT"] = str(port)
        if rank == 0:
            write(folder, "address.json", {"address": f"{our_name()}:{port}"})
    record = Watch(folder, launch, launch["argv"], environment, 1, use=f"use.{rank}.json").run()
    write(folder, f"end.{rank}.json", record)
    return status_of(record)


def environment_of(folder: str) -> dict[str, str]:
    """What was given, what Slurm says of the job and its devices, and nothing else."""
    found = {key: value for key, value in os.environ.items() if key.startswith("SLURM_") or key in PASSED_ON}
    found.update(read(folder, "env.json") or {})
    found["FOURFOLD_JOB"] = folder
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    found["FOURFOLD_START"] = f"{os.environ['SLURM_JOB_ID']}.{restart}"
    found["FOURFOLD_UNIT"] = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    return found


class Watch:
    """Starts one command, watches its limits, and returns when the last of its processes has ended."""

    def __init__(
        self,
        folder: str,
        launch: Record,
        argv: list[str],
        environment: dict[str, str],
        log: int,
        *,
        use: str = "use.json",
        is_head: bool = False,
    ) -> None:
        self._folder, self._launch, self._argv = folder, launch, argv
        self._environment, self._log, self._use, self._is_head = environment, log, use, is_head
        self._memory_limit: float | None = launch["memory_limit_bytes"]
        self._time_limit_s: float | None = launch["time_limit_s"]
        self._most_output: int = launch["most_output_bytes"]
        self._memory_peak = 0
        self._doom: Record | None = None  # how we shall say it ended, once we decided to end it
        self._kill_at: float | None = None
        self._was_told = False

    def run(self) -> Record:
        self._oom_kills, self._moved = oom_kills(), moved_bytes()
        self._began, self._started_at = time.monotonic(), time.time_ns() // 1000
        self._used_at = self._began + USE_S
        try:
            leader = spawn(self._argv, self._environment, self._launch["cwd"], self._log)
        except OSError as error:
            what = error.filename or self._argv[0]
            return self._record(how("failed", f"cannot start: {what}: {error.strerror}", 127))
        poll = select.poll()
        poll.register(os.pidfd_open(leader), select.POLLIN)
        while True:
            poll.poll(self._patience_s() * 1000 + 1)  # it rounds down; the extra one keeps it from spinning
            pid, status = os.waitpid(leader, os.WNOHANG)
            if pid:
                break
            self._look()
        self._sweep()
        self._cut_output()
        return self._record(self._doom or self._how_it_ended(status))

    def _patience_s(self) -> float:
        now, waits = time.monotonic(), [LOOK_S]
        if self._kill_at is not None:
            waits.append(self._kill_at - now)
        elif self._time_limit_s is not None:
            waits.append(self._began + self._time_limit_s - now)
        return max(0.0, min(waits))

    def _look(self) -> None:
        now = time.monotonic()
        self._heed()
        if self._memory_limit is not None or now >= self._used_at:
            self._weigh()
        if now >= self._used_at:
            self._used_at = now + USE_S
            with contextlib.suppress(OSError):
                write(self._folder, self._use, self._record(None))
        limit = self._time_limit_s
        if limit is not None and now - self._began >= limit and self._doom is None:
            self._end(how("over_time", f"ran longer than {limit:g} s"), OVER_TIME_GRACE_S)
        if self._doom is None and os.fstat(self._log).st_size > self._most_output:
            self._doom, self._kill_at = how("failed", FLOODED), now
        if self._kill_at is not None and now >= self._kill_at:
            signal_all(signal.SIGKILL)

    def _cut_output(self) -> None:
        """Give up what it has printed beyond its bound: since the last look, or before the end was seen."""
        more = os.fstat(self._log).st_size - self._most_output
        if more > 0:
            os.ftruncate(self._log, self._most_output)
            os.write(self._log, f"\n({more} bytes more were not kept)\n".encode())

    def _heed(self) -> None:
        """Whether somebody wants it to end."""
        stop = read(self._folder, "stop.json")
        if stop is not None:
            self._end(how("cancelled", "stopped"), float(stop["grace_s"]), is_told=True)
        elif os.path.exists(os.path.join(self._folder, "end.json")):
            # Somebody has said how it ended while we were out of reach: it must not go on.
            self._end(how("worker_lost", "given up while it was out of reach"), 0.0, is_told=True)
        elif _told:
            self._end(how("worker_lost", "Slurm ended it"), FOREIGN_GRACE_S, is_told=True)

    def _weigh(self) -> None:
        memory = sum(resident_bytes(pid) for pid in descendants(os.getpid()))
        limit = self._memory_limit
        if limit is not None and memory > limit:
            # Processes that were forked share pages; the dear count, that halves them, decides.
            memory = sum(proportional_bytes(pid) for pid in descendants(os.getpid()))
            if memory > limit:
                words = f"used {memory / 2**20:.0f} MiB of memory, over its limit of {limit / 2**20:.0f} MiB"
                self._end(how("out_of_memory", words), 0.0)
        self._memory_peak = max(self._memory_peak, memory)

    def _end(self, doom: Record, grace_s: float, *, is_told: bool = False) -> None:
        """Begin to end it; the first reason stays, a shorter grace counts."""
        is_first = self._doom is None
        self._doom = self._doom or doom
        self._was_told = self._was_told or (is_first and is_told)
        if self._is_head:  # the ranks heed the same word; what is left of them goes when we do
            grace_s += FOREIGN_GRACE_S / 2
        kill_at = time.monotonic() + grace_s
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if grace_s <= 0:
            signal_all(signal.SIGKILL)
        elif is_first and not self._is_head:
            signal_all(signal.SIGTERM)

    def _sweep(self) -> None:
        """End what the first process left behind, and wait for the last of it."""
        while True:
            # A job that was asked to stop gives all its processes the grace; one that ended has no others.
            if self._doom is not None:
                self._heed()
            patient = self._kill_at is not None and time.monotonic() < self._kill_at
            if not patient:
                signal_all(signal.SIGKILL)
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                time.sleep(0.005)

    def _how_it_ended(self, status: int) -> Record:
        self._heed()  # it may have heard the word that meant us before we did
        if self._doom is not None:
            return self._doom
        if os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
            return how("failed" if code else "ok", f"exit status {code}" if code else "", code)
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name
        if number == signal.SIGKILL and oom_kills() > self._oom_kills:
            return how("out_of_memory", "the kernel ended it because memory ran out", -number)
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            return how("worker_lost", "ended from outside by " + name, -number)
        return how("failed", "crashed with " + name, -number)

    def _record(self, exit_: Record | None) -> Record:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        now_read, now_written = moved_bytes()
        cpu_s, memory = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
        if exit_ is None:
            cpu_s += sum(cpu_seconds(pid) for pid in descendants(os.getpid()))
        usage = {
            "wall_s": time.monotonic() - self._began,
            "cpu_s": cpu_s,
            "memory_peak_bytes": max(self._memory_peak, memory),
            # Of a single process it is exact; of a tree it is the highest that a look has met.
            "memory_peak_is_exact": exit_ is not None and memory >= self._memory_peak,
            "read_bytes": now_read - self._moved[0],
            "written_bytes": now_written - self._moved[1],
        }
        now = time.time_ns() // 1000
        return ended(self._launch, self._started_at, now, exit_, usage, was_told=self._was_told)


def spawn(argv: list[str], environment: dict[str, str], cwd: str, log: int) -> int:
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
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(null, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(cwd)
            os.execvpe(argv[0], argv, environment)  # noqa: S606 - no shell is meant
        except OSError as error:
            os.write(told, json.dumps([error.errno, error.strerror, error.filename]).encode())
        finally:
            os._exit(127)
    os.close(told)
    os.close(null)
    failure = os.read(tell, 4096)  # empty once the exec has closed the pipe
    os.close(tell)
    if failure:
        os.waitpid(pid, 0)
        number, text, name = json.loads(failure)
        raise OSError(number, text, name)
    return pid


def ended(
    launch: Record,
    started_at: int,
    ended_at: int,
    exit_: Record | None,
    usage: Record | None = None,
    *,
    was_told: bool = False,
) -> Record:
    return {
        "format": 1,
        "key": launch["key"],
        "job_id": int(os.environ.get("SLURM_JOB_ID", "0")),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "started_at": started_at,
        "ended_at": ended_at,
        "exit": exit_,
        "usage": usage,
        "was_told": was_told,
    }


def how(kind: str, reason: str, code: int | None = None) -> Record:
    return {"kind": kind, "reason": reason, "code": code}


def status_of(record: Record) -> int:
    """The exit status that Slurm shall show."""
    code: int | None = record["exit"]["code"]
    if code is None:
        return 0 if record["exit"]["kind"] == "ok" else 1
    return code if code >= 0 else 128 - code


def free_port() -> int:
    """A port that no other job of ours gets while we live, below those that the kernel picks from itself."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            end = int(file.read().split()[0])
    except (OSError, ValueError):
        end = 32768
    count = end - FIRST_PORT if end > FIRST_PORT + MOST_TRIES else 10000
    start = int.from_bytes(os.urandom(4), "little")
    for step in range(MOST_TRIES):
        port = FIRST_PORT + (start + step) % count
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(OSError), socket.socket() as probe:
            held.bind(f"\0fourfold-port-{port}")
            probe.bind(("", port))
            _held.append(held)
            return port
        held.close()
    sys.exit("no free port was found")


_held: list[socket.socket] = []


def our_name() -> str:
    """The name by which others reach this machine: its own, or its address where names are not known."""
    name = socket.gethostname()
    try:
        if not socket.gethostbyname(name).startswith("127."):
            return name
    except OSError:
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it asks which of our addresses would be used
            address: str = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
        return address


def read(folder: str, name: str) -> Record | None:
    try:
        with open(os.path.join(folder, name), "rb") as file:
            found: Record = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return found


def write(folder: str, name: str, record: Record) -> None:
    path = os.path.join(folder, name)
    new = f"{path}.{socket.gethostname()}.{os.getpid()}"
    with open(new, "w") as file:
        json.dump(record, file)
    os.rename(new, path)


def reserve(folder: str) -> None:
    """Keep room for the word of the end, so that a job which fills the disk has one too."""
    with contextlib.suppress(OSError):
        descriptor = os.open(_beside(folder, "end.json"), os.O_WRONLY | os.O_CREAT, 0o600)
        with contextlib.suppress(OSError):
            os.posix_fallocate(descriptor, 0, END_BYTES)
        os.close(descriptor)


def _beside(folder: str, name: str) -> str:
    return os.path.join(folder, f"{name}.{socket.gethostname()}.{os.getpid()}")


def write_once(folder: str, name: str, record: Record) -> bool:
    """Write a file that is not there yet; whether it is ours that is there now."""
    path, new = os.path.join(folder, name), _beside(folder, name)
    try:
        with open(new, "r+" if os.path.exists(new) else "w") as file:  # in the room that is kept for it
            json.dump(record, file)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        os.link(new, path)
    except FileExistsError:
        # Over a network the answer to a link may be lost, and the link be made all the same.
        return os.stat(new).st_nlink == 2
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return False  # a full disk: Slurm still tells how it ended
        raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(new)
    return True


_told: list[int] = []


def _told_to_end(number: int, _frame: object) -> None:
    _told.append(number)


def signal_all(number: signal.Signals) -> None:
    pids = descendants(os.getpid())
    if number == signal.SIGKILL:
        for pid in pids:
            kill(pid, signal.SIGSTOP)  # so that none forks while we walk
        pids = descendants(os.getpid())
    for pid in pids:
        kill(pid, number)


def kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


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


def resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return resident_bytes(pid)


def cpu_seconds(pid: int) -> float:
    """Of a process and of those that it has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
        return sum(int(word) for word in words[11:15]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def moved_bytes() -> tuple[int, int]:
    """Bytes read and written by this process and by children that it has waited for."""
    try:
        with open("/proc/self/io") as file:
            words = file.read().split()
        return int(words[1]), int(words[3])
    except OSError:
        return 0, 0


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory since it started."""
    try:
        with open("/proc/vmstat") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, StopIteration):
        return 0


if __name__ == "__main__":
    main()
