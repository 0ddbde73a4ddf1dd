"""Blobs in an object store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.s3 import Answer, Ask, Asked, Proxy, fresh_bucket

from fourfold.adapters.object_blobs import CREATE_BYTES, ObjectBlobs
from fourfold.adapters.object_store import ObstoreObjects
from fourfold.core.errors import Corrupted, OutOfSpace, Refused, Unavailable
from fourfold.core.objects import Key, ObjectAddress
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.testing.blobs import BlobStoreKit
from fourfold.testing.objects import MemoryObjects
from fourfold.testing.raising import raising

LARGE = b"0123456789abcdef" * ((CREATE_BYTES >> 4) + 100_000)


class TestObjectBlobs(BlobStoreKit):
    @pytest.fixture
    def store(self) -> BlobStore:
        return ObjectBlobs(MemoryObjects())


@pytest.mark.slow
class TestObjectBlobsOverHttp(BlobStoreKit):
    races = 2

    @pytest.fixture
    def store(self, s3: str) -> BlobStore:
        return ObjectBlobs(ObstoreObjects(ObjectAddress.parse(s3)))


@pytest.fixture
def proxy(moto: str, aws: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(moto) as proxy:
        yield proxy


@pytest.fixture
def blobs(proxy: Proxy, moto: str) -> ObjectBlobs:
    """A blob store behind the proxy that is given up after a second."""
    address = f"s3://{fresh_bucket(moto)}/x?endpoint={proxy.endpoint}&patience_s=1"
    return ObjectBlobs(ObstoreObjects(ObjectAddress.parse(address)))


def key(digest: Digest) -> Key:
    name = digest.removeprefix("blake3:")
    return Key(f"blobs/{name[:2]}/{name[2:4]}/{name}")


def test_wrong_bytes_are_put_aside_and_the_right_ones_can_be_stored_again() -> None:
    objects = MemoryObjects()
    blobs = ObjectBlobs(objects)
    digest = blobs.put(b"right")
    for is_stream in (False, True):
        objects.put(key(digest), b"wrong")
        with raising(Corrupted, naming="quarantine/"):
            blobs.open(digest).read() if is_stream else blobs.get(digest)
        assert not blobs.has(digest)
        assert blobs.put(b"right") == digest
        assert blobs.get(digest) == b"right"
    assert len(list(objects.listing("quarantine"))) == 2


def test_a_wrong_blob_is_never_put_at_a_path(tmp_path: Path) -> None:
    objects = MemoryObjects()
    blobs = ObjectBlobs(objects)
    digest = blobs.put(b"right")
    objects.put(key(digest), b"wrong")
    with raising(Corrupted, naming=digest):
        blobs.materialize(digest, tmp_path / "out" / "file")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_changes_while_it_is_sent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 10_000_000)

    class Meddling(MemoryObjects):
        def stat(self, key: Key) -> None:
            path.write_bytes(b"b" * 10_000_000)  # after the digest is known, before the bytes are read

    objects = Meddling()
    with raising(Refused, naming="changed while it was being stored"):
        ObjectBlobs(objects).put_file(path)
    assert objects.objects == {}


def test_a_stream_that_does_not_fit_the_disk_stores_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    objects = MemoryObjects()
    with raising(OutOfSpace, naming=str(small_disk)):
        ObjectBlobs(objects).put(bytes(1 << 20) for _ in range(32))
    assert objects.objects == {}
    with raising(OutOfSpace, naming=str(small_disk)):
        blobs = ObjectBlobs(objects)
        blobs.materialize(blobs.put(bytes(4 << 20)), small_disk / "out")
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
def test_of_many_who_store_one_blob_at_once_one_creates_it(proxy: Proxy, blobs: ObjectBlobs) -> None:
    created: list[str] = []

    def plan(asked: Asked, ask: Ask) -> Answer:
        answer = ask(asked)
        if asked.method == "PUT" and answer.status == 200 and "/blobs/" in asked.path:
            created.append(asked.path)
        return answer

    proxy.plan = plan
    together = threading.Barrier(8)

    def race(_: int) -> list[Digest]:
        stored = []
        for turn in range(10):
            together.wait(60)
            stored.append(blobs.put(b"blob %d" % turn))
        return stored

    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(race, range(8)))
    assert all(each == stored[0] for each in stored)
    assert len(created) == len(set(created)) == 10
    assert list(blobs.digests()) == sorted(stored[0])


@pytest.mark.slow
def test_a_large_blob_goes_in_parts_and_comes_in_ranges(
    proxy: Proxy, blobs: ObjectBlobs, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    digest = blobs.put_file(tmp_path / "large")
    assert len([path for path in proxy.paths("PUT") if "partNumber" in path]) >= 8
    blobs.materialize(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == LARGE
    assert len({each.range for each in proxy.asked if each.method == "GET"}) >= 8
    with blobs.open(digest) as stream:
        assert stream.read(1000) == LARGE[:1000]


@pytest.mark.slow
def test_what_is_there_is_not_sent_again(proxy: Proxy, blobs: ObjectBlobs, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    digest = blobs.put_file(tmp_path / "large")
    before = len(proxy.asked)
    assert blobs.put_file(tmp_path / "large") == blobs.put(LARGE) == blobs.put([LARGE]) == digest
    asked = proxy.asked[before:]
    assert [each.method for each in asked] == ["HEAD", "PUT", "GET", "HEAD"] * 3
    assert all("/renewed/" in each.path for each in asked if each.method == "PUT")


@pytest.mark.slow
def test_a_download_that_broke_off_is_gone_on_with(proxy: Proxy, blobs: ObjectBlobs, tmp_path: Path) -> None:
    digest = blobs.put(LARGE)
    target = tmp_path / "folder" / "out"

    def plan(asked: Asked, ask: Ask) -> Answer | None:
        if asked.range.startswith("bytes=41943040-"):  # its sixth piece
            proxy.vanish()
            return None
        return ask(asked)

    proxy.plan = plan
    with raising(Unavailable, naming=proxy.endpoint):
        blobs.materialize(digest, target)
    assert not target.exists()
    with Proxy(proxy.upstream) as again:
        address = blobs._objects.address
        blobs = ObjectBlobs(ObstoreObjects(ObjectAddress.parse(f"{address}?endpoint={again.endpoint}")))
        blobs.materialize(digest, target)
        assert target.read_bytes() == LARGE
        assert [path.name for path in target.parent.iterdir()] == ["out"]
        starts = sorted(int(each.range[6:].partition("-")[0]) for each in again.asked if each.range)
        assert starts[0] > 0


@pytest.mark.slow
def test_a_half_that_was_spoilt_is_thrown_away(blobs: ObjectBlobs, tmp_path: Path) -> None:
    digest = blobs.put(LARGE)
    part = tmp_path / f".out.{digest[7:23]}.part"
    part.write_bytes(b"x" * 1000)
    with raising(Unavailable, naming="thrown away"):
        blobs.materialize(digest, tmp_path / "out")
    blobs.materialize(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == LARGE


@pytest.mark.slow
def test_two_downloads_to_one_place_do_not_disturb_each_other(blobs: ObjectBlobs, tmp_path: Path) -> None:
    digest = blobs.put(LARGE)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: blobs.materialize(digest, tmp_path / "out"), range(3)))
    assert (tmp_path / "out").read_bytes() == LARGE
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


@pytest.mark.slow
def test_bytes_that_are_damaged_on_the_way_are_not_held_against_the_store(
    proxy: Proxy, blobs: ObjectBlobs
) -> None:
    digest = blobs.put(b"right")
    damaged = iter([True])

    def plan(asked: Asked, ask: Ask) -> Answer:
        answer = ask(asked)
        if asked.method == "GET" and next(damaged, False):
            return Answer(answer.status, answer.headers, b"wrong")
        return answer

    proxy.plan = plan
    with raising(Unavailable, naming="arrived damaged"):
        blobs.get(digest)
    assert blobs.get(digest) == b"right"


@pytest.mark.slow
def test_a_store_that_vanishes_while_a_blob_is_sent_has_no_blob(
    proxy: Proxy, blobs: ObjectBlobs, moto: str
) -> None:
    def plan(asked: Asked, ask: Ask) -> Answer | None:
        if "partNumber=3" in asked.path:
            proxy.vanish()
            return None
        return ask(asked)

    proxy.plan = plan
    with raising(Unavailable, naming=proxy.endpoint):
        blobs.put(LARGE)
    address = ObjectAddress.parse(f"{blobs._objects.address}?endpoint={moto}")
    there = ObjectBlobs(ObstoreObjects(address))
    assert list(there.digests()) == []
    assert there.size(there.put(LARGE)) == len(LARGE)


def test_a_renewal_waits_for_every_sweeper_that_has_marked_its_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = MemoryObjects()
    blobs = ObjectBlobs(objects)
    digest = blobs.put(b"contested")
    (entry,) = blobs.entries()
    marks = [Key(f"sweeping/{key(digest).removeprefix('blobs/')}/{number}") for number in range(2)]
    for mark in marks:
        objects.put(mark, b"")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        objects.delete([marks[len(waits) - 1]])
        if len(waits) == 2:  # the second sweeper had looked before, and removes it
            objects.delete([key(digest)])

    monkeypatch.setattr("fourfold.adapters.object_blobs.time.sleep", sleep)
    assert not blobs.renew(digest)
    assert len(waits) == 2
    assert blobs.put(b"contested") == digest
    assert blobs.get(digest) == b"contested"
    assert not blobs.collect(digest, entry.put_at)


def test_a_mark_of_a_sweeper_that_died_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = MemoryObjects()
    blobs = ObjectBlobs(objects)
    digest = blobs.put(b"x")
    mark = Key(f"sweeping/{key(digest).removeprefix('blobs/')}/dead")
    objects.put(mark, b"")
    monkeypatch.setattr("fourfold.adapters.object_blobs.DEAD_S", -1.0)
    assert blobs.renew(digest)
    assert objects.stat(mark) is None
