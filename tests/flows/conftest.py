"""A project in a folder of its own, with the real loop, the real engine and real worker processes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.adapters.local_engine import LocalEngine
from fourfold.adapters.system_clock import SystemClock
from fourfold.catalog.database import Catalog
from fourfold.catalog.ids import new_id
from fourfold.core import context
from fourfold.core.compute import Unit
from fourfold.resources.flows.service import FlowService


class Storage:
    """Only the blobs of the storage service: what large values need."""

    def __init__(self, blobs: LocalBlobs) -> None:
        self.put_blob = blobs.put
        self.get_blob = blobs.get


@dataclass
class Project:
    """An open project, and a way to write modules of flows into it."""

    folder: Path
    flows: FlowService
    unit: Unit

    def module(self, name: str, source: str) -> ModuleType:
        (self.folder / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def calls(self, run: str) -> dict[str, str]:
        return {str(call.key): call.state.value for call in self.flows.graph(run).calls}


def open_project(folder: Path, unit: Unit) -> tuple[FlowService, Catalog, LocalBlobs]:
    home = folder / ".fourfold"
    home.mkdir(exist_ok=True)
    catalog = Catalog(f"sqlite:///{home}/catalog.db")
    from fourfold.catalog.database import metadata

    with catalog.write() as connection:
        metadata.create_all(connection)
    blobs = LocalBlobs(home / "blobs")
    flows = FlowService(
        catalog,
        blobs,
        home=home,
        engine=lambda: LocalEngine(home / "jobs", unit=unit, cwd=folder),
        clock=SystemClock(),
        new_id=new_id,
    )
    return flows, catalog, blobs


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    unit = Unit("local", cores=2, memory_bytes=4 << 30)
    flows, catalog, blobs = open_project(tmp_path, unit)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    services: Any = SimpleNamespace(flows=flows, storage=Storage(blobs))
    opener: Callable[[], Any] | None = context._opener
    context.set_opener(lambda: services)
    yield Project(tmp_path, flows, unit)
    flows.close()
    catalog.close()
    if opener is not None:
        context.set_opener(opener)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
