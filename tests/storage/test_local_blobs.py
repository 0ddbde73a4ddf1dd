"""Blobs on a local disk: cut at every step of a put, read once, put aside and healed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.storage.power import Disk

from fourfold.adapters import local_blobs
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.core.errors import Corrupted, OutOfSpace
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.foundation.storage.known import SETTLED_NS, KnownFiles, remembering

pytestmark = pytest.mark.slow

LARGE = os.urandom(local_blobs.READ_BYTES + 12_345)
Put = Callable[[LocalBlobs, Path], Digest]
PUTS: dict[str, Put] = {
    "bytes": lambda store, _: store.put(LARGE),
    "pieces": lambda store, _: store.put([LARGE[:200_000], LARGE[200_000:]]),
    "a file": lambda store, path: store.put_file(path),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def steps_of(disk: Disk, tmp_path: Path, put: Put, file: Path) -> int:
    with disk.killed_at(1000):
        put(LocalBlobs(tmp_path / "counted"), file)
    assert 5 < disk.steps < 100
    return disk.steps


@pytest.mark.parametrize("how", PUTS)
def test_a_put_cut_at_any_step_leaves_all_of_it_or_nothing(
    how: str, tmp_path: Path, file: Path, disk: Disk
) -> None:
    for step in range(steps_of(disk, tmp_path, PUTS[how], file)):
        folder = tmp_path / f"killed {step}"
        earlier = LocalBlobs(folder).put(b"earlier")
        with disk.killed_at(step):
            PUTS[how](LocalBlobs(folder), file)
        for names_last in (True, False):
            left = disk.after_power_cut(folder, tmp_path / f"cut {step} {names_last}", names_last=names_last)
            store = LocalBlobs(left)
            found = {store.get(digest) for digest in store.digests()}
            assert b"earlier" in found
            assert found <= {b"earlier", LARGE}
        assert LocalBlobs(folder).get(PUTS[how](LocalBlobs(folder), file)) == LARGE
        assert LocalBlobs(folder).get(earlier) == b"earlier"


@pytest.mark.parametrize("how", PUTS)
def test_what_was_acknowledged_survives_a_power_cut(how: str, tmp_path: Path, file: Path, disk: Disk) -> None:
    digest = PUTS[how](LocalBlobs(tmp_path / "blobs"), file)
    left = LocalBlobs(disk.after_power_cut(tmp_path / "blobs", tmp_path / "left", names_last=False))
    assert left.get(digest) == LARGE


@pytest.mark.parametrize("how", PUTS)
def test_a_disk_that_is_full_at_any_step_refuses_in_words_and_keeps_no_half(
    how: str, tmp_path: Path, file: Path, disk: Disk
) -> None:
    for step in range(steps_of(disk, tmp_path, PUTS[how], file)):
        store = LocalBlobs(tmp_path / f"full {step}")
        with disk.full_at(step), suppress(OutOfSpace):  # what only tidies may fail, and the put be done
            PUTS[how](store, file)
        assert list((tmp_path / f"full {step}" / "new").iterdir()) == []
        assert {store.get(digest) for digest in store.digests()} <= {LARGE}
        assert store.get(PUTS[how](store, file)) == LARGE


def test_a_file_that_changes_while_it_is_stored_is_stored_under_what_was_stored(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.copy_file_range

    def meanwhile(*args: int) -> int:
        copied = real(*args)
        file.write_bytes(b"other bytes" * 200_000)
        return copied

    monkeypatch.setattr(os, "copy_file_range", meanwhile)
    store = LocalBlobs(tmp_path / "blobs")
    store.get(store.put_file(file))  # verified


def test_a_file_on_a_disk_that_the_kernel_cannot_copy_from_is_stored_all_the_same(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    store = LocalBlobs(tmp_path / "blobs")
    assert store.put_file(file) == store.put(LARGE)


@given(st.lists(st.binary(max_size=300_000), max_size=12))
@settings(max_examples=15)
def test_a_digest_does_not_depend_on_how_the_bytes_came(pieces: list[bytes]) -> None:
    digesting = local_blobs._Digesting()
    with digesting:
        for piece in pieces:
            digesting.add(piece)
        assert digesting.digest() == local_blobs._digest_of(b"".join(pieces))


def test_a_sweep_waits_for_a_put_that_is_giving_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking at a blob's age and removing it, no put can come and be lost."""
    store = LocalBlobs(tmp_path)
    digest = store.put(b"old and cited by nobody")
    (entry,) = store.entries()
    real, puts = os.unlink, []

    def unlink(path: str) -> None:
        if Path(path).parent.parent.parent == tmp_path:  # the age was looked at: now somebody puts it
            puts.append(threading.Thread(target=LocalBlobs(tmp_path).put, args=(b"old and cited by nobody",)))
            puts[-1].start()
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    assert store.collect(digest, type(entry.put_at)(entry.put_at + 1))
    monkeypatch.undo()
    puts[0].join(10)
    assert store.get(digest) == b"old and cited by nobody"


