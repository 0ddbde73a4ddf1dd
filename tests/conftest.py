"""Fixtures that all rooms share."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import fourfold

if TYPE_CHECKING:
    from fourfold.catalog.database import Catalog
    from fourfold.foundation.storage.service import Storage
    from fourfold.testing.clock import MovableClock

settings.register_profile("quick", max_examples=12, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

POSTGRES = os.environ.get("FOURFOLD_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")


def import_all_tables() -> None:
    """Import each room's `tables` module, so that the metadata object knows every table."""
    for module in pkgutil.walk_packages(fourfold.__path__, "fourfold."):
        room, _, last = module.name.rpartition(".")
        if last == "tables" and not room.startswith(("fourfold.core", "fourfold.testing")):
            importlib.import_module(module.name)


@contextmanager
def fresh_postgres() -> Iterator[str]:
    """The URL of an empty schema in the test server; dropped afterwards. Skips where there is no server."""
    import sqlalchemy as sa

    server = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    schema = f"test_{uuid.uuid4().hex}"
    try:
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    except sa.exc.OperationalError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no PostgreSQL at FOURFOLD_TEST_POSTGRES={POSTGRES}: {error.orig}")
    try:
        yield f"{POSTGRES}?options=-csearch_path%3D{schema}"
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        server.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database: a fresh SQLite file, then a fresh schema of PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/catalog.db"
    else:
        with fresh_postgres() as url:
            yield url


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file as the migrations leave it, made once; copying it is what most tests begin with."""
    from fourfold.catalog.database import Catalog

    path = tmp_path_factory.mktemp("empty") / "catalog.db"
    Catalog.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def catalog(catalog_url: str, empty_sqlite: Path) -> Iterator[Catalog]:
    """A catalog with every room's tables, on SQLite and on PostgreSQL."""
    from fourfold.catalog.database import Catalog

    if catalog_url.startswith("sqlite"):
        shutil.copyfile(empty_sqlite, catalog_url.removeprefix("sqlite:///"))
    catalog = Catalog.open(catalog_url)
    yield catalog
    catalog.close()


@pytest.fixture
def sqlite_catalog(tmp_path: Path, empty_sqlite: Path) -> Iterator[Catalog]:
    """A catalog with every room's tables on SQLite only: for tests that are not about the database."""
    from fourfold.catalog.database import Catalog

    shutil.copyfile(empty_sqlite, tmp_path / "catalog.db")
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    yield catalog
    catalog.close()


@pytest.fixture
def clock() -> MovableClock:
    """A clock that stands at 2026-01-01T00:00:00Z until a test moves it."""
    from fourfold.testing.clock import MovableClock

    return MovableClock()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, named by FOURFOLD_HOME."""
    folder = tmp_path / ".fourfold"
    folder.mkdir()
    monkeypatch.setenv("FOURFOLD_HOME", str(folder))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB of its own, to be filled. Skips where this user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("a small disk needs root on Linux: mount -t tmpfs was refused")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def storage(sqlite_catalog: Catalog, home: Path, clock: MovableClock) -> Storage:
    """Real storage: catalog in SQLite, local blobs, Delta tables, all under the test's own folder."""
    from fourfold.adapters.delta import DeltaTables
    from fourfold.adapters.local_blobs import LocalBlobs
    from fourfold.foundation.storage.service import Storage

    return Storage(sqlite_catalog, LocalBlobs(home / "blobs"), DeltaTables(home / "tables"), clock)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The endpoint of an S3 server in a process of its own, the same for all tests of this one."""
    from tests.s3 import MOTO, serving

    with serving(MOTO) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def localbucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another S3 server: it has no request that deletes many, and ignores If-Match."""
    from tests.s3 import LOCALBUCKET, serving

    with serving(LOCALBUCKET, str(tmp_path_factory.mktemp("buckets"))) as endpoint:
        yield endpoint


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Keys of nobody in the environment, and nothing else of this machine's own that S3 clients look at."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


@pytest.fixture
def s3(moto: str, aws: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket on a real S3 server, whose endpoint the environment names."""
    from tests.s3 import fresh_bucket

    aws.setenv("AWS_ENDPOINT_URL", moto)
    return f"s3://{fresh_bucket(moto)}/team"
