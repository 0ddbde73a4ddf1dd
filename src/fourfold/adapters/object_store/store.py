"""`ObstoreObjects`: an object store over HTTP."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from fourfold.adapters.object_store.errors import translated
from fourfold.adapters.object_store.opening import opened
from fourfold.core.errors import FourfoldError, NotFound, Refused, Unavailable
from fourfold.core.objects import Key, ObjectAddress, ObjectStat
from fourfold.core.times import instant

if TYPE_CHECKING:
    from obstore import SuffixRange

SINGLE_BYTES = 64 << 20
"""Up to this an object is stored by one request, above it in parts."""
PIECE_BYTES = 8 << 20
"""What one request of a long transfer carries: each has its own deadline and its own tries."""
AHEAD = 4
"""Requests of one transfer at once: a transfer holds this many pieces in memory."""
PARTS = 9_000
"""Parts of one object at most; the stores allow 10,000."""
CREATE_TRIES = 2

_PROBE = Key(".fourfold/probe")


class ObstoreObjects:
    """Objects below one prefix of a bucket. Fulfils `core.ports.objects.ObjectStore`.

    Credentials are found as each vendor's own tools find them: environment variables, the shared files of
    Amazon, application defaults of Google, then the role of the machine.

    Whether the store lets two create one key is asked once for each process, before it first creates
    something: `.fourfold/probe` below the prefix is created twice, and the second must be denied. The object
    stays there, so that from then on one request tells.
    """

    def __init__(self, address: ObjectAddress) -> None:
        self._address = address
        opened_ = opened(address)
        self._client, self._options = opened_.client, opened_.options
        self._probed = not address.has_many_writers
        self._probing = threading.Lock()

    def __repr__(self) -> str:
        return f"<ObstoreObjects {self._address}>"

    @property
    def address(self) -> ObjectAddress:
        return self._address

    @property
    def options(self) -> Mapping[str, str]:
        return self._options()

    def create(self, key: Key, data: bytes) -> bool:
        if not self._probed:
            self._probe()
        if not self._address.has_many_writers:
            return self._create_alone(key, data)
        for tries_left in reversed(range(CREATE_TRIES)):
            try:
                return self._created(key, data) or self._holds(key, data)
            except Unavailable:  # a connection that broke may have carried the write: asking again tells
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def put(self, key: Key, data: bytes | Iterable[bytes], *, size_hint: int = 0) -> None:
        with self._errors(key):
            if isinstance(data, bytes) and len(data) <= SINGLE_BYTES:
                obstore.put(self._client, key, data, use_multipart=False)
                return
            obstore.put(
                self._client,
                key,
                _cut(data) if isinstance(data, bytes) else iter(data),
                use_multipart=True,
                chunk_size=max(PIECE_BYTES, size_hint // PARTS),
                max_concurrency=AHEAD,
            )

    def get(self, key: Key) -> bytes:
        return b"".join(self.pieces(key))

    def read(self, key: Key, start: int, stop: int) -> bytes:
        def piece(at: int) -> bytes:
            found = self._range(key, (at, min(at + PIECE_BYTES, stop)))
            return found[0] if found else b""

        starts = range(start, stop, PIECE_BYTES)
        if len(starts) <= 1:
            return b"".join(map(piece, starts))
        with ThreadPoolExecutor(AHEAD) as pool:
            return b"".join(pool.map(piece, starts))

    def tail(self, key: Key, count: int) -> tuple[bytes, int]:
        if self._address.scheme == "az":  # it has no such request
            size = self._size(key)
            return self.read(key, max(0, size - count), size), size
        return self._range(key, {"suffix": count}) or (b"", 0)

    def pieces(self, key: Key, *, start: int = 0) -> Iterator[bytes]:
        first = self._range(key, (start, start + PIECE_BYTES))
        if first is None:
            return
        data, object_bytes = first
        yield data
        starts = iter(range(start + PIECE_BYTES, object_bytes, PIECE_BYTES))
        at = next(starts, None)
        if at is None:
            return
        with ThreadPoolExecutor(AHEAD) as pool:
            under_way: deque[Future[bytes]] = deque()
            try:
                while at is not None or under_way:
                    while at is not None and len(under_way) < AHEAD:
                        under_way.append(pool.submit(self.read, key, at, at + PIECE_BYTES))
                        at = next(starts, None)
                    yield under_way.popleft().result()
            finally:
                for future in under_way:
                    future.cancel()

    def stat(self, key: Key) -> ObjectStat | None:
        try:
            with self._errors(key):
                return _stat(obstore.head(self._client, key))
        except NotFound as error:
            if "key" not in error.facts:  # the bucket itself is missing
                raise
            return None

    def listing(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        with self._errors(prefix):
            listed = obstore.list(self._client, prefix or None, offset=after or None, chunk_size=1000)
            for page in listed:
                yield from map(_stat, page)

    def folders(self, prefix: str) -> Iterator[str]:
        with self._errors(prefix):
            found = obstore.list_with_delimiter(self._client, prefix or None)["common_prefixes"]
        yield from sorted(each.rstrip("/").rpartition("/")[2] for each in found)

    def copy(self, source: Key, target: Key) -> None:
        with self._errors(source):
            obstore.copy(self._client, source, target)

    def delete(self, keys: Iterable[Key]) -> None:
        rest = iter(keys)
        while batch := list(itertools.islice(rest, 1000)):
            try:
                with self._errors(batch[0]):
                    obstore.delete(self._client, batch)
            except NotFound as error:  # Google and Azure say so, S3 does not; the rest may still be there
                if "key" not in error.facts:
                    raise
                if len(batch) > 1:
                    for key in batch:
                        self.delete([key])

    def _size(self, key: Key) -> int:
        with self._errors(key):
            return obstore.head(self._client, key)["size"]

    def _range(self, key: Key, which: tuple[int, int] | SuffixRange) -> tuple[bytes, int] | None:
        """Some bytes and the size of the whole object; None where it ends before them."""
        try:
            with self._errors(key):
                result = obstore.get(self._client, key, options={"range": which})
                return result.bytes().to_bytes(), result.meta["size"]
        except Refused as error:
            if error.facts.get("status") == 416:  # it begins at the end, or after
                return None
            raise
        except Unavailable as error:
            if "non-partial" not in error.message:
                raise
        with self._errors(key):  # an answer of all bytes: some stores send it when there are none
            whole = obstore.get(self._client, key).bytes().to_bytes()
        start, stop = (
            which if isinstance(which, tuple) else (max(0, len(whole) - which["suffix"]), len(whole))
        )
        return whole[start:stop], len(whole)

    def _created(self, key: Key, data: bytes) -> bool:
        try:
            with self._errors(key):
                obstore.put(self._client, key, data, mode="create", use_multipart=False)
        except _Exists:
            return False
        return True

    def _holds(self, key: Key, data: bytes) -> bool:
        try:
            return self.get(key) == data
        except NotFound:  # it was deleted meanwhile, so it was another's
            return False

    def _create_alone(self, key: Key, data: bytes) -> bool:
        if self.stat(key) is not None:
            return self._holds(key, data)
        self.put(key, data)
        return True

    def _probe(self) -> None:
        with self._probing:
            if self._probed:
                return
            if self._created(_PROBE, b"fourfold") and self._created(_PROBE, b"fourfold"):
                raise Refused(
                    f"{self._address} lets two writers create the same object (it ignores If-None-Match), "
                    "so one of them could overwrite what the other was told is stored",
                    ways_on=[
                        "use a store that honours conditional writes (S3, Google, Azure, MinIO, R2, Ceph do)",
                        "or add writers=one to the address, if never more than one process writes",
                    ],
                    bucket=self._address.bucket,
                )
            self._probed = True

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except AlreadyExistsError as error:
            raise _Exists(f"{self._address} already has an object '{key}'") from error
        except (BaseError, FileNotFoundError, NotImplementedError) as error:
            raise translated(error, self._address, key) from error


class _Exists(FourfoldError):
    """There is an object of that name already."""


def _stat(meta: obstore.ObjectMeta) -> ObjectStat:
    modified = instant(meta["last_modified"])
    return ObjectStat(Key(meta["path"]), meta["size"], modified, meta["e_tag"] or "")


def _cut(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), PIECE_BYTES):
        yield data[at : at + PIECE_BYTES]
