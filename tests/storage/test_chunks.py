"""Files in chunks: what is stored is what is new, and what comes back is what was saved."""

from __future__ import annotations

import io
import random
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.adapters.blake3_digests import Blake3Digests
from fourfold.adapters.fastcdc_chunks import AVERAGE_BYTES, MOST_BYTES, FastCdcChunks
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.catalog.database import Catalog
from fourfold.core.chunks import Layout, key, stretches
from fourfold.core.errors import Corrupted, Missing, Refused, TooMuch
from fourfold.core.files import File, manifest_of
from fourfold.core.ports.blobs import Digest
from fourfold.core.times import Instant
from fourfold.core.upkeep import GRACE_S
from fourfold.foundation.storage.folders import packing
from fourfold.foundation.storage.folders.api import Files as Handle
from fourfold.foundation.storage.folders.service import Files
from fourfold.foundation.storage.upkeep import Upkeep
from fourfold.testing.clock import MovableClock

NOISE = random.Random(5).randbytes(4 << 20)


@pytest.fixture
def blobs(home: Path) -> LocalBlobs:
    return LocalBlobs(home / "blobs")


@pytest.fixture
def files(sqlite_catalog: Catalog, home: Path, blobs: LocalBlobs, clock: MovableClock) -> Files:
    uploads = LocalBlobs(home / "uploads")
    return Files(sqlite_catalog, blobs, uploads, clock, Blake3Digests(), FastCdcChunks)


@pytest.fixture
def data(files: Files) -> Handle:
    return Handle("data", service=files)


def written(folder: Path, **files: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def cut(data: bytes) -> list[bytes]:
    return list(FastCdcChunks().cut(io.BytesIO(data)))


@given(st.binary(max_size=2000), st.integers(0, 40), st.integers(0, 2**32))
@settings(max_examples=20)
def test_chunks_joined_are_the_bytes(start: bytes, repeats: int, seed: int) -> None:
    data = (start + random.Random(seed).randbytes(5000)) * repeats
    chunks = cut(data)
    assert b"".join(chunks) == data
    assert all(0 < len(chunk) <= MOST_BYTES for chunk in chunks)


@given(st.integers(0, len(NOISE)), st.binary(min_size=1, max_size=3000))
@settings(max_examples=8)
def test_an_insertion_changes_few_chunks(at: int, inserted: bytes) -> None:
    before = set(cut(NOISE))
    after = cut(NOISE[:at] + inserted + NOISE[at:])
    new_bytes = sum(len(chunk) for chunk in after if chunk not in before)
    assert new_bytes <= len(inserted) + 8 * AVERAGE_BYTES


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(1, 9)), max_size=12))
def test_stretches_hold_the_same_spans_and_are_whole(given: list[tuple[int, int, int]]) -> None:
    spans = [(pack, offset, length, "x") for pack, offset, length in given]
    joined = list(stretches(spans, 12))
    assert [span for _, _, part in joined for span in part] == spans
    for pack, offset, part in joined:
        at = offset
        for span in part:
            assert span[:2] == (pack, at)
            at += span[2]
        assert at - offset <= 12


def test_a_version_adds_what_changed_and_comes_back_whole(
    data: Handle, blobs: LocalBlobs, tmp_path: Path
) -> None:
    first = data.save(written(tmp_path / "in", a=NOISE, b=b"small", empty=b""), chunked=True)
    assert first.added_bytes == first.size_bytes == len(NOISE) + 5
    changed = NOISE[:1_000_000] + b"inserted" + NOISE[1_000_000:]
    second = data.save(written(tmp_path / "in", a=changed))
    assert second.chunks is not None, "unsaid, it is as the version before"
    assert second.added_bytes < len(NOISE) / 10
    assert second.size_bytes == len(changed) + 5
    stored = sum(entry.size_bytes for entry in blobs.entries())
    assert stored < 1.2 * len(NOISE)
    for number, content in enumerate((NOISE, changed)):
        data.version(number).materialize(tmp_path / f"out{number}")
        assert (tmp_path / f"out{number}/a").read_bytes() == content
        assert (tmp_path / f"out{number}/empty").read_bytes() == b""
        assert data.version(number).read("a") == content
    assert (tmp_path / "out1/b").stat().st_mode & 0o777 == 0o444


