"""Where blobs and tables lie: on this disk or in an object store; tables in Delta format, or in Iceberg's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.core.errors import Missing, Refused
from fourfold.core.objects import SCHEMES, ObjectAddress
from fourfold.core.settings import Settings

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

    from fourfold.adapters.delta.place import Place
    from fourfold.adapters.object_store import ObstoreObjects
    from fourfold.core.ports.archive import TableCopies
    from fourfold.core.ports.blobs import BlobStore
    from fourfold.core.ports.tables import TableStore


class Stores:
    """The stores of a project, each opened when it is first asked for."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self._settings = settings
        self._home = home

    def blobs(self) -> BlobStore:
        from fourfold.adapters.local_blobs import LocalBlobs
        from fourfold.adapters.object_blobs import ObjectBlobs
        from fourfold.foundation.storage.known import KnownFiles, remembering

        store = ObjectBlobs(self._objects) if self.is_afar else LocalBlobs(self._folder / "blobs")
        return remembering(store, KnownFiles(self._home / "known-files"))

    def uploads(self) -> BlobStore:
        """Pieces of uploads, until the whole is there: on this machine, wherever the whole will lie."""
        from fourfold.adapters.local_blobs import LocalBlobs

        return LocalBlobs((self._home if self.is_afar else self._folder) / "uploads")

    def tables(self) -> TableStore:
        if self._settings.tables:
            return self.iceberg(self._settings.tables)
        from fourfold.adapters.delta.store import DeltaTables

        return DeltaTables(self._place)

    def copies(self) -> TableCopies:
        """The tables as files."""
        if self._settings.tables:
            raise Refused(
                "tables in Iceberg format are not part of a backup: other programs write them too",
                ways_on=["back up the Iceberg catalog and its warehouse with their own means"],
            )
        from fourfold.adapters.delta.copies import DeltaCopies

        return DeltaCopies(self._place)

    @cached_property
    def exports(self) -> dict[str, Callable[[], TableStore]]:
        """Where tables may be exported to, each opened once, when it is asked for."""
        return {
            name: cache(partial(self.iceberg, address)) for name, address in self._settings.exports.items()
        }

    def iceberg(self, address: str) -> TableStore:
        """The tables of an Iceberg catalog: `iceberg+sqlite:///file`, `iceberg+https://…`.

        They lie in the warehouse that the address names, else beside what else this project stores.
        """
        try:
            from fourfold.adapters.iceberg import IcebergTables
        except ModuleNotFoundError as error:
            raise Missing(
                "tables in Iceberg format need pyiceberg", ways_on=["pip install 'fourfold[iceberg]'"]
            ) from error
        catalog, warehouse = self._catalog(address.removeprefix("iceberg+"))
        root, filesystem = self._warehouse(warehouse)
        return IcebergTables(catalog, root, filesystem)

    @property
    def is_afar(self) -> bool:
        """Whether it is an object store; else a folder."""
        return self._settings.storage.partition("://")[0] in SCHEMES

    @property
    def place(self) -> str:
        """Where it lies, as people are told."""
        if not self.is_afar:
            return f"file://{self._folder.resolve()}"
        address = ObjectAddress.parse(self._settings.storage)
        return f"{address} at {address.endpoint}" if address.endpoint else str(address)

    # How.

    @property
    def _folder(self) -> Path:
        """The folder of a local address; a relative one is relative to the project."""
        path = self._settings.storage.partition("://")[2]
        return self._home.parent / path if path else self._home

    @cached_property
    def _objects(self) -> ObstoreObjects:
        from fourfold.adapters.object_store import ObstoreObjects

        return ObstoreObjects(ObjectAddress.parse(self._settings.storage))

    @cached_property
    def _place(self) -> Place:
        if self.is_afar:
            from fourfold.adapters.delta.objects import ObjectPlace
            from fourfold.adapters.object_store import filesystem

            return ObjectPlace(self._objects, filesystem(self._objects))
        from fourfold.adapters.delta.local import LocalPlace

        return LocalPlace(self._folder / "tables")

    def _catalog(self, address: str) -> tuple[str, str]:
        """The catalog's address, its file made absolute, and the warehouse taken out of it."""
        base, _, query = address.partition("?")
        scheme, _, rest = base.partition("://")
        options = [each for each in query.split("&") if each]
        warehouse = ""
        if scheme in {"sqlite", "postgresql"}:  # what REST catalogs call a warehouse is theirs
            found = [each.removeprefix("warehouse=") for each in options if each.startswith("warehouse=")]
            options = [each for each in options if not each.startswith("warehouse=")]
            warehouse = found[-1] if found else ""
        if scheme == "sqlite":
            base = f"sqlite:///{self._home.parent / rest.removeprefix('/')}"
        return base + (f"?{'&'.join(options)}" if options else ""), warehouse

    def _warehouse(self, address: str) -> tuple[str, FileSystem | None]:
        from fourfold.adapters.object_store import ObstoreObjects, filesystem

        if address.partition("://")[0] in SCHEMES:
            objects = ObstoreObjects(ObjectAddress.parse(address))
            return str(objects.address), filesystem(objects)
        if not address and self.is_afar:
            return f"{self._objects.address}/iceberg", _below(filesystem(self._objects), "iceberg")
        folder = self._home.parent / address.removeprefix("file://") if address else self._folder / "iceberg"
        return f"file://{folder}", None


def _below(filesystem: FileSystem, folder: str) -> FileSystem:
    from pyarrow.fs import SubTreeFileSystem

    return SubTreeFileSystem(folder, filesystem)
