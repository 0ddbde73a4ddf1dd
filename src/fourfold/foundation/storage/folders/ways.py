"""How a process reaches the blobs: beside the store, or by the services of a server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeVar

from fourfold.core.errors import Corrupted, NotFound, Refused
from fourfold.core.files import MOST_ASKED, MOST_PIECES, PIECE_BYTES
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.digests import Digester
from fourfold.foundation.storage.files import callers_file, writing

if TYPE_CHECKING:
    from fourfold.core.services.files import Files
    from fourfold.core.services.storage import Storage

AT_ONCE = 4
"""Files that are under way together, and pieces of each: at most 16 pieces are in memory."""
TRIES = 3
READ_BYTES = 1 << 20
BATCH = 1000
"""Files that are handed to the threads together."""

S = TypeVar("S")
T = TypeVar("T")


class Progress:
    """How many bytes of how many are done; told from several threads, to one listener at a time."""

    def __init__(self, tell: Callable[[int, int], None] | None, total_bytes: int) -> None:
        self._tell = tell
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._lock = Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done_bytes = min(self._done_bytes + count, self._total_bytes)
            if self._tell is not None:
                self._tell(self._done_bytes, self._total_bytes)


class Way(Protocol):
    """A way to the blobs."""

    @property
    def is_far(self) -> bool:
        """Whether what arrived before a break is worth keeping."""
        ...

    def put_files(self, paths: Sequence[Path], progress: Progress, *, sha256: bool = False) -> list[Digest]:
        """Store files; with `sha256`, note that digest of each too."""
        ...

    def put(self, data: bytes) -> Digest: ...

    def get(self, digest: Digest) -> bytes: ...

    def part(self, digest: Digest, offset: int, length: int) -> bytes:
        """Some bytes of a blob, not verified."""
        ...

    def fetch(
        self, digest: Digest, path: Path, *, size_bytes: int, executable: bool, progress: Progress
    ) -> None:
        """Put a blob's bytes at a path, read-only and verified: the whole of them or nothing."""
        ...


class Beside:
    """The store is in reach of this process."""

    is_far = False

    def __init__(self, blobs: BlobStore, note_sha256: Callable[[Digest, str], None]) -> None:
        self._blobs = blobs
        self._note_sha256 = note_sha256
        self.put = blobs.put
        self.get = blobs.get
        self.part = blobs.part

    def put_files(self, paths: Sequence[Path], progress: Progress, *, sha256: bool = False) -> list[Digest]:
        def put(path: Path) -> Digest:
            with callers_file(path):
                digest = self._put_both(path) if sha256 else self._blobs.put_file(path)
                progress.add(path.stat().st_size)
                return digest

        return list(at_once(put, paths))

    def _put_both(self, path: Path) -> Digest:
        """Both digests in one pass over the file."""
        other = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            with path.open("rb", buffering=0) as file:
                while piece := file.read(READ_BYTES):
                    other.update(piece)
                    yield piece

        digest = self._blobs.put(pieces())
        self._note_sha256(digest, other.hexdigest())
        return digest

    def fetch(
        self, digest: Digest, path: Path, *, size_bytes: int, executable: bool, progress: Progress
    ) -> None:
        self._blobs.materialize(digest, path, executable=executable)
        progress.add(size_bytes)


