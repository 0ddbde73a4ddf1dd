"""Object stores: the kit that each must pass, and one in memory."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from fourfold.core.errors import NotFound
from fourfold.core.objects import Key, ObjectAddress, ObjectStat
from fourfold.core.ports.objects import ObjectStore
from fourfold.core.times import Instant
from fourfold.testing.raising import raising

LONG = bytes(range(256)) * (80 << 10)
"""20 MiB: more than one request carries."""


class MemoryObjects:
    """Keeps objects in memory, for tests of what stands on an object store."""

    address = ObjectAddress("s3", "memory")
    options: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.objects: dict[Key, bytes] = {}
        self._modified: dict[Key, Instant] = {}
        self._lock = threading.Lock()

    def create(self, key: Key, data: bytes) -> bool:
        with self._lock:
            if key not in self.objects:
                self._set(key, data)
            return self.objects[key] == data

    def put(self, key: Key, data: bytes | Iterable[bytes], *, size_hint: int = 0) -> None:
        del size_hint
        self._set(key, data if isinstance(data, bytes) else b"".join(data))

    def _set(self, key: Key, data: bytes) -> None:
        self.objects[key] = data
        self._modified[key] = Instant(time.time_ns() // 1000)

    def get(self, key: Key) -> bytes:
        if key not in self.objects:
            raise NotFound(f"{self.address} has no object '{key}'", bucket="memory", key=key)
        return self.objects[key]

    def read(self, key: Key, start: int, stop: int) -> bytes:
        return self.get(key)[start:stop]

    def tail(self, key: Key, count: int) -> tuple[bytes, int]:
        data = self.get(key)
        return data[-count:], len(data)

    def pieces(self, key: Key, *, start: int = 0) -> Iterator[bytes]:
        data = self.get(key)
        for at in range(start, len(data), 1 << 20):
            yield data[at : at + (1 << 20)]

    def stat(self, key: Key) -> ObjectStat | None:
        data = self.objects.get(key)
        if data is None:
            return None
        return ObjectStat(key, len(data), self._modified[key], tag=hashlib.sha256(data).hexdigest())

    def listing(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        for key in sorted(self.objects):
            if key > after and key.startswith(f"{prefix.rstrip('/')}/".lstrip("/")):
                stat = self.stat(key)
                if stat is not None:
                    yield stat

    def folders(self, prefix: str) -> Iterator[str]:
        below = f"{prefix.rstrip('/')}/".lstrip("/")
        rests = (key.removeprefix(below) for key in self.objects if key.startswith(below))
        yield from sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def copy(self, source: Key, target: Key) -> None:
        self._set(target, self.get(source))

    def delete(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.objects.pop(key, None)


class ObjectStoreKit:
    """What every object store promises. Subclass it and give `objects`, with nothing in it."""

    def test_what_was_put_is_got(self, objects: ObjectStore) -> None:
        for data in (b"", b"x", LONG):
            objects.put(Key("a/b"), data)
            assert objects.get(Key("a/b")) == data
            stat = objects.stat(Key("a/b"))
            assert stat is not None
            assert stat.object_bytes == len(data)

    def test_pieces_are_put_and_got_in_order(self, objects: ObjectStore) -> None:
        objects.put(Key("k"), (LONG[at : at + 1_000_000] for at in range(0, len(LONG), 1_000_000)))
        assert b"".join(objects.pieces(Key("k"))) == LONG
        assert b"".join(objects.pieces(Key("k"), start=9_000_001)) == LONG[9_000_001:]
        assert b"".join(objects.pieces(Key("k"), start=len(LONG))) == b""

    def test_a_range_ends_where_the_object_ends(self, objects: ObjectStore) -> None:
        objects.put(Key("k"), b"0123456789")
        assert objects.read(Key("k"), 2, 5) == b"234"
        assert objects.read(Key("k"), 8, 50) == b"89"
        assert objects.read(Key("k"), 10, 50) == b""
        assert objects.read(Key("k"), 3, 3) == b""
        objects.put(Key("k"), LONG)
        assert objects.read(Key("k"), 5, 18_000_000) == LONG[5:18_000_000]

    def test_a_tail_tells_the_size(self, objects: ObjectStore) -> None:
        for data in (b"", b"0123", LONG):
            objects.put(Key("k"), data)
            assert objects.tail(Key("k"), 10) == (data[-10:], len(data))
        with raising(NotFound, naming="l"):
            objects.tail(Key("l"), 10)

    def test_what_is_not_there_is_not_found(self, objects: ObjectStore) -> None:
        assert objects.stat(Key("k")) is None
        with raising(NotFound, naming="k"):
            objects.get(Key("k"))
        with raising(NotFound, naming="k"):
            objects.read(Key("k"), 0, 1)
        with raising(NotFound, naming="k"):
            next(objects.pieces(Key("k")))
        with raising(NotFound, naming="k"):
            objects.copy(Key("k"), Key("l"))

    def test_only_one_may_create_a_key(self, objects: ObjectStore) -> None:
        assert objects.create(Key("k"), b"first")
        assert not objects.create(Key("k"), b"second")
        assert objects.get(Key("k")) == b"first"

    def test_creating_again_what_one_created_is_no_failure(self, objects: ObjectStore) -> None:
        assert objects.create(Key("k"), b"mine")
        assert objects.create(Key("k"), b"mine")

    def test_of_many_who_create_at_once_one_wins(self, objects: ObjectStore) -> None:
        together = threading.Barrier(8)

        def race(writer: int) -> list[bool]:
            won = []
            for turn in range(10):
                together.wait(60)
                won.append(objects.create(Key(f"race/{turn}"), b"writer %d" % writer))
            return won

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(8)))
        for turn in range(10):
            winners = [writer for writer in range(8) if won[writer][turn]]
            assert len(winners) == 1
            assert objects.get(Key(f"race/{turn}")) == b"writer %d" % winners[0]

    def test_a_tag_changes_with_the_bytes(self, objects: ObjectStore) -> None:
        tags = []
        for data in (b"one", b"two", b"two"):
            objects.put(Key("k"), data)
            stat = objects.stat(Key("k"))
            assert stat is not None
            tags.append(stat.tag)
        assert tags[0] != tags[1] == tags[2]

    def test_a_put_whose_source_fails_stores_nothing(self, objects: ObjectStore) -> None:
        def source() -> Iterator[bytes]:
            yield LONG[: 10 << 20]
            raise NotFound("the source broke")

        objects.put(Key("k"), b"old")
        with raising(NotFound, naming="broke"):
            objects.put(Key("k"), source())
        assert objects.get(Key("k")) == b"old"

    def test_listings_are_sorted_and_begin_after_a_key(self, objects: ObjectStore) -> None:
        for key in ("t/log/2", "t/log/10", "t/data", "t/logs", "u/log/1", "t/log/1"):
            objects.put(Key(key), b"123")
        assert [stat.key for stat in objects.listing("t/log")] == ["t/log/1", "t/log/10", "t/log/2"]
        assert [stat.key for stat in objects.listing("t/log", after="t/log/1")] == ["t/log/10", "t/log/2"]
        assert [stat.object_bytes for stat in objects.listing("u")] == [3]
        assert [stat.key for stat in objects.listing("")][:2] == ["t/data", "t/log/1"]
        assert list(objects.listing("nothing")) == []

    def test_folders_are_the_next_segments(self, objects: ObjectStore) -> None:
        for key in ("a/x/1", "a/x/2", "a/y/z/1", "a/file", "b/q/1"):
            objects.put(Key(key), b"")
        assert list(objects.folders("a")) == ["x", "y"]
        assert list(objects.folders("")) == ["a", "b"]
        assert list(objects.folders("none")) == []

    def test_copies_are_whole_and_deleting_twice_is_deleting_once(self, objects: ObjectStore) -> None:
        objects.put(Key("k"), b"data")
        objects.copy(Key("k"), Key("l"))
        objects.delete([Key("k"), Key("never")])
        objects.delete([Key("k")])
        assert objects.stat(Key("k")) is None
        assert objects.get(Key("l")) == b"data"

    def test_names_may_hold_any_letters(self, objects: ObjectStore) -> None:
        names = ["day=2026-01-01/part one.parquet", "a+b&c=d?e#f%20g", "名前/é 😀"]
        for name in names:
            objects.put(Key(name), name.encode())
        assert [stat.key for stat in objects.listing("")] == sorted(names)
        assert [objects.get(Key(name)).decode() for name in names] == names
