"""Blobs in an object store, each under its own digest: `blobs/ab/cd/<hash>`."""

from __future__ import annotations

import fcntl
import io
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import blake3

from fourfold.core.errors import Corrupted, FourfoldError, NotFound, OutOfSpace, Refused, Unavailable
from fourfold.core.objects import Key
from fourfold.core.ports.blobs import Digest
from fourfold.core.ports.objects import ObjectStore
from fourfold.core.storage import BlobEntry
from fourfold.core.times import Instant

CREATE_BYTES = 64 << 20
"""Up to this a blob is created by one conditional request; above it, sent in parts."""
RESUME_BYTES = 64 << 20
"""A download of more than this that broke off is gone on with by the next."""
SPOOL_BYTES = 16 << 20
"""A stream of more than this waits in a temporary file until its digest is known."""
READ_BYTES = 4 << 20
PARALLEL_BYTES = 8 << 20
"""Above this a digest is worth more than one thread."""

_DIGEST = re.compile(r"blake3:([0-9a-f]{64})")
SWEEP_S = 240.0
"""A sweeper that took longer than this to look at a blob removes nothing."""
DEAD_S = 600.0
"""A sweeper's mark this old is of one that died: `SWEEP_S` and the longest patience of a request are over."""
WAIT_S = 0.2

_PREFIX, _RENEWED, _SWEEPING, _QUARANTINE = "blobs", "renewed", "sweeping", "quarantine"
_FULL = {28, 27, 122}  # ENOSPC, EFBIG, EDQUOT


