"""What hosting keeps in the catalog: endpoints, deployments, what happened to them, and the gateway.

The service writes what is wanted; the gateway reads it, makes it so, and writes where it stands. An
endpoint's `version` rises with every wish, so a gateway sees that something changed by one small query.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from fourfold.catalog import audit
from fourfold.catalog.database import Catalog, metadata
from fourfold.catalog.ids import new_id
from fourfold.catalog.tables import SERIAL
from fourfold.core.catalog import principal
from fourfold.core.context import Ref
from fourfold.core.errors import Conflict, NotFound, did_you_mean
from fourfold.core.hosting import (
    Deployment,
    Duty,
    EndpointSettings,
    Gateway,
    HostingEvent,
    Phase,
)
from fourfold.core.times import Instant, seconds_between
from fourfold.core.wire import decode, encode

REASON_LENGTH = 4000

endpoint = sa.Table(
    "hosting_endpoint",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("settings", sa.LargeBinary, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
deployment = sa.Table(
    "hosting_deployment",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("endpoint", sa.Text, sa.ForeignKey("hosting_endpoint.name"), nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_number", sa.Integer, nullable=False),
    sa.Column("duty", sa.Text, nullable=False),
    sa.Column("features", sa.Text, nullable=False),
    sa.Column("is_wanted", sa.Boolean, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("has_served", sa.Boolean, nullable=False),
    sa.Column("crash_count", sa.Integer, nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.Index(None, "endpoint"),
)
event = sa.Table(
    "hosting_event",
    metadata,
    sa.Column("sequence", SERIAL, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("deployment", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index(None, "endpoint"),
)
gateway = sa.Table(
    "hosting_gateway",
    metadata,
    # One row: a project has one gateway at a time.
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("seen_at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)

ONLY = 1
"""The one row of `hosting_gateway`."""


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An endpoint as wanted."""

    name: str
    settings: EndpointSettings
    version: int
    created_at: Instant


@dataclass(frozen=True, slots=True)
class Wish:
    """A deployment as the gateway reads it."""

    deployment: Deployment
    is_wanted: bool
    has_served: bool


