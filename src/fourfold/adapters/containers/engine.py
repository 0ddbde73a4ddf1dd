"""Runs each job in a container of this machine.

podman's own records are the truth: they outlive us, and a container's name is taken once. Beside them each
job has a folder of ours with its output (written by the job itself), what was asked, and what we did to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import select
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fourfold.adapters.containers import groups, reading, traffic
from fourfold.adapters.containers.podman import KEY, PROJECT, Podman
from fourfold.adapters.containers.reading import Asked, Marks
from fourfold.adapters.containers.settings import ContainerSettings, check_image
from fourfold.core.compute import Unit
from fourfold.core.decide.match import check_abilities, match, refusal
from fourfold.core.decide.unit import offer_of
from fourfold.core.errors import OutOfSpace, Refused
from fourfold.core.ports.engine import (
    Capabilities,
    Exit,
    ExitKind,
    JobStatus,
    Launch,
    LogChunk,
    Offer,
    Phase,
    Resources,
    Usage,
)
from fourfold.core.times import SECOND_US, Instant, seconds_between

PORT = 8080
"""Inside; each container that listens has a network of its own, so it is always free."""
LEAST_MEMORY_BYTES = 8 << 20
"""Below, the container's first process cannot start."""
LOOK_S = 0.05
LONGEST_LOOK_S = 2.0
MOST_TOLD_BYTES = 100
"""A line of ours may be so long: output that is over its bound by no more has been cut, or needs it not."""
MOST_INSPECTED = 100
"""So many of those that ended since the last look are asked for all about them, in one command."""
MOST_KNOWN = 20_000
"""So many ends are kept in memory; others are asked for again."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
OURS = ("PATH", "HOME", "TMPDIR", "XDG_", "CONTAINER", "LD_", "GO", "DBUS_", "REGISTRY_", "STORAGE_", "_")
"""Variables that would change podman itself; they are told in its words instead of its environment."""


class ContainerEngine:
    """The engine of `podman://`."""

    def __init__(
        self,
        folder: Path,
        settings: ContainerSettings,
        *,
        label: str,
        unit: Unit,
        project: Path,
        price_usd_per_hour: float = 0.0,
    ) -> None:
        """`folder` holds our jobs; `label` tells our containers from those of others on the machine."""
        self._folder = folder.absolute()
        self._settings = settings
        self._label = label
        self._unit = unit
        self._project = project
        self._price_usd_per_hour = price_usd_per_hour
        self._podman = Podman(settings, self._folder)
        self._may_group: bool | None = None
        self._ended: dict[str, tuple[JobStatus, Usage]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ContainerEngine podman in {self._folder}>"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            services=True,
            memory_limit="enforced",
            time_limit=True,
            gpus=False,
            survives_control_restart=True,
            listens=True,
            nodes=False,
            images=True,
            shares_files=self._settings.project == "rw",
        )

    def offers(self, request: Resources) -> tuple[Offer, ...]:
        return match(request, self._offers())

    def submit(self, launch: Launch) -> None:
        check_abilities(launch, self.capabilities(), engine="podman")
        who = f"job '{launch.key}'"
        if not self.offers(launch.resources):
            raise refusal(launch.resources, self._offers(), who=who)
        image = self._image(launch, who)
        cwd = self._cwd(launch, who)
        folder = self._of(launch.key)
        name = folder.name
        try:
            with self._alone(name):
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    self._submit(launch, folder, name, image, cwd)
                except Refused:
                    self._give_up(folder)
                    raise
        except OSError as error:
            raise OutOfSpace(f"{who} has no place in {self._folder}: {error.strerror}") from error

    def _submit(self, launch: Launch, folder: Path, name: str, image: str, cwd: str) -> None:
        asked = _asked(folder)
        if (asked and asked.boot) or (folder / "stopped").exists():
            return
        found = self._podman.listed([f"name=^{name}$"])
        if not found:
            self._find_image(image, f"job '{launch.key}'")
            words, env = self._words(launch, name, image, cwd)
            self._podman.create(words, env)
        state = str(found[0]["State"]) if found else "created"
        asks = launch.resources
        network = self._network(launch)
        asked = Asked(launch.key, launch.argv[0], _memory_limit(asks), asks.time_limit_s, network=network)
        try:
            _write(folder / "job.json", asked)
            if state in reading.NOT_STARTED:
                self._podman.begin(name, folder / "output", is_made=state == "initialized")
        except OSError:
            if state in reading.NOT_STARTED:
                self._give_up(folder)
            raise
        with contextlib.suppress(OSError):  # it runs; only a new start of the machine would ask for this
            _write(folder / "job.json", replace(asked, boot=_boot()))
        if (folder / "stopped").exists():  # it was asked to stop while it was not yet there to be told
            self._podman.stop(name, 0)

    def _give_up(self, folder: Path) -> None:
        """What was not started leaves nothing: its key is not used up."""
        self._podman.remove([folder.name])
        groups.remove(folder.name)
        self._forget(folder)

    def status(self, keys: Collection[str]) -> Mapping[str, JobStatus]:
        if not keys:
            return {}
        return {key: status for key, (status, _) in self._look(keys).items()}

    def wait(self, keys: Collection[str], timeout_s: float) -> Mapping[str, JobStatus]:
        deadline = time.monotonic() + timeout_s
        pause_s = LOOK_S
        while True:
            looked = self._look(keys)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not looked or any(s.phase is Phase.ended for s, _ in looked.values()):
                return {key: status for key, (status, _) in looked.items()}
            pids = [s.pid for s, _ in looked.values() if s.phase is Phase.running and s.pid]
            is_told = len(pids) == len(looked)
            if _one_ends(pids, min(left_s, LONGEST_LOOK_S if is_told else pause_s)):
                pause_s = LOOK_S
            else:
                pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)

    def logs(self, key: str, offset: int = 0, limit_bytes: int = 1 << 20) -> LogChunk:
        path = self._of(key) / "output"
        data, size = _piece(path, offset, limit_bytes)
        if offset + len(data) < size:
            return LogChunk(data, offset + len(data), is_end=False)
        # Ask for its end first, then read: what it printed before its end is there.
        has_ended = self._look([key])[key][0].phase is Phase.ended
        data, size = _piece(path, offset, limit_bytes)
        is_end = has_ended and offset + len(data) >= size
        return LogChunk(data, offset + len(data), is_end)

    def stop(self, key: str, grace_s: float = 5.0) -> None:
        status = self._look([key])[key][0]
        if status.phase in (Phase.ended, Phase.unknown):
            return
        folder = self._of(key)
        (folder / "stopped").touch()
        self._podman.stop(folder.name, math.ceil(grace_s))

    def usage(self, key: str) -> Usage:
        return self._look([key])[key][1]

    def reap(self, keep: Collection[str]) -> tuple[str, ...]:
        kept = set(keep)
        now_s = time.time()
        ended, old = [], []
        for container in self._containers():
            key, name = container["Labels"][KEY], container["Names"][0]
            state, is_stopped = str(container["State"]), (self._folder / name / "stopped").exists()
            if state in reading.ENDED or (state in reading.NOT_STARTED and is_stopped):
                at_s = max(container["ExitedAt"], container["Created"])
                if key not in kept and now_s - at_s > self._settings.ended_kept_s:
                    old.append(name)
            elif key not in kept and not is_stopped:
                self.stop(key, 0)
                ended.append(key)
        self._podman.remove(old)
        for name in old:
            groups.remove(name)
            self._forget(self._folder / name)
        return tuple(sorted(ended))

    def close(self) -> None:
        self._podman.close()

    # What podman knows, and what we add to it.

    def _look(self, keys: Collection[str]) -> dict[str, tuple[JobStatus, Usage]]:
        names = {key: self._of(key).name for key in keys}
        with self._lock:
            known = {key: self._ended[key] for key in keys if key in self._ended}
        if len(known) == len(names):
            return known
        found = {each["Names"][0]: each for each in self._containers()}
        over = [
            names[key]
            for key in names
            if key not in known and str(found.get(names[key], {}).get("State")) in reading.ENDED
        ]
        # Of very many that ended since the last look, most are told as `ps` has them: to the second.
        exactly, over = over[:MOST_INSPECTED], over[MOST_INSPECTED:]
        states = {name: reading.state_of(found[name]) for name in over}
        if exactly:
            states |= {each["Name"]: each["State"] for each in self._podman.inspected(exactly)}
        looked = {}
        for key, name in names.items():
            if key in known:
                looked[key] = known[key]
            elif name in states:
                looked[key] = self._end(key, name, states[name])
                self._remember(key, looked[key])
            else:
                looked[key] = self._live(key, name, found.get(name))
        return looked

    def _live(self, key: str, name: str, container: Mapping[str, Any] | None) -> tuple[JobStatus, Usage]:
        folder = self._folder / name
        asked = _asked(folder)
        state = str(container["State"]) if container else ""
        if container is None or state in reading.NOT_STARTED:
            if asked is None and not container:
                return JobStatus(key, Phase.unknown), Usage()
            if (folder / "stopped").exists():
                return self._without_word(key, ExitKind.cancelled, "stopped before it began")
            if asked and asked.boot and (container is None or asked.boot != _boot()):
                why = "its container was removed" if container is None else "the machine was started anew"
                return self._without_word(key, ExitKind.worker_lost, why)
            return JobStatus(key, Phase.unknown if container is None else Phase.starting), Usage()
        began = Instant(int(container["StartedAt"]) * SECOND_US)
        status = JobStatus(
            key,
            Phase.running,
            self._unit.name,
            began,
            pid=int(container.get("Pid") or 0) or None,
            address=reading.address(container),
        )
        with contextlib.suppress(OSError):
            if (folder / "output").stat().st_size > self._settings.most_output_bytes:
                if not (folder / "flooding").exists():
                    (folder / "flooding").touch()
                self._podman.stop(name, 0)
        moved = traffic.looked(status.pid, folder) if status.pid else None
        return status, _usage(max(0.0, time.time() - began / SECOND_US), groups.reading(name), moved)

    def _end(self, key: str, name: str, state: Mapping[str, Any]) -> tuple[JobStatus, Usage]:
        folder = self._folder / name
        self._cut_output(folder)
        began, ended_at = reading.times(state)
        wall_s = seconds_between(began, ended_at)
        used = groups.reading(name)
        marks = Marks((folder / "stopped").exists(), (folder / "flooding").exists())
        first, _ = _piece(folder / "output", 0, 400)
        asked = _asked(folder) or Asked(key)
        exit_ = reading.exit_of(int(state["ExitCode"]), wall_s, asked, marks, used, first)
        status = JobStatus(key, Phase.ended, self._unit.name, began, ended_at, exit_)
        return status, _usage(wall_s, used, traffic.last(folder, asked.network))

    def _cut_output(self, folder: Path) -> None:
        """Give up what an ended job has printed beyond the bound before anybody looked."""
        most = self._settings.most_output_bytes
        with contextlib.suppress(OSError), (folder / "output").open("r+b") as output:
            fcntl.flock(output, fcntl.LOCK_EX)
            more = output.seek(0, os.SEEK_END) - most
            told = f"\n({more} bytes more were not kept)\n".encode()
            if more > MOST_TOLD_BYTES:
                output.truncate(most)
                output.seek(most)
                output.write(told)

    def _without_word(self, key: str, kind: ExitKind, why: str) -> tuple[JobStatus, Usage]:
        return JobStatus(key, Phase.ended, self._unit.name, exit=Exit(kind, why)), Usage()

    def _containers(self) -> list[dict[str, Any]]:
        found = self._podman.listed([f"label={PROJECT}={self._label}"])
        return [each for each in found if KEY in (each.get("Labels") or {})]

    def _remember(self, key: str, end: tuple[JobStatus, Usage]) -> None:
        with self._lock:
            while len(self._ended) >= MOST_KNOWN:
                del self._ended[next(iter(self._ended))]
            self._ended[key] = end

    # What podman is told.

    def _words(self, launch: Launch, name: str, image: str, cwd: str) -> tuple[list[str], dict[str, str]]:
        settings, asks = self._settings, launch.resources
        network = self._network(launch)
        words = ["--name", name, "--label", f"{PROJECT}={self._label}", "--label", f"{KEY}={launch.key}"]
        words += ["--pull=never", "--init", "--read-only", "--cap-drop=all", "--entrypoint", ""]
        words += ["--security-opt=no-new-privileges", "--log-driver=passthrough", f"--network={network}"]
        words += [f"--pids-limit={settings.most_processes}"]
        words += [f"--ulimit=nofile={settings.most_files}:{settings.most_files}"]
        words += [f"--ulimit=nproc={settings.most_processes}:{settings.most_processes}"]
        if launch.listens:
            words += [f"--publish=127.0.0.1::{PORT}"]
        if (limit_bytes := _memory_limit(asks)) is not None:
            words += [f"--memory={limit_bytes}b", f"--memory-swap={limit_bytes}b"]
        if asks.cpu.high:
            words += [f"--cpus={asks.cpu.high:g}"]
        if asks.time_limit_s is not None:
            words += [f"--timeout={max(1, math.ceil(asks.time_limit_s))}"]
        if self._groups() and (parent := groups.made(name)):
            words += [f"--cgroup-parent={parent}"]
        for path, may_write in self._mounts():
            words += ["--mount", f"type=bind,src={path},dst={path},ro={'false' if may_write else 'true'}"]
        if cwd:
            words += ["--workdir", cwd]
        env = dict.fromkeys(THREADS, str(max(1, int(asks.cpu.low))))
        env.update(launch.env)
        if launch.listens:
            env["FOURFOLD_PORT"] = str(PORT)
        hidden = {each: text for each, text in env.items() if not each.startswith(OURS)}
        for each, text in env.items():
            # By name alone podman takes the value from its environment: no other user's `ps` shows a token.
            words += ["--env", each if each in hidden else f"{each}={text}"]
        return [*words, image, *launch.argv], hidden

    def _network(self, launch: Launch) -> str:
        """What listens can be reached, and for that it has a network, whatever the others have."""
        is_closed = self._settings.network == traffic.NONE
        return "bridge" if launch.listens and is_closed else self._settings.network

    def _mounts(self) -> list[tuple[str, bool]]:
        own = [(str(self._project), self._settings.project == "rw")]
        return [*self._settings.mounts, *(own if self._settings.project != "none" else [])]

    def _cwd(self, launch: Launch, who: str) -> str:
        if not launch.cwd:
            return str(self._project) if self._settings.project != "none" else ""
        if not any(Path(launch.cwd).is_relative_to(path) for path, _ in self._mounts()):
            raise Refused(
                f"{who} starts in {launch.cwd}, which is not seen in its container",
                ways_on=["add project=ro (or rw) to the pool's address", f"or mount={launch.cwd}"],
            )
        return launch.cwd

    def _image(self, launch: Launch, who: str) -> str:
        image = launch.image or self._settings.image
        if not image:
            raise Refused(
                f"{who} names no image, and its pool has none",
                ways_on=["add image=name:tag to the pool's address"],
            )
        check_image(image, who)
        return image

    def _find_image(self, image: str, who: str) -> None:
        if self._podman.has_image(image):
            return
        if self._settings.pull == "missing":
            self._podman.pull(image)
            return
        raise Refused(
            f"{who} asks for the image '{image}', which is not on this machine",
            ways_on=[
                f"podman pull {image}",
                "or add pull=missing to the pool's address, and it is fetched when it is needed",
            ],
        )

    def _groups(self) -> bool:
        if self._may_group is None:
            self._may_group = os.geteuid() == 0 and self._podman.cgroup_manager() == "cgroupfs"
        return self._may_group

    def _offers(self) -> tuple[Offer, ...]:
        unit, room_bytes = replace(self._unit, gpus=()), 0
        with contextlib.suppress(OSError):
            room_bytes = shutil.disk_usage(self._project).free >> 30 << 30  # whole GiB, as `local://` has it
        price = self._price_usd_per_hour
        return (offer_of(unit, price_usd_per_hour=price, disk_bytes=room_bytes),)

    # Our folders.

    def _of(self, key: str) -> Path:
        digest = hashlib.sha256(f"{self._label}\0{key}".encode()).hexdigest()
        return self._folder / f"fourfold-{digest[:40]}"

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One submission of a key at a time, also of several processes."""
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name[-2:]).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _forget(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with self._lock:
            gone = [key for key in self._ended if self._of(key) == folder]
            for key in gone:
                del self._ended[key]


def _memory_limit(asks: Resources) -> int | None:
    high = asks.memory_bytes.high
    return None if high is None else max(LEAST_MEMORY_BYTES, int(high))


def _usage(wall_s: float, used: groups.Reading, network_bytes: int | None) -> Usage:
    # A group's peak counts cached files too.
    peak = used.memory_peak_bytes
    return Usage(wall_s, used.cpu_s, peak, memory_peak_is_exact=False, network_bytes=network_bytes)


def _piece(path: Path, offset: int, limit_bytes: int) -> tuple[bytes, int]:
    """A piece of a file, and the file's size."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            return file.read(max(0, min(limit_bytes, size - offset))), size
    except OSError:
        return b"", 0


def _write(path: Path, asked: Asked) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(asked)))
    new.replace(path)


def _asked(folder: Path) -> Asked | None:
    try:
        return Asked(**json.loads((folder / "job.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _one_ends(pids: Collection[int], within_s: float) -> bool:
    """Whether one of these processes ended; where they cannot be watched, just the time goes by."""
    with ExitStack() as held:
        ends = []
        for pid in pids:
            try:
                ends.append(os.pidfd_open(pid))
            except ProcessLookupError:
                time.sleep(min(within_s, LOOK_S))  # podman has yet to note its end
                return True
            except OSError:
                continue
            held.callback(os.close, ends[-1])
        poll = select.poll()
        for end in ends:
            poll.register(end, select.POLLIN)
        return bool(poll.poll(math.ceil(within_s * 1000)))
