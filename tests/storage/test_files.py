"""Versioned folders: what is saved comes back, version by version, and nothing half."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.storage.conftest import Attempt
from tests.storage.power import Disk

from fourfold.adapters.blake3_digests import Blake3Digests
from fourfold.adapters.fastcdc_chunks import FastCdcChunks
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.object_blobs import ObjectBlobs
from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import Corrupted, NotFound, OutOfSpace, Refused
from fourfold.core.files import File, Manifest, check_path, diff, manifest_of
from fourfold.core.ports.blobs import Digest
from fourfold.core.times import Instant
from fourfold.core.upkeep import GRACE_S
from fourfold.foundation.storage.folders.api import Files as Handle
from fourfold.foundation.storage.folders.service import Files
from fourfold.foundation.storage.upkeep import Upkeep
from fourfold.testing.clock import MovableClock
from fourfold.testing.objects import MemoryObjects

pytestmark = pytest.mark.slow

Tree = dict[str, tuple[bytes, bool]]
"""Path to bytes and the executable bit."""


def make(catalog: Catalog, home: Path, clock: MovableClock | None = None) -> Files:
    stores = LocalBlobs(home / "blobs"), LocalBlobs(home / "uploads")
    return Files(catalog, *stores, clock or MovableClock(), Blake3Digests(), FastCdcChunks)


@pytest.fixture
def files(sqlite_catalog: Catalog, home: Path, clock: MovableClock) -> Files:
    return make(sqlite_catalog, home, clock)


@pytest.fixture
def images(files: Files) -> Handle:
    return Handle("images", service=files)


def written(folder: Path, tree: Tree) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for path, (data, is_executable) in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        (folder / path).chmod(0o755 if is_executable else 0o644)
    return folder


def found(folder: Path) -> Tree:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file()
    }


FIRST: Tree = {"a/cat.png": (b"cat", False), "a/b/dog.png": (b"dog", False), "run.sh": (b"echo", True)}
SECOND: Tree = {"a/cat.png": (b"another cat", False), "run.sh": (b"echo", False), "new": (b"", False)}

signs = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/\\.")
parts = st.one_of(st.sampled_from("ab"), st.text(signs, min_size=1, max_size=6))
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
trees = st.dictionaries(paths, st.tuples(st.binary(max_size=50), st.booleans()), min_size=1, max_size=6)
trees = trees.filter(lambda tree: not clash(tree))


def clash(tree: Iterable[str]) -> bool:
    """Whether a path is both a file and a folder."""
    return any(other.startswith(path + "/") for path in tree for other in tree)


# Manifests


def file(path: str, number: int = 0, size_bytes: int = 1) -> File:
    return File(path, Digest(f"blake3:{number:064x}"), size_bytes)


entries = st.builds(file, paths, st.integers(0, 2**256 - 1), st.integers(0, 2**50))
some = st.lists(entries, max_size=5, unique_by=lambda each: each.path)
some = some.filter(lambda files: not clash([each.path for each in files]))


@given(some, st.randoms(use_true_random=False))
def test_equal_files_are_one_manifest_in_whatever_order_they_come(listed: list[File], chance: object) -> None:
    manifest = manifest_of(listed)
    chance.shuffle(listed)  # type: ignore[attr-defined]
    assert manifest_of(listed).encoded() == manifest.encoded()
    assert Manifest.read(manifest.encoded()) == manifest


@given(some, some)
def test_a_diff_leads_from_one_manifest_to_the_other(before: list[File], after: list[File]) -> None:
    change = diff(manifest_of(before), manifest_of(after))
    made = {each.path: each for each in before}
    for gone in change.removed:
        del made[gone.path]
    made |= {each.path: each for each in (*change.added, *change.changed)}
    assert manifest_of(made.values()) == manifest_of(after)
    assert change.same_count == len(set(before) & set(after))


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\\b"),
        *("a\nb", "a\x00b", "a\ud800", "x" * 256, "a/" * 600 + "b"),
    ],
)
def test_a_path_that_could_leave_its_folder_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="is not inside the folder"):
        check_path(path)
    with pytest.raises(Refused):
        manifest_of([file("fine"), file(path)])


def test_a_manifest_that_is_not_sound_is_refused() -> None:
    sound = manifest_of([file("a"), file("b")]).encoded()
    for wrong, because in (
        (b"{}", "files"),
        (sound.replace(b'"a"', b'"b"'), "twice"),
        (sound.replace(b'"path":"a"', b'"path":"b/c"'), "canonical|both"),
        (sound.replace(b'"format":1', b'"format":2'), "format 2"),
        (sound + b" ", "canonical"),
    ):
        with pytest.raises(Refused, match=because):
            Manifest.read(wrong)
    with pytest.raises(Refused, match="both a file and a folder"):
        manifest_of([file("a"), file("a/b")])


# Saving and reading


@given(trees)
@settings(max_examples=12)
def test_what_was_saved_comes_back(empty_sqlite: Path, tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copyfile(empty_sqlite, home / "catalog.db")
        catalog = Catalog.open(f"sqlite:///{home}/catalog.db")
        try:
            images = Handle("images", service=make(catalog, home))
            made = images.save(written(home / "in", tree))
            assert (made.version, made.file_count) == (0, len(tree))
            images.materialize(home / "out")
            assert found(home / "out") == tree
            assert {each.path for each in images.ls()} == set(tree)
            path = min(tree)
            assert images.read(path) == tree[path][0]
        finally:
            catalog.close()


def test_every_version_stays_as_it_was(images: Handle, tmp_path: Path) -> None:
    first = images.save(written(tmp_path / "in", FIRST), message="animals")
    assert (first.added_bytes, first.size_bytes, first.message) == (10, 10, "animals")
    second = images.save(written(tmp_path / "in", SECOND))
    assert (second.version, second.added_bytes, second.size_bytes) == (1, 11, 15)
    images.version(0).tag("gold")
    for number, (handle, tree) in enumerate(
        ((images.version(0), FIRST), (images, SECOND), (images.tagged("gold"), FIRST))
    ):
        handle.materialize(tmp_path / f"out {number}")
        assert found(tmp_path / f"out {number}") == tree
    assert [version.version for version in images.history()] == [1, 0]
    change = images.version(0).diff(images)
    assert [[f.path for f in part] for part in (change.added, change.removed, change.changed)] == [
        ["new"],
        ["a/b/dog.png"],
        ["a/cat.png", "run.sh"],
    ]


def test_the_same_files_make_no_new_version(images: Handle, tmp_path: Path) -> None:
    for _ in range(2):
        assert images.save(written(tmp_path / "in", FIRST)).version == 0
    assert images.save(written(tmp_path / "in", SECOND)).version == 1
    assert images.save(written(tmp_path / "in", FIRST)).version == 2, "it is another than the newest"


def test_materialised_files_are_read_only_and_share_the_stores_bytes(
    images: Handle, files: Files, tmp_path: Path
) -> None:
    images.save(written(tmp_path / "in", FIRST))
    images.materialize(tmp_path / "out")
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert modes == {"cat.png": 0o444, "dog.png": 0o444, "run.sh": 0o555}
    assert (tmp_path / "out/a/cat.png").stat().st_nlink == 2
    assert (tmp_path / "out/run.sh").stat().st_nlink == 1


def test_one_file_is_a_folder_with_it(images: Handle, tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(b"1")
    images.save(tmp_path / "one.bin")
    assert [each.path for each in images.ls()] == ["one.bin"]


def test_links_are_refused_or_followed_to_files_as_asked(images: Handle, tmp_path: Path) -> None:
    folder = written(tmp_path / "in", {"a": (b"a", False)})
    (folder / "link").symlink_to("a")
    with pytest.raises(Refused, match="link is a link"):
        images.save(folder)
    images.save(folder, follow_links=True)
    images.materialize(tmp_path / "out")
    assert found(tmp_path / "out") == {"a": (b"a", False), "link": (b"a", False)}
    (folder / "round").symlink_to(folder)
    with pytest.raises(Refused, match="links to folders are never followed"):
        images.save(folder, follow_links=True)


def test_what_is_no_file_is_refused_and_a_projects_own_folder_left_out(
    images: Handle, tmp_path: Path
) -> None:
    folder = written(tmp_path / "in", {"a": (b"a", False), ".fourfold/catalog.db": (b"!", False)})
    images.save(folder)
    assert [each.path for each in images.ls()] == ["a"]
    os.mkfifo(folder / "pipe")
    with pytest.raises(Refused, match="no file and no folder"):
        images.save(folder)
    (folder / "pipe").unlink()
    (folder / os.fsdecode(b"not utf-8 \xff")).write_bytes(b"")
    with pytest.raises(Refused, match="not inside"):
        images.save(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="has no files"):
        images.save(tmp_path / "empty")
    with pytest.raises(NotFound, match="is not a folder"):
        images.save(tmp_path / "absent")


def test_a_folder_with_something_in_it_is_never_written_to(images: Handle, tmp_path: Path) -> None:
    images.save(written(tmp_path / "in", FIRST))
    (tmp_path / "empty").mkdir()
    images.materialize(tmp_path / "empty")
    assert found(tmp_path / "empty") == FIRST
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for there in ("empty", "link", "in/run.sh"):
        with pytest.raises(Refused, match="there already"):
            images.materialize(tmp_path / there)
    assert found(tmp_path / "in") == FIRST


def test_a_materialisation_that_fails_leaves_nothing(
    images: Handle, files: Files, home: Path, tmp_path: Path
) -> None:
    images.save(written(tmp_path / "in", FIRST))
    for path in (home / "blobs").glob("??/??/*"):
        if path.read_bytes() == b"dog":
            path.chmod(0o644)
            path.write_bytes(b"god")
    before = set(tmp_path.iterdir())
    with pytest.raises(Corrupted):
        images.materialize(tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def test_unknown_names_versions_tags_and_paths_come_with_what_there_is(
    images: Handle, files: Files, tmp_path: Path
) -> None:
    images.save(written(tmp_path / "in", FIRST))
    images.tag("gold")
    for attempt, told in (
        (lambda: Handle("imagse", service=files).describe(), "did you mean 'images'"),
        (lambda: Handle("imagse", service=files).history(), "did you mean 'images'"),
        (lambda: images.version(7).describe(), "versions: 0 to 0"),
        (lambda: images.tagged("glod").describe(), "did you mean 'gold'"),
        (lambda: images.read("a/cta.png"), "did you mean 'a/cat.png'"),
    ):
        with pytest.raises(NotFound, match=told):
            attempt()
    for wrong in ("", "../x", "a b"):
        with pytest.raises(Refused, match="cannot name files"):
            Handle(wrong)
    with pytest.raises(Refused, match="cannot be a tag"):
        images.tag("7")
    with pytest.raises(Refused, match="older version"):
        images.version(0).save(tmp_path / "in")


def test_a_dropped_name_is_retired_and_its_blobs_become_garbage(
    images: Handle, files: Files, sqlite_catalog: Catalog, home: Path, tmp_path: Path
) -> None:
    images.save(written(tmp_path / "in", FIRST))
    clock = MovableClock(Instant(time.time_ns() // 1000))
    clock.advance(2 * GRACE_S)
    stores = LocalBlobs(home / "blobs"), LocalBlobs(home / "uploads")
    upkeep = Upkeep(sqlite_catalog, *stores, clock, folder=tmp_path)
    assert upkeep.collect_garbage().removed_count == 0
    files.drop("images", why="no longer needed")
    with pytest.raises(NotFound, match="were dropped at"):
        images.describe()
    with pytest.raises(Refused, match="retired"):
        images.save(tmp_path / "in")
    assert files.list_files() == ()
    assert upkeep.collect_garbage().removed_count == 4, "three files and their manifest"


# Who saved, and what was read


def test_a_step_records_what_it_saved_and_read_and_a_repeat_saves_once(
    images: Handle, tmp_path: Path
) -> None:
    folder = written(tmp_path / "in", FIRST)
    first, again = Attempt(), Attempt(number=2)
    with context.within(first):
        made = images.save(folder)
    images.save(written(tmp_path / "in", SECOND))
    written(tmp_path / "in", FIRST)
    with context.within(again):
        assert images.save(folder) == made
        images.read("run.sh")
        images.materialize(tmp_path / "out")
    assert (made.by, made.step) == ("ada", "step:run_1/build@1")
    assert first.writes == again.writes == [Ref("files", "images", "0")]
    assert again.reads == [Ref("files", "images", "1")] * 2
    assert [version.version for version in images.history()] == [1, 0]


def test_files_live_in_an_object_store_as_on_a_disk(
    sqlite_catalog: Catalog, tmp_path: Path, clock: MovableClock
) -> None:
    stores = ObjectBlobs(MemoryObjects()), ObjectBlobs(MemoryObjects())
    files = Files(sqlite_catalog, *stores, clock, Blake3Digests(), FastCdcChunks)
    trees = {"whole": FIRST, "chunked": SECOND}
    for name, tree in trees.items():
        made = Handle(name, service=files).save(written(tmp_path / "in", tree), chunked=name == "chunked")
        assert made.size_bytes == sum(len(data) for data, _ in tree.values())
    later = MovableClock(Instant(time.time_ns() // 1000))
    later.advance(2 * GRACE_S)
    upkeep = Upkeep(sqlite_catalog, *stores, later, folder=tmp_path)
    stores[0].put(b"garbage")
    assert upkeep.collect_garbage().removed_count == 1
    assert upkeep.missing() == upkeep.check().bad == ()
    for name, tree in trees.items():
        Handle(name, service=files).materialize(tmp_path / name)
        assert found(tmp_path / name) == tree


def test_of_many_who_save_at_once_each_gets_a_version_of_its_own(
    catalog: Catalog, home: Path, tmp_path: Path
) -> None:
    start = threading.Barrier(4)

    def save(number: int) -> int:
        images = Handle("images", service=make(catalog, home))
        folder = written(tmp_path / str(number), {"n": (b"%d" % number, False)})
        start.wait(60)
        return images.save(folder).version

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(save, range(4))) == [0, 1, 2, 3]
    images = Handle("images", service=make(catalog, home))
    assert {images.version(number).read("n") for number in range(4)} == {b"0", b"1", b"2", b"3"}


# Faults


def test_a_manifest_whose_files_are_not_stored_makes_no_version(files: Files, home: Path) -> None:
    blobs = LocalBlobs(home / "blobs")
    absent = blobs.put(manifest_of([file("a", 7)]).encoded())
    with pytest.raises(NotFound, match="1 blob is not stored") as told:
        files.commit("images", manifest=absent)
    assert told.value.facts["digests"] == [file("a", 7).digest]
    wrong = blobs.put(manifest_of([File("a", blobs.put(b"123"), 4)]).encoded())
    with pytest.raises(Refused, match="changed while it was saved"):
        files.commit("images", manifest=wrong)
    with pytest.raises(Refused):
        files.commit("images", manifest=blobs.put(b"no manifest"))
    with pytest.raises(NotFound):
        files.commit("images", manifest=file("x", 9).digest)
    assert files.list_files() == ()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_version_that_is_lost_does_not_hinder_the_next(
    images: Handle, home: Path, tmp_path: Path, chunked: bool
) -> None:
    first = images.save(written(tmp_path / "in", FIRST), chunked=chunked)
    for digest in (first.manifest, first.chunks):
        if digest is not None:
            LocalBlobs(home / "blobs").delete(digest)
    with pytest.raises(NotFound):
        images.materialize(tmp_path / "out")
    second = images.save(written(tmp_path / "in", SECOND))
    assert (second.version, second.chunks is not None) == (1, chunked)
    images.materialize(tmp_path / "out")
    assert found(tmp_path / "out") == SECOND


def test_a_save_that_took_longer_than_the_grace_stores_again_what_was_swept(
    images: Handle, files: Files, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    blobs, real = LocalBlobs(home / "blobs"), files.commit

    def commit(name: str, **given: object) -> object:
        if not calls:
            for digest in list(blobs.digests()):
                blobs.delete(digest)
        calls.append(name)
        return real(name, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "commit", commit)
    assert images.save(written(tmp_path / "in", FIRST)).version == 0
    assert len(calls) == 2
    images.materialize(tmp_path / "out")
    assert found(tmp_path / "out") == FIRST


@pytest.mark.parametrize("chunked", [False, True])
def test_a_materialisation_cut_at_any_step_leaves_all_files_or_no_folder(
    images: Handle, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr("fourfold.foundation.storage.folders.ways.AT_ONCE", 1)
    images.save(written(tmp_path / "in", FIRST), chunked=chunked)
    disk = Disk(monkeypatch)
    with disk.killed_at(1000):
        images.materialize(tmp_path / "counted")
    steps = disk.steps
    assert 8 < steps < 60
    for fault in (disk.killed_at, disk.full_at):
        for step in range(steps):
            out = tmp_path / f"{fault.__name__} {step}"
            with suppress(OutOfSpace, OSError), fault(step):
                images.materialize(out)
            assert not out.exists() or found(out) == FIRST
            if not out.exists():
                images.materialize(out)
                assert found(out) == FIRST


@pytest.mark.slow
def test_a_save_cut_at_any_step_leaves_a_whole_version_or_none(
    sqlite_catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourfold.foundation.storage.folders.ways.AT_ONCE", 1)
    folder = written(tmp_path / "in", FIRST)
    disk = Disk(monkeypatch)
    with disk.killed_at(1000):
        Handle("counted", service=make(sqlite_catalog, tmp_path / "counted")).save(folder)
    steps = disk.steps
    assert 20 < steps < 200
    for fault in (disk.killed_at, disk.full_at):
        for step in range(0, steps, 3):
            home = tmp_path / f"{fault.__name__} {step}"
            images = Handle(f"images-{home.name.replace(' ', '-')}", service=make(sqlite_catalog, home))
            with suppress(OutOfSpace), fault(step):
                images.save(folder)
            left = Handle(images.name, service=make(sqlite_catalog, home))
            with suppress(NotFound):  # no version
                left.materialize(tmp_path / f"out {home.name}")
                assert found(tmp_path / f"out {home.name}") == FIRST
            assert left.save(folder).version == 0
            left.materialize(tmp_path / f"again {home.name}")
            assert found(tmp_path / f"again {home.name}") == FIRST


def test_the_other_digest_is_computed_when_it_is_asked_for_and_kept(
    images: Handle, files: Files, home: Path, tmp_path: Path
) -> None:
    expected = {path: hashlib.sha256(data).hexdigest() for path, (data, _) in FIRST.items()}
    first = images.save(written(tmp_path / "in", FIRST), sha256=True)
    assert {path: images.sha256(path) for path in FIRST} == expected
    assert images.save(tmp_path / "in") == first, "it is no part of what a version is"
    digest = LocalBlobs(home / "blobs").put(b"abc")
    expected_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(digest) == files.sha256(digest) == expected_abc
    LocalBlobs(home / "blobs").delete(digest)
    with pytest.raises(NotFound):
        files.sha256(digest)
    with pytest.raises(NotFound, match=r"did you mean 'run\.sh'"):
        images.sha256("run.hs")
    with pytest.raises(Refused, match="not kept whole"):
        images.save(tmp_path / "in", chunked=True, sha256=True)