class ObjectBlobs:
    """Keeps blobs in `objects`, below `blobs/`.

    A blob is known by its digest before its first byte is sent: bytes in memory and files are hashed where
    they are, a stream is first written to a temporary file. So what is there already is not sent again, and
    nothing is ever seen under a wrong name. Small blobs appear by a conditional put; large ones in parts,
    which the store joins at the end: two who send the same one send the same bytes.

    Every read is hashed. An object whose bytes are wrong, seen twice, is moved to `quarantine/`.

    A blob's age counts from its object's time, or from that of an empty object below `renewed/`: a store
    will not touch an object. There are no locks, so a sweeper marks the blob before it looks at its age and
    until it is done; a put or renewal, once done, looks for a mark, waits while there is one, and then looks
    whether the blob is there. Had the sweeper looked before, the mark was there; had it looked after, it saw
    the new age.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def __repr__(self) -> str:
        return f"<ObjectBlobs {self._objects.address}>"

    def put(self, data: bytes | Iterable[bytes]) -> Digest:
        if isinstance(data, bytes):
            return self._store(_digest_of(data), len(data), lambda: iter((data,)))
        hasher = blake3.blake3()
        with _out_of_space(), tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
            for piece in data:
                hasher.update(piece)
                file.write(piece)
            size = file.tell()

            def spooled() -> Iterator[bytes]:
                file.seek(0)
                return iter(lambda: file.read(READ_BYTES), b"")

            return self._store(Digest(f"blake3:{hasher.hexdigest()}"), size, spooled)

    def put_file(self, path: Path) -> Digest:
        with path.open("rb") as file:
            hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
            while piece := file.read(READ_BYTES):
                hasher.update(piece)
            digest, size = Digest(f"blake3:{hasher.hexdigest()}"), file.tell()

            def unchanged() -> Iterator[bytes]:
                """The file again; raises at its end if it is not what was hashed."""
                file.seek(0)
                sent = blake3.blake3(max_threads=blake3.blake3.AUTO)
                while piece := file.read(READ_BYTES):
                    sent.update(piece)
                    yield piece
                if sent.digest() != hasher.digest():
                    raise Refused(
                        f"{path} changed while it was being stored; nothing was stored",
                        ways_on=["store it again when nobody writes to it"],
                    )

            return self._store(digest, size, unchanged)

    def _store(self, digest: Digest, size: int, pieces: Callable[[], Iterator[bytes]]) -> Digest:
        key = _key(digest)
        while True:
            there = self._objects.stat(key)
            if there is not None and there.object_bytes == size:
                if self._renewed(key):
                    return digest
                continue
            is_small = there is None and size <= CREATE_BYTES
            if not (is_small and self._objects.create(key, b"".join(pieces()))):
                self._objects.put(key, pieces(), size_hint=size)
            if self._outlives_sweeps(key):
                return digest

    def renew(self, digest: Digest) -> bool:
        key = _key(digest)
        return self._objects.stat(key) is not None and self._renewed(key)

    def _renewed(self, key: Key) -> bool:
        self._objects.put(_beside(_RENEWED, key), b"")
        return self._outlives_sweeps(key)

    def _outlives_sweeps(self, key: Key) -> bool:
        """Wait until nobody is about to remove a blob by an age that it had; whether it is there then."""
        marks = _beside(_SWEEPING, key)
        while begun := list(self._objects.listing(marks)):
            self._objects.put(_beside(_RENEWED, key), b"")  # tells the store's time
            now = self._objects.stat(_beside(_RENEWED, key))
            dead = [each.key for each in begun if now and now.modified - each.modified > DEAD_S * 1e6]
            self._objects.delete(dead)
            if len(dead) < len(begun):
                time.sleep(WAIT_S)
        return self._objects.stat(key) is not None

    def collect(self, digest: Digest, before: Instant) -> bool:
        key = _key(digest)
        renewed = _beside(_RENEWED, key)
        mark = Key(f"{_beside(_SWEEPING, key)}/{secrets.token_hex(8)}")  # each sweeper takes its own away
        started = time.monotonic()
        self._objects.put(mark, b"")
        try:
            found = [stat for each in (key, renewed) if (stat := self._objects.stat(each)) is not None]
            is_old = bool(found) and all(stat.modified < before for stat in found)
            if not is_old or time.monotonic() - started > SWEEP_S:
                return False
            self._objects.delete([key, renewed])
            return any(stat.key == key for stat in found)
        finally:
            self._objects.delete([mark])

    def get(self, digest: Digest) -> bytes:
        with self._known(digest) as key:
            data = self._objects.get(key)
        if _digest_of(data) != digest:
            raise self.quarantine(digest)
        return data

    def part(self, digest: Digest, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise Refused(f"no blob has a part of {length} bytes at {offset}")
        with self._known(digest) as key:
            return self._objects.read(key, offset, offset + length)

    def open(self, digest: Digest) -> BinaryIO:
        self.size(digest)
        return io.BufferedReader(_Stream(self._verified(digest)), READ_BYTES)

    def has(self, digest: Digest) -> bool:
        return self._objects.stat(_key(digest)) is not None

    def size(self, digest: Digest) -> int:
        stat = self._objects.stat(_key(digest))
        if stat is None:
            raise _unknown(digest)
        return stat.object_bytes

    def digests(self) -> Iterator[Digest]:
        for stat in self._objects.listing(_PREFIX):
            yield Digest(f"blake3:{stat.key.rpartition('/')[2]}")

    def entries(self, *, after: Digest | None = None) -> Iterator[BlobEntry]:
        key = None if after is None else _key(after)
        renewals = self._objects.listing(_RENEWED, after="" if key is None else _beside(_RENEWED, key))
        renewal = next(renewals, None)
        for stat in self._objects.listing(_PREFIX, after=key or ""):
            name = _beside(_RENEWED, stat.key)
            while renewal is not None and renewal.key < name:
                renewal = next(renewals, None)
            is_renewed = renewal is not None and renewal.key == name
            put_at = max(stat.modified, renewal.modified) if renewal and is_renewed else stat.modified
            yield BlobEntry(Digest(f"blake3:{name.rpartition('/')[2]}"), stat.object_bytes, put_at)

    def quarantined(self) -> Iterator[BlobEntry]:
        for stat in self._objects.listing(_QUARANTINE):
            name = stat.key.rpartition("/")[2].partition(".")[0]
            yield BlobEntry(Digest(f"blake3:{name}"), stat.object_bytes, stat.modified)

    def release(self, digest: Digest) -> None:
        name = _key(digest).rpartition("/")[2]
        self._objects.delete(
            [stat.key for stat in self._objects.listing(_QUARANTINE) if f"/{name}." in stat.key]
        )

    def delete(self, digest: Digest) -> None:
        key = _key(digest)
        self._objects.delete([key, _beside(_RENEWED, key)])

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        size = self.size(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _out_of_space(path.parent), _part(path, digest, is_kept=size > RESUME_BYTES) as (part, file):
            for piece in self._verified(digest, begun=file):
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), 0o555 if executable else 0o444)
            part.replace(path)

    def _verified(self, digest: Digest, *, begun: BinaryIO | None = None) -> Generator[bytes]:
        """A blob's bytes after those that `begun` holds; raises at the end if they are not the digest's."""
        hasher = blake3.blake3()
        start = 0
        if begun is not None:
            while piece := begun.read(READ_BYTES):
                hasher.update(piece)
                start += len(piece)
        with self._known(digest) as key:
            for piece in self._objects.pieces(key, start=start):
                hasher.update(piece)
                yield piece
        if f"blake3:{hasher.hexdigest()}" != digest:
            if begun is not None:
                begun.truncate(0)
            if start:
                raise Unavailable(
                    f"what was there of an earlier download of blob {digest} was spoilt, and was thrown away",
                    ways_on=["try again: it begins anew"],
                    digest=digest,
                )
            raise self.quarantine(digest)

    def quarantine(self, digest: Digest) -> FourfoldError:
        """Look again at a blob whose bytes arrived wrong, put it aside if they are wrong, and say so."""
        key = _key(digest)
        hasher = blake3.blake3()
        with self._known(digest):
            for piece in self._objects.pieces(key):
                hasher.update(piece)
        if f"blake3:{hasher.hexdigest()}" == digest:
            return Unavailable(
                f"blob {digest} arrived damaged, but is stored as it should be; what arrived was not used",
                ways_on=["try again; if it happens often, look at the network and at proxies"],
                digest=digest,
            )
        kept = Key(f"{_QUARANTINE}/{digest.partition(':')[2]}.{secrets.token_hex(4)}")
        self._objects.copy(key, kept)
        self._objects.delete([key])
        return Corrupted(
            f"blob {digest} does not hold the bytes that were stored; it was not used",
            ways_on=[
                f"the bad object was moved to {self._objects.address}/{kept}",
                "store the same bytes again (run the step that made them) or restore it from a backup",
            ],
            digest=digest,
        )

    @contextmanager
    def _known(self, digest: Digest) -> Iterator[Key]:
        key = _key(digest)
        try:
            yield key
        except NotFound as error:
            if error.facts.get("key") == key:
                raise _unknown(digest) from None
            raise


class _Stream(io.RawIOBase):
    """Pieces as a file."""

    def __init__(self, pieces: Generator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._pieces.close()  # lets go of its requests
        super().close()


@contextmanager
def _part(path: Path, digest: Digest, *, is_kept: bool) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, gone after the block unless renamed.

    One that `is_kept` bears the digest's name and stays when the block fails, and the next download of the
    same blob to the same place begins with what it holds. Of two at once the second takes one of its own.
    """
    part = path.with_name(f".{path.name}.{digest[7:23]}.part")
    file: BinaryIO | None = None
    if is_kept:
        file = part.open("a+b")
        if _is_ours(file, part):
            file.seek(0)
        else:
            file.close()
            file = None
    if file is None:
        is_kept = False
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        file = part.open("x+b")
    with file:
        try:
            yield part, file
        except BaseException as error:
            if not is_kept or isinstance(error, Corrupted | NotFound):
                part.unlink(missing_ok=True)
            raise


