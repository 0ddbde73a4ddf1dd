"""The rows of services: what is kept, how it is, and who looks after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fourfold.catalog.database import Catalog, metadata
from fourfold.core import wire
from fourfold.core.serving import ServiceInfo, ServiceSpec, ServiceState
from fourfold.core.times import Instant

SERVICE = sa.Table(
    "compute_service",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),  # JSON: read whole, never searched
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),  # compare and swap
    sa.Column("keeper", sa.String(80), nullable=False),
    sa.Column("kept_until_us", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A service as it was read; `revision` tells whether it still is so."""

    spec: ServiceSpec
    state: ServiceState
    revision: int
    keeper: str = ""
    kept_until: Instant = Instant(0)

    def info(self, now: Instant) -> ServiceInfo:
        """For people."""
        return ServiceInfo(self.spec, self.state, self.kept_until > now)


class ServiceTables:
    """What is read and written of services."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def all(self) -> tuple[Kept, ...]:
        """Every service, by name; not those that were forgotten."""
        with self._catalog.read() as connection:
            rows = connection.execute(sa.select(SERVICE).order_by(SERVICE.c.name)).mappings().all()
        return tuple(kept for kept in map(_kept, rows) if not kept.state.is_forgotten)

    def get(self, name: str) -> Kept | None:
        """One service, also one that was forgotten."""
        with self._catalog.read() as connection:
            query = sa.select(SERVICE).where(SERVICE.c.name == name)
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _kept(row)

    def add(self, spec: ServiceSpec, state: ServiceState) -> bool:
        """Add a new service; whether it is we who did."""
        row = {
            "name": spec.name,
            "format": 1,
            "spec": wire.encode(spec).decode(),
            "state": wire.encode(state).decode(),
            "revision": 1,
            "keeper": "",
            "kept_until_us": 0,
        }
        with self._catalog.write() as connection:
            known = connection.execute(sa.select(SERVICE.c.name).where(SERVICE.c.name == spec.name)).first()
            if known is None:
                connection.execute(sa.insert(SERVICE), row)
        return known is None

    def put(
        self, kept: Kept, state: ServiceState, spec: ServiceSpec | None = None, *, keeper: str = ""
    ) -> Kept | None:
        """Write a state, if the row is still as it was read; as it is then, or `None`.

        With `keeper`, only while that one looks after it.
        """
        spec = spec or kept.spec
        change = {
            "state": wire.encode(state).decode(),
            "spec": wire.encode(spec).decode(),
            "revision": kept.revision + 1,
        }
        still = (SERVICE.c.name == kept.spec.name) & (SERVICE.c.revision == kept.revision)
        if keeper:
            still &= SERVICE.c.keeper == keeper
        with self._catalog.write() as connection:
            if connection.execute(sa.update(SERVICE).where(still).values(change)).rowcount != 1:
                return None
        return Kept(spec, state, kept.revision + 1, kept.keeper, kept.kept_until)

    def keep(self, keeper: str, *, now: Instant, until: Instant) -> None:
        """Take, or go on to have, every service that nobody else looks after."""
        free = (SERVICE.c.keeper == keeper) | (SERVICE.c.kept_until_us <= now)
        with self._catalog.write() as connection:
            connection.execute(sa.update(SERVICE).where(free).values(keeper=keeper, kept_until_us=until))

    def let_go(self, keeper: str) -> None:
        """Look after none any more."""
        mine = SERVICE.c.keeper == keeper
        with self._catalog.write() as connection:
            connection.execute(sa.update(SERVICE).where(mine).values(keeper="", kept_until_us=0))


def _kept(columns: Mapping[Any, Any]) -> Kept:
    return Kept(
        wire.decode(columns["spec"], ServiceSpec, what="a stored service"),
        wire.decode(columns["state"], ServiceState, what="a stored service's state"),
        columns["revision"],
        columns["keeper"],
        Instant(columns["kept_until_us"]),
    )