class HostingTables:
    """The repository: plain values in, plain values out, one unit of work per call."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    # What is wanted.

    def wish(
        self,
        name: str,
        *,
        model_name: str,
        model_number: int,
        duty: Duty,
        settings: EndpointSettings | None,
        features: str,
        now: Instant,
    ) -> Deployment:
        """Want a model version behind an endpoint, which is made if it is not there.

        What was wanted for the duty before is not wanted any more; it serves until this one is warm.
        """
        made = Deployment(
            id=new_id("dep"),
            endpoint=name,
            model=f"{model_name}/{model_number}",
            duty=duty,
            phase=Phase.wanted,
            reason="asked for",
            created_at=now,
            changed_at=now,
            features=features,
            by=principal(),
        )
        with self._catalog.write() as connection:
            row = connection.execute(
                sa.select(endpoint).where(endpoint.c.name == name).with_for_update()
            ).one_or_none()
            values: dict[str, object] = {"changed_at_us": now}
            if settings is not None:
                values["settings"] = encode(settings)
            if row is None:
                connection.execute(
                    endpoint.insert().values(
                        **{"settings": encode(EndpointSettings()), **values},
                        name=name,
                        version=1,
                        created_at_us=now,
                    )
                )
            else:
                connection.execute(
                    endpoint.update().where(endpoint.c.name == name).values(**values, version=row.version + 1)
                )
            connection.execute(
                deployment.update()
                .where(deployment.c.endpoint == name, deployment.c.duty == duty)
                .values(is_wanted=False)
            )
            connection.execute(
                deployment.insert().values(
                    id=made.id,
                    endpoint=name,
                    model_name=model_name,
                    model_number=model_number,
                    duty=str(duty),
                    features=features,
                    is_wanted=True,
                    phase=str(made.phase),
                    reason=made.reason,
                    has_served=False,
                    crash_count=0,
                    created_at_us=now,
                    changed_at_us=now,
                    by=made.by,
                )
            )
            _record(connection, made, "asked", f"{made.model} as {duty}", now)
            audit.record(
                connection, now, "deploy", Ref("endpoint", name), {"model": made.model, "duty": str(duty)}
            )
        return made

    def unwish(self, name: str, duties: Iterable[Duty], *, reason: str, now: Instant) -> None:
        """Want nothing any more for these duties of an endpoint."""
        with self._catalog.write() as connection:
            changed = connection.execute(
                deployment.update()
                .where(
                    deployment.c.endpoint == name,
                    deployment.c.duty.in_([str(duty) for duty in duties]),
                    deployment.c.is_wanted,
                )
                .values(is_wanted=False, changed_at_us=now)
            ).rowcount
            if changed:
                connection.execute(
                    endpoint.update()
                    .where(endpoint.c.name == name)
                    .values(version=endpoint.c.version + 1, changed_at_us=now)
                )
                connection.execute(
                    event.insert().values(
                        at_us=now, endpoint=name, deployment="", kind="unasked", reason=reason
                    )
                )
                audit.record(connection, now, "undeploy", Ref("endpoint", name), {"why": reason})

    def change_number(self) -> int:
        """Rises whenever anything is wanted anew."""
        with self._catalog.read() as connection:
            total = sa.select(sa.func.coalesce(sa.func.sum(endpoint.c.version), 0))
            return int(connection.execute(total).scalar_one())

    # How it stands.

    def endpoints(self) -> tuple[EndpointRow, ...]:
        with self._catalog.read() as connection:
            rows = connection.execute(sa.select(endpoint).order_by(endpoint.c.name)).all()
        return tuple(_endpoint(row) for row in rows)

    def endpoint(self, name: str) -> EndpointRow:
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(endpoint).where(endpoint.c.name == name)).one_or_none()
            if row is None:
                known = connection.execute(sa.select(endpoint.c.name)).scalars().all()
                raise NotFound(
                    f"endpoint '{name}' does not exist", ways_on=did_you_mean(name, known, what="endpoints")
                )
        return _endpoint(row)

    def wishes(self) -> tuple[Wish, ...]:
        """Deployments that are wanted or not over, in the order in which they were asked for."""
        over = [str(phase) for phase in Phase if phase.is_over]
        with self._catalog.read() as connection:
            rows = connection.execute(
                sa.select(deployment)
                .where(deployment.c.phase.not_in(over))
                .order_by(deployment.c.created_at_us, deployment.c.id)
            ).all()
        return tuple(Wish(_deployment(row), row.is_wanted, row.has_served) for row in rows)

    def deployments(self, name: str, *, limit: int = 1000) -> tuple[Deployment, ...]:
        """An endpoint's deployments, newest first."""
        with self._catalog.read() as connection:
            rows = connection.execute(
                sa.select(deployment)
                .where(deployment.c.endpoint == name)
                .order_by(deployment.c.created_at_us.desc(), deployment.c.id.desc())
                .limit(limit)
            ).all()
        return tuple(_deployment(row) for row in rows)

    def current(self) -> dict[tuple[str, Duty], Deployment]:
        """Who has each endpoint's duties: whoever serves, else the newest wanted, else the newest."""
        with self._catalog.read() as connection:
            rows = connection.execute(
                sa.select(deployment).order_by(deployment.c.created_at_us, deployment.c.id)
            ).all()
        best: dict[tuple[str, Duty], tuple[int, Deployment]] = {}
        for row in rows:
            found = _deployment(row)
            rank = 0 if found.phase.is_over else 1 if found.phase is Phase.draining else 2
            if row.has_served and rank == 2:
                rank = 3
            key = (found.endpoint, found.duty)
            if key not in best or rank >= best[key][0]:
                best[key] = (rank, found)
        return {key: found for key, (_, found) in best.items()}

    def deployment(self, id: str) -> Deployment:  # noqa: A002 - the word that deployments use
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(deployment).where(deployment.c.id == id)).one()
        return _deployment(row)

    def moved(
        self,
        id: str,  # noqa: A002
        *,
        phase: Phase,
        reason: str,
        has_served: bool,
        crash_count: int,
        now: Instant,
    ) -> None:
        """Write where a deployment stands now, with an event."""
        with self._catalog.write() as connection:
            connection.execute(
                deployment.update()
                .where(deployment.c.id == id)
                .values(
                    phase=str(phase),
                    reason=reason[:REASON_LENGTH],
                    has_served=has_served,
                    crash_count=crash_count,
                    changed_at_us=now,
                )
            )
            row = connection.execute(sa.select(deployment).where(deployment.c.id == id)).one()
            _record(connection, _deployment(row), str(phase), reason[:REASON_LENGTH], now)
            if phase.is_over and row.is_wanted:
                connection.execute(deployment.update().where(deployment.c.id == id).values(is_wanted=False))
                if phase is Phase.failed:  # what serves in its stead is what is wanted again
                    connection.execute(
                        deployment.update()
                        .where(
                            deployment.c.endpoint == row.endpoint,
                            deployment.c.duty == row.duty,
                            deployment.c.has_served,
                            deployment.c.phase.not_in([str(p) for p in Phase if p.is_over]),
                            deployment.c.phase != str(Phase.draining),
                        )
                        .values(is_wanted=True)
                    )

    def events(self, name: str, *, limit: int) -> tuple[HostingEvent, ...]:
        with self._catalog.read() as connection:
            rows = connection.execute(
                sa.select(event)
                .where(event.c.endpoint == name)
                .order_by(event.c.sequence.desc())
                .limit(limit)
            ).all()
        return tuple(
            HostingEvent(Instant(row.at_us), row.endpoint, row.deployment, row.kind, row.reason)
            for row in rows
        )

    # The gateway.

    def gateway(self) -> Gateway | None:
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(gateway).where(gateway.c.slot == ONLY)).one_or_none()
        return None if row is None else _gateway(row)

    def claim(self, claimant: Gateway, *, stale_s: float, over: str) -> None:
        """Become the project's gateway; `Conflict` while another one is.

        `over` names a gateway known to be dead (its address does not answer), whose claim need not be
        waited out.
        """
        with self._catalog.write() as connection:
            row = connection.execute(
                sa.select(gateway).where(gateway.c.slot == ONLY).with_for_update()
            ).one_or_none()
            values = {
                "id": claimant.id,
                "url": claimant.url,
                "pid": claimant.pid,
                "started_at_us": claimant.started_at,
                "seen_at_us": claimant.seen_at,
            }
            if row is None:
                connection.execute(gateway.insert().values(slot=ONLY, **values))
                return
            holder = _gateway(row)
            age_s = seconds_between(holder.seen_at, claimant.seen_at)
            if holder.id not in {claimant.id, over} and age_s < stale_s:
                raise Conflict(
                    f"a gateway of this project runs already at {holder.url} (process {holder.pid})",
                    ways_on=["use it: it answers for all endpoints of the project"],
                    url=holder.url,
                )
            connection.execute(gateway.update().where(gateway.c.slot == ONLY).values(**values))

    def seen(self, id: str, now: Instant) -> bool:  # noqa: A002
        """Say that the gateway lives; false when another has taken its place."""
        with self._catalog.write() as connection:
            return bool(
                connection.execute(
                    gateway.update().where(gateway.c.slot == ONLY, gateway.c.id == id).values(seen_at_us=now)
                ).rowcount
            )

    def leave(self, id: str) -> None:  # noqa: A002
        """The gateway has ended in order."""
        with self._catalog.write() as connection:
            connection.execute(gateway.delete().where(gateway.c.slot == ONLY, gateway.c.id == id))


def _record(connection: sa.Connection, of: Deployment, kind: str, reason: str, now: Instant) -> None:
    connection.execute(
        event.insert().values(at_us=now, endpoint=of.endpoint, deployment=of.id, kind=kind, reason=reason)
    )


def _endpoint(row: sa.Row[tuple[object, ...]]) -> EndpointRow:
    return EndpointRow(
        row.name,
        decode(row.settings, EndpointSettings, what=f"settings of endpoint '{row.name}'"),
        row.version,
        Instant(row.created_at_us),
    )


def _deployment(row: sa.Row[tuple[object, ...]]) -> Deployment:
    return Deployment(
        id=row.id,
        endpoint=row.endpoint,
        model=f"{row.model_name}/{row.model_number}",
        duty=Duty(row.duty),
        phase=Phase(row.phase),
        reason=row.reason,
        created_at=Instant(row.created_at_us),
        changed_at=Instant(row.changed_at_us),
        features=row.features,
        by=row.by,
        crash_count=row.crash_count,
    )


def _gateway(row: sa.Row[tuple[object, ...]]) -> Gateway:
    return Gateway(row.id, row.url, row.pid, Instant(row.started_at_us), Instant(row.seen_at_us))