def test_chunked_and_whole_files_are_the_same_manifest(data: Handle, files: Files, tmp_path: Path) -> None:
    whole = data.save(written(tmp_path / "in", a=NOISE), chunked=False)
    chunked = Handle("other", service=files).save(tmp_path / "in", chunked=True)
    assert chunked.manifest == whole.manifest
    assert (whole.chunks is None, chunked.chunks is None) == (True, False)


def test_many_small_files_lie_in_few_packs(data: Handle, blobs: LocalBlobs, tmp_path: Path) -> None:
    images = {f"image{number}": random.Random(number).randbytes(2000) for number in range(100)}
    data.save(written(tmp_path / "in", **images), chunked=True)
    assert len(list(blobs.digests())) == 3, "a pack, the list of chunks, the manifest"
    data.materialize(tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == images


def test_packs_have_a_size(data: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES", 1 << 20)
    made = data.save(written(tmp_path / "in", a=NOISE), chunked=True)
    assert made.added_bytes == len(NOISE)
    data.materialize(tmp_path / "out")
    assert (tmp_path / "out/a").read_bytes() == NOISE
    monkeypatch.setattr(packing, "MOST_CHUNKS", 10)
    with pytest.raises(TooMuch, match="more than 10 chunks"):
        data.save(tmp_path / "in")


def test_garbage_collection_keeps_packs_of_older_versions_that_newer_ones_use(
    data: Handle, files: Files, blobs: LocalBlobs, sqlite_catalog: Catalog, home: Path, tmp_path: Path
) -> None:
    data.save(written(tmp_path / "in", a=NOISE), chunked=True)
    data.save(written(tmp_path / "in", a=b"x" + NOISE))
    clock = MovableClock(Instant(time.time_ns() // 1000))
    clock.advance(2 * GRACE_S)
    upkeep = Upkeep(sqlite_catalog, blobs, LocalBlobs(home / "uploads"), clock, folder=home)
    assert upkeep.collect_garbage().removed_count == 0
    assert upkeep.missing() == (), "a file in chunks is no blob, and none is missed"
    assert data.read("a") == b"x" + NOISE
    files.drop("data")
    assert upkeep.collect_garbage().cited_count == 0


def test_a_spoilt_pack_is_never_served(data: Handle, home: Path, tmp_path: Path) -> None:
    data.save(written(tmp_path / "in", a=NOISE), chunked=True)
    pack = max((home / "blobs").glob("??/??/*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    with pack.open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"!")
    with pytest.raises(Corrupted, match=r"a file in chunks.*pack .* is wrong"):
        data.materialize(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(Corrupted):
        data.read("a")


def test_a_list_of_chunks_that_lies_makes_no_file(files: Files, blobs: LocalBlobs, tmp_path: Path) -> None:
    digests = Blake3Digests()
    pack = blobs.put(b"0123456789")
    whole, name = digests.of(b"01239"), digests.of(b"0123").removeprefix("blake3:")
    manifest = blobs.put(manifest_of([File("a", whole, 5)]).encoded())

    def layout(*spans: tuple[int, int, int, str]) -> Digest:
        return blobs.put(Layout("x", (pack,), {key(whole): spans}).encoded())

    with pytest.raises(Refused, match="lies in no pack"):
        files.commit("data", manifest=manifest, chunks=layout((1, 0, 4, name)))
    with pytest.raises(Refused, match="has not the size"):
        files.commit("data", manifest=manifest, chunks=layout((0, 0, 4, name)))
    files.commit("data", manifest=manifest, chunks=layout((0, 0, 4, name), (0, 8, 1, name)))
    with pytest.raises(Corrupted):
        files.read("data", "a")


def test_without_the_library_the_command_to_install_it_is_told(
    data: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyfastcdc", None)
    with pytest.raises(Missing, match=r"pip install 'fourfold\[chunks\]'"):
        data.save(written(tmp_path / "in", a=b"1"), chunked=True)
    assert data.save(tmp_path / "in").version == 0
