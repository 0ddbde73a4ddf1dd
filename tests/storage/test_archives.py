"""Every place for backups keeps its promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourfold import wiring
from fourfold.adapters.object_archive import ObjectArchive
from fourfold.adapters.object_blobs import ObjectBlobs
from fourfold.testing.archives import check_archive, check_many
from fourfold.testing.objects import MemoryObjects


@pytest.mark.parametrize("place", ["folder", "file.zip"])
def test_a_place_on_the_disk_keeps_backups(tmp_path: Path, place: str) -> None:
    where = str(tmp_path / place)
    check_archive(lambda: wiring.new_archive(where), lambda: wiring.open_archive(where))


def test_a_folder_takes_many(tmp_path: Path) -> None:
    check_many(lambda: wiring.new_archive(str(tmp_path / "folder")))


def test_an_object_store_keeps_backups() -> None:
    objects = MemoryObjects()
    archive = ObjectArchive(objects, ObjectBlobs(objects))
    check_archive(lambda: archive, lambda: archive)


def test_an_object_store_takes_many() -> None:
    objects = MemoryObjects()
    check_many(lambda: ObjectArchive(objects, ObjectBlobs(objects)))


@pytest.mark.slow
def test_a_real_one_keeps_backups(s3: str) -> None:
    check_archive(lambda: wiring.new_archive(s3), lambda: wiring.open_archive(s3))