def test_wrong_bytes_are_listed_until_they_are_released_and_healed_by_the_right_ones(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    digest = store.put(b"the right bytes")
    (path,) = tmp_path.glob("??/??/*")
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    with pytest.raises(Corrupted):
        store.get(digest)
    (aside,) = store.quarantined()
    assert (aside.digest, aside.size_bytes) == (digest, 5)
    assert store.put(b"the right bytes") == digest
    assert store.get(digest) == b"the right bytes"
    store.release(digest)
    assert list(store.quarantined()) == []


def test_a_blob_that_was_healed_while_its_bad_bytes_were_read_stays(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    digest = store.put(b"the right bytes")
    (path,) = tmp_path.glob("??/??/*")
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    with store.open(digest) as reading:
        assert store.put(b"the right bytes") == digest  # its size tells that it is not there
        with pytest.raises(Corrupted):
            reading.read()
    assert store.get(digest) == b"the right bytes"
    assert list(store.quarantined()) == []


def test_a_blob_that_was_cut_short_is_stored_again_by_a_put(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    digest = store.put(LARGE)
    (path,) = tmp_path.glob("??/??/*")
    path.chmod(0o644)
    os.truncate(path, 100)
    assert store.put([LARGE]) == digest
    assert store.get(digest) == LARGE


class Counting:
    """A store that counts how often a file was read."""

    def __init__(self, store: LocalBlobs) -> None:
        self.reads = 0
        self._store = store

    def put_file(self, path: Path) -> Digest:
        self.reads += 1
        return self._store.put_file(path)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


class TestKnownFiles:
    @pytest.fixture
    def counting(self, tmp_path: Path) -> Counting:
        return Counting(LocalBlobs(tmp_path / "blobs"))

    def remembering(self, counting: Counting, tmp_path: Path, *, later_ns: int = 2 * SETTLED_NS) -> BlobStore:
        def now() -> int:
            return os.stat(tmp_path / "file").st_ctime_ns + later_ns

        return remembering(counting, KnownFiles(tmp_path / "known", now_ns=now))  # type: ignore[arg-type]

    def test_a_file_that_did_not_change_is_read_once(
        self, counting: Counting, tmp_path: Path, file: Path
    ) -> None:
        digest = self.remembering(counting, tmp_path).put_file(file)
        assert self.remembering(counting, tmp_path).put_file(file) == digest
        assert counting.reads == 1

    def test_a_file_that_may_still_change_unseen_is_read_again(
        self, counting: Counting, tmp_path: Path, file: Path
    ) -> None:
        store = self.remembering(counting, tmp_path, later_ns=SETTLED_NS)
        assert store.put_file(file) == store.put_file(file)
        assert counting.reads == 2

    def test_a_file_from_the_future_is_read_again(
        self, counting: Counting, tmp_path: Path, file: Path
    ) -> None:
        store = self.remembering(counting, tmp_path, later_ns=-1)
        store.put_file(file)
        store.put_file(file)
        assert counting.reads == 2

    def test_a_change_is_seen_even_when_size_and_times_were_put_back(
        self, counting: Counting, tmp_path: Path, file: Path
    ) -> None:
        store = self.remembering(counting, tmp_path)
        first, known = store.put_file(file), file.stat()
        file.write_bytes(LARGE[::-1])
        os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
        assert store.put_file(file) != first

    def test_a_known_file_whose_blob_is_gone_is_stored_again(
        self, counting: Counting, tmp_path: Path, file: Path
    ) -> None:
        store = self.remembering(counting, tmp_path)
        digest = store.put_file(file)
        store.delete(digest)
        assert store.get(store.put_file(file)) == LARGE

    def test_a_torn_record_counts_as_none(self, counting: Counting, tmp_path: Path, file: Path) -> None:
        store = self.remembering(counting, tmp_path)
        digest = store.put_file(file)
        known = bytearray((tmp_path / "known").read_bytes())
        known[-20] ^= 1
        (tmp_path / "known").write_bytes(known)
        assert store.put_file(file) == digest
        assert counting.reads == 2


def test_a_store_that_is_opened_on_a_full_disk_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    with disk.full_at(0), pytest.raises(OutOfSpace, match="nothing was stored"):
        LocalBlobs(tmp_path / "blobs")