def _is_ours(file: BinaryIO, path: Path) -> bool:
    """Whether this process holds the file alone, and the file is still there under its name."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _key(digest: Digest) -> Key:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Refused(
            f"'{digest[:80]}' is not a digest",
            ways_on=["a digest is 'blake3:' and 64 hexadecimal digits, as `put` answered it"],
        )
    name = match[1]
    return Key(f"{_PREFIX}/{name[:2]}/{name[2:4]}/{name}")


def _beside(prefix: str, key: Key) -> Key:
    """The key of what is kept about a blob."""
    return Key(prefix + key.removeprefix(_PREFIX))


def _digest_of(data: bytes) -> Digest:
    threads = blake3.blake3.AUTO if len(data) >= PARALLEL_BYTES else 1
    return Digest(f"blake3:{blake3.blake3(data, max_threads=threads).hexdigest()}")


def _unknown(digest: Digest) -> NotFound:
    return NotFound(
        f"no blob has the digest {digest}",
        ways_on=["it was never stored in this project, or was collected as garbage"],
        digest=digest,
    )


@contextmanager
def _out_of_space(folder: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OutOfSpace(
            f"the disk that holds {folder or tempfile.gettempdir()} is full; nothing was stored",
            ways_on=["free some space and try again", "streams wait in TMPDIR until they are sent"],
        ) from error
