"""The conformance kit of the online store port, and an in-memory store that passes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fourfold.core.errors import Refused
from fourfold.core.ports.online import LONGEST_KEY_BYTES, OnlineStore, Space

Records = dict[tuple[Space, bytes], bytes]


class MemoryOnline:
    """An online store in a dictionary. Objects made from the same `records` share one store."""

    def __init__(self, records: Records | None = None) -> None:
        self._records: Records = {} if records is None else records
        self._writing = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[_Copy]:
        yield _Copy(dict(self._records))

    @contextmanager
    def write(self) -> Iterator[_Copy]:
        with self._writing:
            copy = _Copy(dict(self._records))
            yield copy
            self._records.clear()
            self._records.update(copy.records)

    def close(self) -> None:
        pass


class _Copy:
    def __init__(self, records: Records) -> None:
        self.records = records

    def get(self, space: Space, key: bytes) -> bytes | None:
        return self.records.get((space, key))

    def scan(self, space: Space, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for (where, key), value in sorted(self.records.items()):
            if where is space and key.startswith(prefix):
                yield key, value

    def put(self, space: Space, key: bytes, value: bytes) -> None:
        if not 1 <= len(key) <= LONGEST_KEY_BYTES:
            raise Refused(f"a key of {len(key)} bytes; keys have 1 to {LONGEST_KEY_BYTES}")
        self.records[space, key] = bytes(value)

    def delete(self, space: Space, key: bytes) -> bool:
        return self.records.pop((space, key), None) is not None


class _Stop(Exception):
    """Ends a write block badly."""


def check_online_store(open_store: Callable[[], OnlineStore]) -> None:
    """Hold an adapter to the port. `open_store` opens the same, at first empty, store each time."""
    store = open_store()
    _writes_are_read_by_space_and_key(store)
    _a_scan_gives_a_prefix_in_order(store)
    _a_block_that_raises_changes_nothing(store)
    _a_reader_keeps_its_state_while_others_write(store)
    _bad_keys_are_refused(store)
    _one_writer_at_a_time(store)
    store.close()
    store.close()
    _what_was_written_is_there_when_opened_again(open_store())


def _writes_are_read_by_space_and_key(store: OnlineStore) -> None:
    with store.write() as writer:
        writer.put(Space.state, b"k", b"one")
        writer.put(Space.state, b"k", b"two")
        writer.put(Space.meta, b"k", b"")
        assert bytes(writer.get(Space.state, b"k") or b"") == b"two", "a writer reads what it wrote"
        assert writer.delete(Space.meta, b"k")
        assert not writer.delete(Space.meta, b"k")
    with store.read() as reader:
        assert bytes(reader.get(Space.state, b"k") or b"") == b"two"
        assert reader.get(Space.meta, b"k") is None
        assert reader.get(Space.seen, b"k") is None, "spaces are apart"


def _a_scan_gives_a_prefix_in_order(store: OnlineStore) -> None:
    with store.write() as writer:
        for key in (b"b\xff", b"a2", b"b", b"a1", b"b1", b"\xff"):
            writer.put(Space.buffer, key, key)
    with store.read() as reader:
        assert [key for key, _ in reader.scan(Space.buffer, b"b")] == [b"b", b"b1", b"b\xff"]
        assert [value for _, value in reader.scan(Space.buffer)] == [
            b"a1",
            b"a2",
            b"b",
            b"b1",
            b"b\xff",
            b"\xff",
        ]
        assert list(reader.scan(Space.buffer, b"c")) == []


def _a_block_that_raises_changes_nothing(store: OnlineStore) -> None:
    try:
        with store.write() as writer:
            writer.put(Space.state, b"half", b"x")
            writer.delete(Space.state, b"k")
            raise _Stop
    except _Stop:
        pass
    with store.read() as reader:
        assert reader.get(Space.state, b"half") is None
        assert bytes(reader.get(Space.state, b"k") or b"") == b"two"


def _a_reader_keeps_its_state_while_others_write(store: OnlineStore) -> None:
    with store.read() as reader:
        before = bytes(reader.get(Space.state, b"k") or b"")
        writing = threading.Thread(target=_put, args=(store, b"k", b"three"))
        writing.start()
        writing.join(timeout=30)
        assert not writing.is_alive(), "a reader never holds a writer up"
        assert bytes(reader.get(Space.state, b"k") or b"") == before
    with store.read() as reader:
        assert bytes(reader.get(Space.state, b"k") or b"") == b"three"


def _bad_keys_are_refused(store: OnlineStore) -> None:
    for key in (b"", b"x" * (LONGEST_KEY_BYTES + 1)):
        try:
            _put(store, key, b"")
        except Refused:
            continue
        raise AssertionError(f"a key of {len(key)} bytes was taken")
    _put(store, b"x" * LONGEST_KEY_BYTES, b"long")


def _one_writer_at_a_time(store: OnlineStore) -> None:
    def count() -> None:
        for _ in range(20):
            with store.write() as writer:
                before = int(bytes(writer.get(Space.meta, b"count") or b"0"))
                writer.put(Space.meta, b"count", str(before + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    with store.read() as reader:
        assert bytes(reader.get(Space.meta, b"count") or b"") == b"60"


def _what_was_written_is_there_when_opened_again(store: OnlineStore) -> None:
    with store.read() as reader:
        assert bytes(reader.get(Space.state, b"k") or b"") == b"three"
        assert bytes(reader.get(Space.meta, b"count") or b"") == b"60"
    store.close()


def _put(store: OnlineStore, key: bytes, value: bytes) -> None:
    with store.write() as writer:
        writer.put(Space.state, key, value)
