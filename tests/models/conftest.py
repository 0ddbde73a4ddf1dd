"""A store with real blobs and a real database, and runs to save from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from tests.models import late_flights as project

from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.core.context import Ref
from fourfold.core.errors import FourfoldError
from fourfold.core.models import Code, CodeFile, Host, ModelVersion, NewRun, Replay
from fourfold.foundation.compute.environments import lock_for
from fourfold.mlplatform.models.loading import load_folder
from fourfold.mlplatform.models.runs.recorder import Recorder
from fourfold.mlplatform.models.saving import Saver
from fourfold.mlplatform.models.service import Models

if TYPE_CHECKING:
    from fourfold.catalog.database import Catalog
    from fourfold.testing.clock import MovableClock

HERE = Host("box", 1, "linux", 2)
CARD = "Will a flight be late? For planning gates; not for passengers. Owner: ada."


@dataclass
class Store:
    """The service and what a test needs around it."""

    models: Models
    blobs: LocalBlobs
    clock: MovableClock
    folder: Path

    def new_run(self, **changes: Any) -> NewRun:
        code = Code(entry="train", files=(CodeFile("train.py", self.blobs.put(b"print('trained')\n")),))
        given = {"name": "train", "code": code, "data": (Ref("table", "flights", "3"),), "host": HERE}
        return NewRun(**{**given, **changes})

    def saver(self) -> Saver:
        return Saver(self.models, put=self.blobs.put, get=self.blobs.get, dependencies=lock_for)

    def recorder(self, key: str = "", **changes: Any) -> Recorder:
        return Recorder(
            self.models,
            self.new_run(**changes),
            key=key,
            put=self.blobs.put,
            put_file=self.blobs.put_file,
            saver=self.saver(),
        )

    def save(
        self, model: object = None, *, metrics: Mapping[str, float] | None = None, **changes: Any
    ) -> ModelVersion:
        """A version of 'delays' that lacks nothing, but for what a test changes."""
        given: dict[str, Any] = {
            "name": "delays",
            "featurize": project.featurize,
            "predict": project.predict,
            "example": project.flights(5),
            "card": CARD,
            "tags": {"team": "gates"},
        }
        with self.recorder() as run:
            run.log({"auc": 0.7, **(metrics or {})})
            return run.save(model if model is not None else fitted(), **{**given, **changes})


def fitted(rows: pa.Table | None = None) -> project.Threshold:
    """A model that has learned."""
    table = project.flights() if rows is None else rows
    return project.Threshold().fit(project.featurize(table), project.late(table))


def replay_here(folder: Path) -> Replay:
    """Replays in this process: starting one costs a second, and one test does it."""
    try:
        return load_folder(folder).replay
    except FourfoldError as error:
        return Replay(False, str(error))


@pytest.fixture
def make_store(tmp_path: Path, clock: MovableClock) -> Callable[[Catalog], Store]:
    blobs = LocalBlobs(tmp_path / "blobs")

    def make(catalog: Catalog) -> Store:
        models = Models(catalog, blobs, clock, replay=replay_here, here=Host("box", 1))
        return Store(models, blobs, clock, tmp_path)

    return make


@pytest.fixture
def store(sqlite_catalog: Catalog, make_store: Callable[[Catalog], Store]) -> Store:
    """The store on SQLite: for tests that are not about the database."""
    return make_store(sqlite_catalog)


@pytest.fixture
def any_store(catalog: Catalog, make_store: Callable[[Catalog], Store]) -> Store:
    """The store on SQLite and on PostgreSQL."""
    return make_store(catalog)
