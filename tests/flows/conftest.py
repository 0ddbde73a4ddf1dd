"""A project in a folder of its own, with the real loop, the real engine and real worker processes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.conftest import import_all_tables

from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.local_engine import LocalEngine
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.catalog.ids import new_id
from fourfold.core import context
from fourfold.core.compute import Unit
from fourfold.core.context import Ref
from fourfold.core.ports.clock import Clock
from fourfold.foundation.compute.environments import Environments
from fourfold.foundation.compute.service import Compute
from fourfold.resources.flows.service import FlowService
from fourfold.resources.pools.pool import PoolPlan

UNIT = Unit("local", cores=2, memory_bytes=4 << 30)


@dataclass
class Project:
    """An open project, and a way to write modules of flows into it."""

    folder: Path
    catalog: Catalog
    blobs: LocalBlobs
    compute: Compute
    flows: FlowService
    versions: dict[Ref, str] = field(default_factory=dict)
    """What names stand for, where a test says so; a version stands for itself elsewhere."""

    def module(self, name: str, source: str) -> ModuleType:
        """Write a module and import it; written again, it is imported again."""
        (self.folder / f"{name}.py").write_text("import fourfold.resources.flows.api as ff\n" + source)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def calls(self, run: str) -> dict[str, str]:
        return {str(call.key): call.state.value for call in self.flows.graph(run).calls}

    def count(self, name: str) -> int:
        """How many lines the steps have written into a file of the project's folder."""
        path = self.folder / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def pools(self) -> tuple[PoolPlan, ...]:
        """One pool, this machine."""
        return (
            PoolPlan(
                "local",
                lambda: LocalEngine(self.folder / ".fourfold" / "jobs", unit=UNIT, cwd=self.folder),
                is_default=True,
                measured=self.compute.measured_speeds,
            ),
        )

    def another(self, clock: Clock | None = None) -> FlowService:
        """Another process's view of the same project (in this process)."""
        return FlowService(
            self.catalog,
            self.blobs,
            home=self.folder / ".fourfold",
            pools=self.pools,
            clock=clock or SystemClock(),
            new_id=new_id,
            environment=lambda: "env",
            accounts=self.compute,
            resolve=lambda ref: self.versions.get(Ref(ref.kind, ref.name), ref.version),
        )


@contextmanager
def opened(folder: Path, clock: Clock | None = None) -> Iterator[Project]:
    """A fresh project in `folder`, which is also the working folder and importable."""
    home = folder / ".fourfold"
    home.mkdir()
    import_all_tables()
    catalog = Catalog(f"sqlite:///{home}/catalog.db")
    catalog.create_all()
    blobs = LocalBlobs(home / "blobs")
    compute = Compute(
        catalog,
        SystemClock(),
        home=home,
        environments=Environments(home, project=folder, lock=""),
        prices_usd_per_hour={"local": 3.6},
        find=lambda name: UNIT,
    )
    project = Project(folder, catalog, blobs, compute, flows=None)  # type: ignore[arg-type]
    project.flows = project.another(clock)
    before, cwd, opener = set(sys.modules), Path.cwd(), context._opener
    services: Any = SimpleNamespace(flows=project.flows)
    context.set_opener(lambda: services)
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        yield project
    finally:
        project.flows.close()
        catalog.close()
        os.chdir(cwd)
        sys.path.remove(str(folder))
        _restore(opener)
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


def _restore(opener: Callable[[], Any] | None) -> None:
    if opener is not None:
        context.set_opener(opener)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One project for the tests of a module: its workers stay warm."""
    with opened(tmp_path_factory.mktemp("project")) as project:
        yield project


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Project]:
    """A project of this test's own."""
    with opened(tmp_path) as project:
        yield project
