"""The catalog that says which metadata file is a table's newest: a SQL database, or a REST service."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pyiceberg.catalog import Catalog

from fourfold.adapters.iceberg.files import Place, sync_folder
from fourfold.core.errors import Refused

NAME = "fourfold"
BUSY_S = 30
"""How long a writer waits for SQLite's lock."""
KINDS = ("sqlite", "postgresql", "http", "https")


@dataclass(frozen=True, slots=True)
class Opened:
    """A catalog, the namespace in it, and how its writers wait for each other."""

    catalog: Catalog
    namespace: str
    places_tables: bool = True
    """Whether we say where a new table lies; a REST catalog says so itself."""
    lock: Path | None = None
    """A file to lock while one commits. Nothing relies on it: it spares writers of one machine lost tries."""

    def turn(self) -> AbstractContextManager[None]:
        return nullcontext() if self.lock is None else _locked(self.lock)


def opened(address: str, place: Place) -> Opened:
    """The catalog of an address: `sqlite:///file`, `postgresql://…`, `https://…` (REST).

    After a `?`: `namespace=…`, and what the database or the service takes
    (REST: `warehouse=…`, `prefix=…`).
    """
    base, _, query = address.partition("?")
    options = dict(each.partition("=")[::2] for each in query.split("&") if each)
    namespace = options.pop("namespace", NAME)
    scheme, _, rest = base.partition("://")
    properties = {**place.properties(), "warehouse": place.root}
    if scheme in {"http", "https"}:
        return Opened(_rest(base, properties, options), namespace, places_tables=False)
    lock = None
    if scheme == "sqlite":
        path = Path(rest[1:]) if rest.startswith("/") else Path(rest)
        if not path.is_absolute():
            raise Refused(f"the Iceberg catalog's file '{path}' is no absolute path")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock")
        options.setdefault("timeout", str(BUSY_S))
    elif scheme == "postgresql":
        base = f"postgresql+psycopg://{rest}"
    else:
        raise Refused(
            f"no Iceberg catalog answers '{address}'",
            ways_on=["accepted: " + ", ".join(f"iceberg+{each}://…" for each in KINDS)],
        )
    tail = "&".join(f"{name}={value}" for name, value in options.items())
    return Opened(_sql(f"{base}?{tail}" if tail else base, properties, lock), namespace, lock=lock)


def _sql(uri: str, properties: dict[str, str], lock: Path | None) -> Catalog:
    from pyiceberg.catalog.sql import SqlCatalog

    with nullcontext() if lock is None else _locked(lock):  # two at once would both make its tables
        return SqlCatalog(NAME, **properties, uri=uri)


def _rest(uri: str, properties: dict[str, str], options: dict[str, str]) -> Catalog:
    """A REST catalog. Its token comes from the environment, as `ICEBERG_TOKEN` or `ICEBERG_CREDENTIAL`."""
    from pyiceberg.catalog.rest import RestCatalog

    for name in ("token", "credential"):
        if secret := os.environ.get(f"ICEBERG_{name.upper()}"):
            properties[name] = secret
    return RestCatalog(NAME, **{**properties, **options}, uri=uri)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if is_new:
            sync_folder(path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
