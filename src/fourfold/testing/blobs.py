"""Blob stores: the kit that each must pass, and one in memory."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.storage import BlobEntry
from fourfold.core.times import Instant
from fourfold.testing.raising import raising

UNKNOWN = Digest("blake3:" + "0" * 64)
LATER = Instant(1 << 60)


class MemoryBlobs:
    """Keeps blobs in memory, for tests of what stands on a blob store.

    Its digests have the right shape but are not BLAKE3's, which belongs to the adapters.
    """

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._put_at: dict[Digest, Instant] = {}

    def put(self, data: bytes | Iterable[bytes]) -> Digest:
        whole = data if isinstance(data, bytes) else b"".join(data)
        digest = Digest("blake3:" + hashlib.blake2b(whole, digest_size=32).hexdigest())
        self._blobs[digest] = whole
        self.renew(digest)
        return digest

    def put_file(self, path: Path) -> Digest:
        return self.put(path.read_bytes())

    def get(self, digest: Digest) -> bytes:
        if not re.fullmatch(r"blake3:[0-9a-f]{64}", digest):
            raise Refused(f"'{digest}' is not a digest")
        if digest not in self._blobs:
            raise NotFound(f"no blob has the digest {digest}", digest=digest)
        return self._blobs[digest]

    def part(self, digest: Digest, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise Refused(f"no blob has a part of {length} bytes at {offset}")
        return self.get(digest)[offset : offset + length]

    def open(self, digest: Digest) -> BinaryIO:
        return io.BytesIO(self.get(digest))

    def has(self, digest: Digest) -> bool:
        return digest in self._blobs

    def size(self, digest: Digest) -> int:
        return len(self.get(digest))

    def digests(self) -> Iterator[Digest]:
        yield from sorted(self._blobs)

    def entries(self, *, after: Digest | None = None) -> Iterator[BlobEntry]:
        for digest in self.digests():
            if after is None or digest > after:
                yield BlobEntry(digest, len(self._blobs[digest]), self._put_at[digest])

    def renew(self, digest: Digest) -> bool:
        if digest not in self._blobs:
            return False
        self._put_at[digest] = Instant(time.time_ns() // 1000)
        return True

    def delete(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)

    def collect(self, digest: Digest, before: Instant) -> bool:
        if digest not in self._blobs or self._put_at[digest] >= before:
            return False
        self.delete(digest)
        return True

    def quarantined(self) -> Iterator[BlobEntry]:
        return iter(())  # bytes in memory do not change

    def release(self, digest: Digest) -> None: ...

    def materialize(self, digest: Digest, path: Path, *, executable: bool = False) -> None:
        data = self.get(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(0o555 if executable else 0o444)


class BlobStoreKit:
    """What every blob store promises. Subclass it, give `store`, and let pytest run it.

    class TestMine(BlobStoreKit):
        @pytest.fixture
        def store(self) -> BlobStore:
            return MyBlobs(...)
    """

    races = 20
    """Fewer for a store whose clock has whole seconds: each race waits for it to move on."""

    def test_what_was_put_is_got(self, store: BlobStore) -> None:
        for data in (b"", b"x", bytes(range(256)) * 20_000):
            digest = store.put(data)
            assert store.get(digest) == data
            assert store.has(digest)
            assert store.size(digest) == len(data)

    def test_the_same_bytes_are_stored_once(self, store: BlobStore, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"same")
        digests = {store.put(b"same"), store.put([b"sa", b"", b"me"]), store.put_file(tmp_path / "file")}
        assert len(digests) == 1
        assert list(store.digests()) == list(digests)

    def test_a_digest_has_one_shape(self, store: BlobStore) -> None:
        assert re.fullmatch(r"blake3:[0-9a-f]{64}", store.put(b"x"))

    def test_a_stream_gives_the_bytes(self, store: BlobStore) -> None:
        data = b"0123456789" * 300_000
        with store.open(store.put(data)) as stream:
            assert stream.read(10) == data[:10]
            assert stream.read() == data[10:]
            assert stream.read() == b""

    def test_a_part_is_cut_at_the_end_and_never_outside(self, store: BlobStore) -> None:
        digest = store.put(b"0123456789")
        assert store.part(digest, 0, 4) == b"0123"
        assert store.part(digest, 8, 4) == b"89"
        assert store.part(digest, 10, 4) == store.part(digest, 3, 0) == b""
        for offset, length in ((-1, 4), (0, -1)):
            with raising(Refused, naming="part"):
                store.part(digest, offset, length)
        with raising(NotFound):
            store.part(UNKNOWN, 0, 4)

    def test_entries_are_sorted_and_go_on_after_any_digest(self, store: BlobStore) -> None:
        sizes = {store.put(b"x" * size): size for size in range(20)}
        entries = list(store.entries())
        assert {entry.digest: entry.size_bytes for entry in entries} == sizes
        assert [entry.digest for entry in entries] == sorted(sizes)
        assert list(store.entries(after=entries[7].digest)) == entries[8:]
        assert list(store.entries(after=UNKNOWN)) == entries
        assert list(store.entries(after=entries[-1].digest)) == []

    def test_only_a_blob_that_is_old_enough_is_collected(self, store: BlobStore) -> None:
        digest = store.put(b"x")
        (entry,) = store.entries()
        assert not store.collect(digest, entry.put_at)
        assert store.has(digest)
        assert store.collect(digest, Instant(entry.put_at + 1))
        assert not store.has(digest)
        assert not store.collect(digest, LATER)
        assert store.put(b"x") == digest
        assert store.get(digest) == b"x"

    def test_putting_or_renewing_a_blob_begins_its_age_again(self, store: BlobStore, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        digest = store.put(b"x")
        for again in (
            lambda: store.put(b"x"),
            lambda: store.put([b"x"]),
            lambda: store.put_file(tmp_path / "file"),
            lambda: store.renew(digest),
        ):
            now = self.a_later_instant(store, digest)
            again()
            assert not store.collect(digest, now)
        assert not store.renew(UNKNOWN)

    def test_a_put_or_renewal_that_returned_while_its_blob_was_collected_is_there(
        self, store: BlobStore
    ) -> None:
        digest = store.put(b"contested")
        ways = (lambda: store.put(b"contested") == digest, lambda: store.renew(digest))
        for turn in range(self.races):
            before = self.a_later_instant(store, digest)
            start = threading.Barrier(4)

            def collect(start: threading.Barrier = start, before: Instant = before) -> bool:
                start.wait()
                return store.collect(digest, before)

            def cite(way: Callable[[], bool], start: threading.Barrier = start) -> bool:
                start.wait()
                return way()

            with ThreadPoolExecutor(4) as pool:
                collected = [pool.submit(collect) for _ in range(2)]
                cited = [pool.submit(cite, ways[turn % 2]) for _ in range(2)]
            assert all(each.result() in (True, False) for each in collected)
            if any(each.result() for each in cited):
                assert store.get(digest) == b"contested"
            store.put(b"contested")

    def a_later_instant(self, store: BlobStore, digest: Digest) -> Instant:
        """An instant after a blob was put and not after now, by the store's own clock."""
        put_at = {entry.digest: entry.put_at for entry in store.entries()}[digest]
        while True:
            scratch = store.put(b"scratch")
            now = {entry.digest: entry.put_at for entry in store.entries()}[scratch]
            store.delete(scratch)
            if now > put_at:
                return now

    def test_an_unknown_digest_is_not_found(self, store: BlobStore, tmp_path: Path) -> None:
        assert not store.has(UNKNOWN)
        with raising(NotFound):
            store.get(UNKNOWN)
        with raising(NotFound):
            store.open(UNKNOWN)
        with raising(NotFound):
            store.size(UNKNOWN)
        with raising(NotFound):
            store.materialize(UNKNOWN, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_what_is_no_digest_is_refused(self, store: BlobStore) -> None:
        for wrong in ("", "blake3:", "../../etc/passwd", "blake3:" + "../" * 21 + "a", "blake3:" + "A" * 64):
            with raising(Refused, naming="not a digest"):
                store.get(Digest(wrong))

    def test_deleting_twice_is_deleting_once(self, store: BlobStore) -> None:
        digest = store.put(b"x")
        store.delete(digest)
        store.delete(digest)
        assert not store.has(digest)
        assert list(store.digests()) == []

    def test_digests_are_sorted(self, store: BlobStore) -> None:
        expected = sorted(store.put(str(number).encode()) for number in range(20))
        assert list(store.digests()) == expected

    def test_a_put_whose_source_fails_leaves_nothing(self, store: BlobStore) -> None:
        def source() -> Iterator[bytes]:
            yield b"half"
            raise NotFound("the source broke")

        with raising(NotFound, naming="broke"):
            store.put(source())
        assert list(store.digests()) == []

    def test_a_materialized_file_is_read_only_and_replaces_what_was_there(
        self, store: BlobStore, tmp_path: Path
    ) -> None:
        target = tmp_path / "folder" / "file"
        for data in (b"first", b"second"):
            store.materialize(store.put(data), target)
            assert target.read_bytes() == data
            assert target.stat().st_mode & 0o777 == 0o444
        store.materialize(store.put(b"second"), target, executable=True)
        assert target.stat().st_mode & 0o777 == 0o555
        assert [path.name for path in target.parent.iterdir()] == ["file"]
        assert store.get(store.put(b"second")) == b"second"
