"""Projects that are backed up and brought back, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from fourfold import wiring
from fourfold.core.backups import Backup, silent
from fourfold.core.context import Ref
from fourfold.core.lineage import Edge
from fourfold.core.ports.archive import OpenArchive
from fourfold.core.ports.online import Space
from fourfold.core.routes import Role
from fourfold.core.settings import Settings
from fourfold.core.storage import Digest
from fourfold.core.times import Instant


@contextmanager
def opened(home: Path, *, catalog: str = "", storage: str = "") -> Iterator[wiring.Project]:
    with closing(wiring.Project(home, Settings(catalog=catalog, storage=storage))) as project:
        yield project


def fill(project: wiring.Project) -> None:
    """Something in each place that a backup copies."""
    storage, catalog = project.storage, project.catalog
    storage.append("flights", pa.table({"n": [1, 2], "name": ["a", "b"]}))
    storage.append("flights", pa.table({"n": [3], "name": ["\u2708"]}))
    storage.tag("flights", "good", version=0, why="looked at")
    storage.append("parts", pa.table({"n": [1, 2], "day": ["x", "y"]}), partition_by=("day",))
    storage.fork("flights", "dev/try-1")
    storage.append("flights@dev/try-1", pa.table({"n": [7], "name": ["on a branch"]}))
    storage.append("gone", pa.table({"n": [1]}))
    storage.drop("gone")
    digest = storage.put_blob(b"\0bytes" * 1000)
    storage.put_blob(b"")
    catalog.record_edges([Edge(Ref("table", "flights", "0"), Ref("blob", digest), None, Instant(0))])
    catalog.grant("ada", Role.admin)
    catalog.set_project("description", "quotes \" ' and \\ and \n lines")
    with project.online.write() as writer:
        for number in range(3):
            writer.put(Space.buffer, b"k%d" % number, bytes(range(256)))


def back_up(project: wiring.Project, place: Path) -> Backup:
    with closing(wiring.new_archive(place)) as archive:
        return project.backups.write(archive)[1]


def bring_back(
    place: Path, home: Path, *, catalog: str = "", storage: str = "", number: int | None = None
) -> Backup:
    settings = Settings(catalog=catalog, storage=storage)
    with closing(wiring.open_archive(place)) as archive:
        return wiring.restore(home, settings, archive, number=number, progress=silent)


def content(backup: Backup) -> Backup:
    """What a backup holds, without when it was made."""
    return replace(backup, at=Instant(0))


def content_of(home: Path, place: Path, *, catalog: str = "", storage: str = "") -> Backup:
    with opened(home, catalog=catalog, storage=storage) as project:
        return content(back_up(project, place))


class Dying:
    """An archive whose n-th call of one kind is the last."""

    def __init__(self, archive: OpenArchive, calls: int) -> None:
        self._archive = archive
        self._left = calls

    def __getattr__(self, name: str) -> object:
        return getattr(self._archive, name)

    def put(self, read: Callable[[], object]) -> Digest:
        self._spend()
        return self._archive.put(read)  # type: ignore[arg-type]

    def commit(self, manifest: bytes) -> int:
        self._spend()
        return self._archive.commit(manifest)

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