class Afar:
    """The store is behind a server.

    A file is named by its digest before anything is sent, so what is there is not sent again. A large one
    goes in pieces, several at once; pieces that arrived are kept there for a day, so whoever sends the file
    again, in this process or another, sends what is lacking. A large one comes in pieces too, into a file
    beside its place, and whoever fetches it again fetches what that lacks. Each piece is verified where it
    arrives, and the whole at the end.
    """

    is_far = True

    def __init__(self, storage: Storage, files: Files, digests: Digester) -> None:
        self._storage = storage
        self._files = files
        self._digests = digests

    def put(self, data: bytes) -> Digest:
        digest = self._digests.of(data)
        if self._files.renew((digest,)):
            self._send(digest, len(data), lambda at: data[at : at + PIECE_BYTES], Progress(None, 0))
        return digest

    def get(self, digest: Digest) -> bytes:
        data = self._storage.get_blob(digest)
        if self._digests.of(data) != digest:
            raise _damaged(digest)
        return data

    def part(self, digest: Digest, offset: int, length: int) -> bytes:
        return self._files.part(digest, offset, length)

    def put_file(self, path: Path) -> Digest:
        """Store a file's bytes under their digest."""
        (digest,) = self.put_files([path], Progress(None, 0))
        return digest

    def put_files(self, paths: Sequence[Path], progress: Progress, *, sha256: bool = False) -> list[Digest]:
        def named(path: Path) -> Digest:
            with callers_file(path):
                return self._digests.of_file(path)

        digests: list[Digest] = []
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            found = list(at_once(named, batch))
            absent = set(self._files.renew(tuple(found)))
            new: list[tuple[Path, Digest]] = []
            for path, digest in zip(batch, found, strict=True):
                if digest in absent:
                    absent.discard(digest)
                    new.append((path, digest))
                else:
                    progress.add(path.stat().st_size)
            for _ in at_once(lambda each: self._send_file(*each, progress), new):
                pass
            digests += found
        if sha256:
            for _ in at_once(self._files.sha256, dict.fromkeys(digests)):
                pass
        return digests

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        """Put a blob's bytes at `path`, read-only."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        size_bytes = PIECE_BYTES + 1  # not known: as a large one
        self.fetch(
            digest, path, size_bytes=size_bytes, executable=executable, progress=Progress(None, size_bytes)
        )

    def fetch(
        self, digest: Digest, path: Path, *, size_bytes: int, executable: bool, progress: Progress
    ) -> None:
        part = path.with_name(f".{path.name[:100]}.{digest[7:23]}.part")
        if part.exists():
            part.chmod(0o600)  # read-only where a client died just before the end
        with writing(path):
            if size_bytes <= PIECE_BYTES:
                part.write_bytes(self.get(digest))
                progress.add(size_bytes)
            else:
                self._bring(digest, part, progress)
            part.chmod(0o555 if executable else 0o444)
            part.replace(path)

    def _bring(self, digest: Digest, part: Path, progress: Progress) -> None:
        """Fetch the pieces that a file lacks."""
        cut = self._files.pieces(digest)
        is_begun = part.exists()
        with part.open("r+b" if is_begun else "w+b", buffering=0) as file:
            file.truncate(cut.size_bytes)

            def bring(index: int) -> None:
                start, expected = index * PIECE_BYTES, cut.digests[index]
                length = min(PIECE_BYTES, cut.size_bytes - start)
                is_there = is_begun and self._digests.of(os.pread(file.fileno(), length, start)) == expected
                if not is_there:
                    _write_all(file.fileno(), self._piece(digest, expected, start, length), start)
                progress.add(length)

            for _ in at_once(bring, range(len(cut.digests))):
                pass
        if self._digests.of_file(part) != digest:
            part.unlink()
            raise _damaged(digest)

    def _piece(self, digest: Digest, piece: Digest, start: int, length: int) -> bytes:
        for _ in range(TRIES):
            data = self._files.part(digest, start, length)
            if self._digests.of(data) == piece:
                return data
        raise _damaged(digest)

    def _send_file(self, path: Path, digest: Digest, progress: Progress) -> None:
        with callers_file(path), path.open("rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            self._send(digest, size_bytes, partial(os.pread, file.fileno(), PIECE_BYTES), progress)

    def _send(
        self, digest: Digest, size_bytes: int, piece_at: Callable[[int], bytes], progress: Progress
    ) -> None:
        """Send bytes that are not there, of which a piece can be read at any offset."""
        if size_bytes <= PIECE_BYTES:
            if self._storage.put_blob(piece_at(0)) != digest:
                raise Refused(
                    "a file changed while it was being sent",
                    ways_on=["send it again when nobody writes to it"],
                )
            progress.add(size_bytes)
            return
        offsets = range(0, size_bytes, PIECE_BYTES)
        if len(offsets) > MOST_PIECES:
            raise Refused(
                f"{size_bytes:,} bytes are too many to be sent", ways_on=["store them beside the project"]
            )
        pieces = list(at_once(lambda offset: self._digests.of(piece_at(offset)), offsets))
        for tries_left in reversed(range(TRIES)):
            self._send_absent(pieces, piece_at, progress)
            try:
                self._files.put_pieces(digest, tuple(pieces))
                return
            except NotFound:  # somebody who sent the same piece was done with it
                if not tries_left:
                    raise

    def _send_absent(
        self, pieces: list[Digest], piece_at: Callable[[int], bytes], progress: Progress
    ) -> None:
        absent: set[Digest] = set()
        for start in range(0, len(pieces), MOST_ASKED):
            absent |= set(self._files.renew_pieces(tuple(pieces[start : start + MOST_ASKED])))

        def send(index: int) -> None:
            data = piece_at(index * PIECE_BYTES)
            if pieces[index] in absent:
                self._files.put_piece(data)
            progress.add(len(data))

        for _ in at_once(send, range(len(pieces))):
            pass


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    """All of the bytes: a disk that is nearly full takes some of them before it says that it is full."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, at)
        rest, at = rest[count:], at + count


def at_once(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """The results in order, `AT_ONCE` under way together; the first failure ends it."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        batch: list[S] = []
        try:
            for item in items:
                batch.append(item)
                if len(batch) == BATCH:
                    yield from pool.map(work, batch)
                    batch = []
            yield from pool.map(work, batch)
        finally:
            pool.shutdown(cancel_futures=True)


def _damaged(digest: Digest) -> Corrupted:
    return Corrupted(
        f"blob {digest} arrived damaged {TRIES} times; what arrived was not used",
        ways_on=["try again", "check the store: fourfold storage check"],
        digest=digest,
    )
