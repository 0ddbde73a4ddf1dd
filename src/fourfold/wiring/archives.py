"""Backups by their place: a folder of them, or one in a file; and the project that one is brought back to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core.errors import NotFound, Refused
from fourfold.core.objects import SCHEMES, ObjectAddress
from fourfold.core.settings import Settings
from fourfold.wiring.project import Project

if TYPE_CHECKING:
    from fourfold.core.backups import Backup, Progress
    from fourfold.core.ports.archive import Archive, OpenArchive

PIECES = "pieces"
"""In a folder of backups: where their pieces are."""


def open_archive(where: str | Path) -> Archive:
    """The backups that lie in a folder or an object store, or the one in a file."""
    from fourfold.adapters.folder_archive import FolderArchive
    from fourfold.adapters.local_blobs import LocalBlobs
    from fourfold.adapters.zip_archive import ZipReader

    if _is_afar(where):
        return _object_archive(str(where))
    place = Path(where)
    if place.is_file():
        return ZipReader(place)
    if not (place / PIECES).is_dir():
        raise NotFound(f"{place} holds no backup", ways_on=["take one: fourfold backup FOLDER"])
    return FolderArchive(place, LocalBlobs(place / PIECES))


def new_archive(where: str | Path) -> OpenArchive:
    """Where a backup is to be written: a new file, or a folder or object store that may hold earlier ones."""
    from fourfold.adapters.folder_archive import FolderArchive
    from fourfold.adapters.local_blobs import LocalBlobs
    from fourfold.adapters.zip_archive import ZipWriter

    if _is_afar(where):
        return _object_archive(str(where))
    place = Path(where).absolute()
    if place.suffix == ".zip":
        return ZipWriter(place)
    if place.is_file() or (place.is_dir() and any(place.iterdir()) and not (place / PIECES).is_dir()):
        raise Refused(
            f"{place} holds something else than backups",
            ways_on=["name a folder that is empty or not there yet, or a file that ends in .zip"],
        )
    return FolderArchive(place, LocalBlobs(place / PIECES))


def _is_afar(where: str | Path) -> bool:
    return str(where).partition("://")[0] in SCHEMES


def _object_archive(address: str) -> OpenArchive:
    from fourfold.adapters.object_archive import ObjectArchive
    from fourfold.adapters.object_blobs import ObjectBlobs
    from fourfold.adapters.object_store import ObstoreObjects

    objects = ObstoreObjects(ObjectAddress.parse(address))
    return ObjectArchive(objects, ObjectBlobs(objects))


def restore(
    home: Path, settings: Settings, archive: Archive, *, number: int | None, progress: Progress
) -> Backup:
    """Bring a project back from a backup, to where the settings say; the project must be empty."""
    from fourfold.catalog.database import Catalog
    from fourfold.foundation.storage.restore import restore

    project = Project(home, settings, is_restoring=True)
    database = Catalog(project.database_url)  # its tables come with the backup
    try:
        return restore(
            archive,
            home,
            catalog=database,
            blobs=project.blobs,
            tables=project.tables,
            copies=project.copies,
            online=project.online,
            buffer=project.buffer,
            number=number,
            progress=progress,
        )
    finally:
        database.close()
        project.close()
