"""What jobs printed, kept here: a cluster forgets it with the pod, and rotates it away before."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from fourfold.adapters.kubernetes.api import KubeApi
from fourfold.adapters.kubernetes.body import CONTAINER
from fourfold.core.errors import OutOfSpace, Refused

HEAD_BYTES = 256
"""By so many first bytes a log is known again."""
PIECE_BYTES = 1 << 16
BEGAN_ANEW = (
    b"\n(fourfold: the node began this output anew; what lies between may be missing, or told twice)\n"
)
TOO_LONG = b"\n(fourfold: what came after %d bytes was not kept)\n"


class Output:
    """One file for each job, with what its pod's log had each time that it was asked."""

    def __init__(self, api: KubeApi, folder: Path, pods: str, *, most_bytes: int, silent_s: float) -> None:
        """`pods` is the path of the namespace's pods."""
        self._api, self._folder, self._pods = api, folder, pods
        self._most_bytes, self._silent_s = most_bytes, silent_s

    def read(self, name: str, offset: int, limit_bytes: int) -> tuple[bytes, int]:
        """A piece of what is kept, and how much that is in all."""
        try:
            with (self._folder / name / "output").open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(offset)
                return file.read(max(0, min(limit_bytes, size - offset))), size
        except FileNotFoundError:
            return b"", 0

    def pull(self, name: str, pod: str, *, follows: bool = False, begun: Callable[[], object] = bool) -> bool:
        """Take what a pod has printed and is not kept yet; False where somebody else is taking it.

        With `follows` until the pod has ended. A log that does not begin as it did is another one: the node
        has rotated it. Then all of it is added, and a line says so. `begun` is called once the cluster tells.
        """
        query = {"container": CONTAINER, **({"follow": "true"} if follows else {})}
        path = f"{self._pods}/{pod}/log"
        try:
            with self._alone(name, waits=follows) as is_ours:
                if not is_ours:
                    return False
                with self._api.stream(path, query, silent_s=self._silent_s) as log:
                    begun()
                    self._take(name, iter(lambda: log.read1(PIECE_BYTES), b""))
        except Refused:  # its container has not begun, or the pod is gone: there is nothing to take
            return True
        except OSError as error:
            raise self._full(error) from error
        return True

    def has_all_of(self, name: str) -> bool:
        """Whether the end of its log is known to be kept."""
        return (self._folder / name / "whole").exists()

    def mark_whole(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
            (self._folder / name / "whole").touch()

    def forget(self, name: str) -> None:
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def forget_old(self, kept_s: float) -> None:
        """Remove what nobody wrote for so long."""
        oldest = time.time() - kept_s
        with contextlib.suppress(OSError):
            for folder in self._folder.iterdir():
                if max(each.stat().st_mtime for each in (folder, *folder.iterdir())) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)

    def _take(self, name: str, pieces: Iterator[bytes]) -> None:
        folder = self._folder / name
        first = b""
        for piece in pieces:
            first += piece
            if len(first) >= HEAD_BYTES:
                break
        if not first:
            return
        head, (old, base) = first[:HEAD_BYTES], _read_known(folder)
        with self._opened(folder) as file:
            if old and not head.startswith(old):
                if old.startswith(head):
                    return  # shorter than it was: it is being rotated just now
                self._add(file, BEGAN_ANEW)
                base = file.tell()
            elif not old:
                base = file.tell()
            _write_known(folder, head, base)
            skip = file.tell() - base
            for piece in itertools.chain((first,), pieces):
                new, skip = piece[skip:], max(0, skip - len(piece))
                if new and not self._add(file, new):
                    return  # nothing more is kept, so nothing more is fetched

    @contextmanager
    def _opened(self, folder: Path) -> Iterator[BinaryIO]:
        """Our file, to add to; what fails in it is no fault of the cluster."""
        try:
            file = (folder / "output").open("ab", buffering=0)
        except OSError as error:
            raise self._full(error) from error
        with file:
            yield cast("BinaryIO", file)

    def _add(self, file: BinaryIO, new: bytes) -> bool:
        """Whether there is room for more."""
        room = self._most_bytes - file.tell()
        if room <= 0:
            return False
        kept = new if len(new) <= room else new[:room] + TOO_LONG % self._most_bytes
        try:
            while kept:
                kept = kept[file.write(kept) :]
        except OSError as error:
            raise self._full(error) from error
        return len(new) < room

    def _full(self, error: OSError) -> OutOfSpace:
        return OutOfSpace(f"output of jobs has no place in {self._folder}: {error.strerror}")

    @contextmanager
    def _alone(self, name: str, *, waits: bool) -> Iterator[bool]:
        """Whether we are the one taker of a job's output; while another follows it, nobody else need."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True


def _read_known(folder: Path) -> tuple[bytes, int]:
    """How the log began that we have, and where it begins in our file."""
    try:
        known = json.loads((folder / "log.json").read_text())
        return bytes.fromhex(known["head"]), int(known["base"])
    except (OSError, ValueError, KeyError, TypeError):
        return b"", 0


def _write_known(folder: Path, head: bytes, base: int) -> None:
    new = folder / "log.json.new"
    new.write_text(json.dumps({"head": head.hex(), "base": base}))
    new.rename(folder / "log.json")
