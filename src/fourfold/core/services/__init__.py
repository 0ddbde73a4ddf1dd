"""The services of the floors, as protocols: what the facade, the doors and a remote client share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from fourfold.core.routes import Route, routes
from fourfold.core.services.catalog import CatalogService
from fourfold.core.services.compute import Compute
from fourfold.core.services.datasets import Datasets
from fourfold.core.services.features import Features
from fourfold.core.services.files import Files
from fourfold.core.services.flows import Flows
from fourfold.core.services.hosting import Hosting
from fourfold.core.services.models import Models
from fourfold.core.services.storage import Storage
from fourfold.core.services.upkeep import Upkeep
from fourfold.core.services.workbench import Workbench

PROTOCOLS: dict[str, type] = {
    "catalog": CatalogService,
    "storage": Storage,
    "files": Files,
    "upkeep": Upkeep,
    "datasets": Datasets,
    "compute": Compute,
    "flows": Flows,
    "features": Features,
    "models": Models,
    "hosting": Hosting,
    "workbench": Workbench,
}
"""Every service by its attribute on `Services`, from the ground floor up."""


class Services(Protocol):
    """All services of one project. `wiring` opens them; a remote client fulfils the same."""

    @property
    def catalog(self) -> CatalogService: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def files(self) -> Files: ...
    @property
    def upkeep(self) -> Upkeep: ...
    @property
    def datasets(self) -> Datasets: ...
    @property
    def compute(self) -> Compute: ...
    @property
    def flows(self) -> Flows: ...
    @property
    def features(self) -> Features: ...
    @property
    def models(self) -> Models: ...
    @property
    def hosting(self) -> Hosting: ...
    @property
    def workbench(self) -> Workbench: ...


def all_routes() -> Iterator[Route]:
    """Every route that any service declares."""
    for name, protocol in PROTOCOLS.items():
        yield from routes(name, protocol)
