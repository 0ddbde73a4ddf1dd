"""A project in a folder: every part of it behind the adapter that its address names."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from fourfold.core.errors import NotFound, Refused
from fourfold.core.services import PROTOCOLS
from fourfold.core.settings import Settings
from fourfold.wiring.places import find_home, make_folder, read_settings, refuse_unseen, settings_text
from fourfold.wiring.stores import Stores

if TYPE_CHECKING:
    from fourfold.catalog.database import Catalog
    from fourfold.catalog.service import CatalogService
    from fourfold.core.compute import Unit
    from fourfold.core.context import Ref
    from fourfold.core.ports.archive import TableCopies
    from fourfold.core.ports.blobs import BlobStore
    from fourfold.core.ports.buffer import RowBuffer
    from fourfold.core.ports.clock import Clock
    from fourfold.core.ports.engine import Engine
    from fourfold.core.ports.event_sink import EventSink
    from fourfold.core.ports.online import OnlineStore
    from fourfold.core.ports.tables import TableStore
    from fourfold.core.storage import Column
    from fourfold.foundation.compute.environments import Environments
    from fourfold.foundation.compute.service import Compute
    from fourfold.foundation.storage.backup import Backups
    from fourfold.foundation.storage.datasets.service import Datasets
    from fourfold.foundation.storage.folders.service import Files
    from fourfold.foundation.storage.service import Storage
    from fourfold.foundation.storage.upkeep import Upkeep
    from fourfold.mlplatform.features.service import FeatureStore
    from fourfold.mlplatform.hosting.host import HostDoor
    from fourfold.mlplatform.hosting.service import HostingService
    from fourfold.mlplatform.models.service import Models
    from fourfold.resources.flows.openlineage.service import LineageEvents
    from fourfold.resources.flows.service import FlowService
    from fourfold.wiring.engines import Engines
    from fourfold.workbench.service import Workbench

T = TypeVar("T")


class part(Generic[T]):  # noqa: N801 - used like `property`
    """A part of a project, opened once, when it is first asked for."""

    def __init__(self, open_it: Callable[[Project], T]) -> None:
        self._open = open_it
        self._name = open_it.__name__
        self.__doc__ = open_it.__doc__

    @overload
    def __get__(self, project: None, owner: type) -> part[T]: ...
    @overload
    def __get__(self, project: Project, owner: type) -> T: ...
    def __get__(self, project: Project | None, owner: type) -> part[T] | T:
        if project is None:
            return self
        found = project.parts.get(self._name)
        if found is None:
            with project.opening:
                found = project.parts.get(self._name)
                if found is None:
                    found = project.parts[self._name] = self._made(project)
        return cast(T, found)

    def _made(self, project: Project) -> T:
        made = self._open(project)
        protocol = PROTOCOLS.get(self._name)
        if protocol is None:
            return made
        # Inside a flow's body each call of a service is an implicit step; elsewhere it is just the call.
        from fourfold.resources.flows.journal import journalled

        return journalled(made, name=self._name, protocol=protocol)


class Project:
    """An open project: every service of `core.services`, over the adapters that its addresses name.

    It may be used from several threads. `close` stops what this process runs for it.
    """

    def __init__(self, home: Path, settings: Settings, *, is_restoring: bool = False) -> None:
        self.home = home
        self.settings = settings
        self.opening = threading.RLock()
        self.parts: dict[str, Any] = {}
        make_folder(home)
        if not is_restoring and (home / "restoring").exists():
            raise Refused(
                f"the project in {home} is being restored from a backup, or that was cut off",
                ways_on=["run it again, it goes on where it stopped: fourfold restore BACKUP"],
            )

    def __repr__(self) -> str:
        return f"<Project {self.settings.project} in {self.home}>"

    def close(self) -> None:
        """Close what was opened, the last first."""
        with self.opening:
            opened = list(self.parts.values())
            self.parts.clear()
        for each in reversed(opened):
            close = getattr(each, "close", None)
            if close is not None:
                close()
        for key in [key for key, project in _opened.items() if project is self]:
            del _opened[key]

    # Adapters, by the address of each part.

    @part
    def clock(self) -> Clock:
        from fourfold.adapters.system_clock import SystemClock

        return SystemClock()

    @part
    def database(self) -> Catalog:
        refuse_unseen(self.settings, os.environ, "catalog")
        from fourfold.catalog.database import Catalog

        return Catalog.open(self.database_url)

    @property
    def database_url(self) -> str:
        url = self.settings.catalog or f"sqlite:///{self.home / 'catalog.db'}"
        scheme, _, rest = url.partition("://")
        # SQLAlchemy's address also names the driver.
        return f"postgresql+psycopg://{rest}" if scheme == "postgresql" else url

    @part
    def stores(self) -> Stores:
        refuse_unseen(self.settings, os.environ, "storage")
        return Stores(self.settings, self.home)

    @part
    def blobs(self) -> BlobStore:
        return self.stores.blobs()

    @part
    def uploads(self) -> BlobStore:
        """Pieces of uploads, until the whole is there."""
        return self.stores.uploads()

    @part
    def tables(self) -> TableStore:
        return self.stores.tables()

    @part
    def copies(self) -> TableCopies:
        """The tables as files."""
        return self.stores.copies()

    @part
    def buffer(self) -> RowBuffer:
        """Where the catalog is: all who share the one share the other."""
        bounds, path = self.settings.buffer, self.database.path
        if path is None:
            from fourfold.adapters.postgres_buffer import PostgresBuffer

            return PostgresBuffer(self.database.url, most_bytes=bounds.most_bytes)
        from fourfold.adapters.sqlite_buffer import SqliteBuffer

        return SqliteBuffer(path.with_suffix(".buffer.db"), most_bytes=bounds.most_bytes)

    @part
    def online(self) -> OnlineStore:
        refuse_unseen(self.settings, os.environ, "online")
        from fourfold.adapters.lmdb_online import LmdbOnline

        return LmdbOnline(self._folder(self.settings.online, self.home / "online"))

    @part
    def unit(self) -> Unit:
        """This machine."""
        from fourfold.foundation.compute.units import find_unit

        return find_unit("local")

    @part
    def engines(self) -> Engines:
        from fourfold.wiring.engines import Engines

        return Engines(
            self.settings,
            self.home,
            lambda name: replace(self.unit, name=name),
            measured=lambda: self.compute.measured_speeds(),
        )

    @part
    def hosting_engine(self) -> Engine:
        return self._engine_here("hosting")

    @part
    def workbench_engine(self) -> Engine:
        return self._engine_here("workbench")

    def _engine_here(self, use: str) -> Engine:
        """An engine of this machine, for what is bound to it."""
        return self.engines.open(self.engines.body_pool, use)

    @part
    def environments(self) -> Environments:
        from fourfold.foundation.compute.environments import Environments

        return Environments(self.home, project=self.home.parent, lock=self.settings.environment.lock)

    @part
    def token(self) -> str:
        """The owner's token, for the doors of this machine."""
        from fourfold.catalog.owner_token import owner_token

        return owner_token(self.home)

    # Services, from the ground floor up.

    @part
    def catalog(self) -> CatalogService:
        from fourfold.catalog.service import CatalogService

        return CatalogService(self.database, self.clock)

    @part
    def storage(self) -> Storage:
        from fourfold.foundation.storage.service import Storage

        return Storage(
            self.database,
            self.blobs,
            self.tables,
            self.clock,
            buffer=self.buffer,
            bounds=self.settings.buffer,
            exports=self.stores.exports,
        )

    @part
    def files(self) -> Files:
        from fourfold.adapters.blake3_digests import Blake3Digests
        from fourfold.adapters.fastcdc_chunks import FastCdcChunks
        from fourfold.foundation.storage.folders.service import Files

        return Files(
            self.database, self.blobs, self.uploads, self.clock, Blake3Digests(), chunker=FastCdcChunks
        )

    @part
    def upkeep(self) -> Upkeep:
        from fourfold.foundation.storage.upkeep import Upkeep

        return Upkeep(self.database, self.blobs, self.uploads, self.clock, folder=self.home)

    @part
    def datasets(self) -> Datasets:
        from fourfold.foundation.storage.datasets.service import Datasets

        return Datasets(
            self.database,
            self.storage,
            self.files,
            self.blobs,
            self.clock,
            abilities=self.tables.abilities,
        )

    @part
    def compute(self) -> Compute:
        from fourfold.foundation.compute.service import Compute
        from fourfold.foundation.compute.to_store import Store

        here, pools = self.engines.local_pools, self.settings.pools
        return Compute(
            self.database,
            self.clock,
            home=self.home,
            environments=self.environments,
            prices_usd_per_hour={name: pools[name].price_usd_per_hour for name in here},
            elsewhere_usd_per_hour={
                name: pool.price_usd_per_hour for name, pool in pools.items() if name not in here
            },
            service_pools=self.engines.service_pools(),
            traits={name: pools[name].traits(name) for name in here},
            store=Store(self.stores.place, self.stores.is_afar, lambda: self.blobs),
        )

    @part
    def flows(self) -> FlowService:
        from fourfold.catalog.ids import new_id
        from fourfold.core.decide.pools import PoolRules
        from fourfold.resources.flows.crew import Settings as LoopSettings
        from fourfold.resources.flows.service import FlowService
        from fourfold.resources.flows.starters import Brought

        return FlowService(
            self.database,
            self.blobs,
            home=self.home,
            pools=lambda: self.engines.plans("flows"),
            clock=self.clock,
            new_id=new_id,
            environment=lambda: self.compute.present_environment().identity,
            accounts=self.compute,
            resolve=self.current_version,
            lineage_events=self.lineage_events,
            owning=lambda: self.host_door.open(),
            far=self.engines.far,
            brought=Brought(self.compute.environment, lambda: settings_text(self.home)),
            beside=lambda: self.compute.held_by_services(),
            settings=LoopSettings(
                most_bodies=self.settings.flows.bodies,
                most_idle_in=self.engines.most_warm(),
                idle_s_in=self.engines.warm_s(),
                pools=PoolRules(
                    self.settings.default_pool,
                    self.settings.flows.pool,
                    tuple(self.settings.flows.pools.items()),
                ),
                body_pool=self.engines.body_pool,
                away_s=self.settings.control.away_s,
            ),
        )

    @part
    def lineage_events(self) -> LineageEvents:
        from fourfold.resources.flows.openlineage.facts import ProjectFacts
        from fourfold.resources.flows.openlineage.service import LineageEvents

        store = self.settings.storage.partition("?")[0]
        if not store or store.startswith("file://"):
            store = f"file://{self._folder(store, self.home).resolve()}"
        facts = ProjectFacts(
            self.database,
            lambda: self.storage,
            project=self.settings.project,
            store=store,
            columns_of=self._columns_of,
        )
        return LineageEvents(self.database, facts, self.clock, sink=self._event_sink())

    def _columns_of(self, ref: Ref) -> tuple[Column, ...]:
        """The columns of a training set: lineage tells of it, and lives below the room that makes it."""
        from fourfold.mlplatform.features.tables import FeatureRecords

        if ref.kind != "training_set":
            return ()
        return FeatureRecords(self.database).training_set_columns(ref.name)

    def _event_sink(self) -> EventSink | None:
        """Where events about lineage go, if anywhere."""
        address = self.settings.openlineage
        if not address:
            return None
        if address.startswith("file://"):
            from fourfold.adapters.openlineage_file import FileEvents

            return FileEvents(self._folder(address, self.home / "openlineage.jsonl"))
        from fourfold.adapters.openlineage_http import HttpEvents

        return HttpEvents(address, token=os.environ.get("FOURFOLD_OPENLINEAGE_TOKEN", ""))

    @part
    def features(self) -> FeatureStore:
        from fourfold.mlplatform.features.service import FeatureStore

        return FeatureStore(
            self.database, storage=self.storage, online=self.online, blobs=self.blobs, clock=self.clock
        )

    @part
    def models(self) -> Models:
        from fourfold.mlplatform.models.service import Models

        return Models(self.database, self.blobs, self.clock)

    @part
    def hosting(self) -> HostingService:
        from fourfold.adapters.gateway_client import HttpGatewayClient
        from fourfold.adapters.unix_model_worker import UnixWorkerDoor
        from fourfold.adapters.uvicorn_server import UvicornServer
        from fourfold.mlplatform.hosting.homes import LocalHomes
        from fourfold.mlplatform.hosting.service import HostingService, Local

        return HostingService(
            self.database,
            storage=self.storage,
            features=self.features,
            models=self.models,
            client=HttpGatewayClient(self.token),
            clock=self.clock,
            token=self.token,
            local=Local(
                engine=self.hosting_engine,
                homes=LocalHomes(
                    self.home / "models",
                    materialize=self.models.materialize,
                    python_for=self.environments.python_for,
                ),
                door=UnixWorkerDoor,
                http=UvicornServer,
                load=self.models.load,
                project=self.home,
            ),
        )

    @part
    def host_door(self) -> HostDoor:
        """Where steps ask the process that owns the loop, which outlives them, for the gateway."""
        from fourfold.mlplatform.hosting.host import HostDoor

        return HostDoor(self.home, lambda port: self.hosting.host_gateway(port=port).url)

    @part
    def workbench(self) -> Workbench:
        from fourfold.adapters.papermill_notebooks import PapermillNotebooks
        from fourfold.workbench.service import Workbench

        return Workbench(
            self.database,
            self.blobs,
            self.clock,
            home=self.home,
            engine=self.workbench_engine,
            notebooks=PapermillNotebooks(),
            compute=self.compute,
        )

    @part
    def backups(self) -> Backups:
        from fourfold.foundation.storage.backup import Backups

        return Backups(
            self.database,
            storage=self.storage,
            blobs=self.blobs,
            copies=self.copies,
            online=self.online,
            clock=self.clock,
            project=self.settings.project,
        )

    # How.

    def current_version(self, ref: Ref) -> str | None:
        """What a thing that a cached step read stands for now; `None` when that cannot be told."""
        try:
            match ref.kind:
                case "table":
                    return str(self.storage.flush(ref.name).version)  # what waits is something new too
                case "feature_service":
                    return self.features.service(ref.name).version
                case "files":
                    return str(self.files.describe(ref.name).version)
                case "dataset":
                    return str(self.datasets.released(ref.name).version)
                case "model":  # a version never changes; it may be gone
                    return str(self.models.resolve(f"{ref.name}/{ref.version}").number)
                case "blob" | "run" | "training_set" | "endpoint":  # an endpoint has no versions
                    return ref.version
                case _:
                    return None
        except NotFound:
            return None

    def _folder(self, address: str, default: Path) -> Path:
        """The folder of a local address; a relative one is relative to the project."""
        path = address.partition("://")[2]
        return (self.home.parent / path) if path else default


_opened: dict[tuple[int, Path], Project] = {}
_opening = threading.Lock()


def open_project() -> Project:
    """The project whose folder is found from here, opened once per process."""
    home = find_home(os.environ, Path.cwd()).resolve()
    with _opening:
        project = _opened.get((os.getpid(), home))
        if project is None:
            project = _opened[os.getpid(), home] = Project(home, read_settings(home, os.environ))
        return project
