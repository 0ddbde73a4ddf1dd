"""What the catalog knows of features: views and services by version, and training sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fourfold.catalog import audit, columns, lineage, rows
from fourfold.catalog.database import Catalog, metadata
from fourfold.core.context import Ref
from fourfold.core.features import FeatureService, Kind, ServiceInfo, TrainingSetInfo, View, ViewInfo
from fourfold.core.lineage import Edge, MadeByQuery
from fourfold.core.storage import Column
from fourfold.core.times import Instant
from fourfold.core.wire import decode, encode

view_table = sa.Table(
    "feature_view",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False, index=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("kinds", sa.Text, nullable=False),
    sa.Column("applied_at_us", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "position"),
)
service_table = sa.Table(
    "feature_service",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("kinds", sa.Text, nullable=False),
    sa.Column("applied_at_us", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "position"),
)
training_set_table = sa.Table(
    "feature_training_set",
    metadata,
    sa.Column("fingerprint", sa.Text, primary_key=True),
    sa.Column("service", sa.Text, nullable=False, index=True),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("blob", sa.Text, nullable=False),
    sa.Column("made_at_us", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)

SERVICE_VERSIONS_FED = 2
"""Of each service so many newest versions are kept up to date: a swap needs the old one for a while."""


@dataclass(frozen=True, slots=True)
class ViewRecord:
    """A view's version with the kinds of the source's columns that it reads."""

    info: ViewInfo
    columns: Mapping[str, Kind]


class FeatureRecords:
    """Views, services and training sets; each call is one unit of work.

    The present version of a name is the one with the greatest position: applying an older content again
    moves it to the end.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def apply(
        self, at: Instant, views: Sequence[ViewRecord], services: Sequence[ServiceInfo]
    ) -> tuple[list[str], list[str]]:
        """Make these the present versions; answers with what is new and what was there already."""
        created: list[str] = []
        unchanged: list[str] = []
        with self._catalog.write() as connection:
            for record in views:
                view = record.info.view
                values = {"source": view.source.name, "columns": _text(record.columns)}
                values |= _described(view, record.info.kinds)
                is_new = _make_present(connection, view_table, view.name, record.info.version, at, values)
                (created if is_new else unchanged).append(f"{view.name}@{record.info.version}")
            for info in services:
                name, values = info.service.name, _described(info.service, info.kinds)
                is_new = _make_present(connection, service_table, name, info.version, at, values)
                (created if is_new else unchanged).append(f"{name}@{info.version}")
            if created:
                audit.record(
                    connection, at, "feature.apply", Ref("feature", created[0]), {"created": created}
                )
        return created, unchanged

    def views(self) -> dict[str, ViewRecord]:
        """The present version of each view, by name."""
        return {record.info.view.name: record for record in self._views() if record.info.is_current}

    def view(self, name: str, version: str | None) -> ViewRecord | None:
        """One version of a view; the present one if none is named."""
        for record in self._views(view_table.c.name == name):
            if record.info.is_current if version is None else record.info.version == version:
                return record
        return None

    def views_by_version(self, versions: Iterable[str]) -> dict[str, ViewRecord]:
        """Views by their versions."""
        found = self._views(view_table.c.version.in_(sorted(set(versions))))
        return {record.info.version: record for record in found}

    def fed_views(self, source: str) -> list[ViewRecord]:
        """The versions of a source's views that pushes update: the present ones, and those in use."""
        in_use: set[str] = set()
        versions_of: dict[str, int] = {}
        for info in self._services():
            versions_of[info.service.name] = versions_of.get(info.service.name, 0) + 1
            if versions_of[info.service.name] <= SERVICE_VERSIONS_FED:
                in_use.update(use.version for use in info.service.uses)
        records = self._views(view_table.c.source == source)
        return [record for record in records if record.info.is_current or record.info.version in in_use]

    def services(self) -> dict[str, ServiceInfo]:
        """The present version of each service, by name."""
        return {info.service.name: info for info in self._services() if info.is_current}

    def service(self, name: str, version: str | None) -> ServiceInfo | None:
        """One version of a service; the present one if none is named."""
        for info in self._services(service_table.c.name == name):
            if info.is_current if version is None else info.version == version:
                return info
        return None

    def keep_training_set(self, info: TrainingSetInfo, blob: str, made: MadeByQuery) -> None:
        """Record a training set, and where its columns came from; the same fingerprint again changes nothing
        but where its rows are."""
        value = {
            "fingerprint": info.fingerprint,
            "service": info.service,
            "record": _text(info),
            "blob": blob,
            "made_at_us": info.made_at,
        }
        with self._catalog.write() as connection:
            rows.put(connection, training_set_table, value)
            sources = [Ref("table", name, str(version)) for name, version in info.table_versions.items()]
            sources.append(Ref("feature_service", info.service, info.service_version))
            lineage.record(connection, [Edge(source, made.target, None, info.made_at) for source in sources])
            columns.record(connection, info.made_at, made)

    def training_set(self, fingerprint: str) -> tuple[TrainingSetInfo, str] | None:
        """A training set's record, and the digest of its rows (empty where they were not kept)."""
        table = training_set_table
        with self._catalog.read() as connection:
            row = connection.execute(sa.select(table).where(table.c.fingerprint == fingerprint)).one_or_none()
        return None if row is None else (decode(row.record, TrainingSetInfo), str(row.blob))

    def training_set_columns(self, fingerprint: str) -> tuple[Column, ...]:
        """A training set's columns; none of one that is unknown."""
        found = self.training_set(fingerprint)
        if found is None:
            return ()
        info = found[0]
        types = info.types or ("",) * len(info.columns)
        return tuple(Column(name, kind) for name, kind in zip(info.columns, types, strict=True))

    def training_sets(self, service: str | None, limit: int) -> list[TrainingSetInfo]:
        """The training sets, the newest first."""
        table = training_set_table
        query = (
            sa.select(table.c.record).order_by(table.c.made_at_us.desc(), table.c.fingerprint).limit(limit)
        )
        if service is not None:
            query = query.where(table.c.service == service)
        with self._catalog.read() as connection:
            return [decode(text, TrainingSetInfo) for text in connection.execute(query).scalars()]

    def _views(self, where: sa.ColumnElement[bool] | None = None) -> list[ViewRecord]:
        """Views by name, the present version of each first."""
        found = []
        for row, is_current in self._rows(view_table, where):
            view = decode(row.definition, View)
            kinds = decode(row.kinds, dict[str, Kind])
            info = ViewInfo(view, row.version, kinds, Instant(row.applied_at_us), is_current)
            found.append(ViewRecord(info, decode(row.columns, dict[str, Kind])))
        return found

    def _services(self, where: sa.ColumnElement[bool] | None = None) -> list[ServiceInfo]:
        """Services by name, newest version first."""
        found = []
        for row, is_current in self._rows(service_table, where):
            service = decode(row.definition, FeatureService)
            kinds = decode(row.kinds, dict[str, Kind])
            found.append(ServiceInfo(service, row.version, kinds, Instant(row.applied_at_us), is_current))
        return found

    def _rows(
        self, table: sa.Table, where: sa.ColumnElement[bool] | None
    ) -> list[tuple[sa.Row[tuple[Any, ...]], bool]]:
        newest = sa.select(table.c.name, sa.func.max(table.c.position).label("last")).group_by(table.c.name)
        last = newest.subquery()
        query = (
            sa.select(table, (table.c.position == last.c.last).label("is_current"))
            .join(last, table.c.name == last.c.name)
            .order_by(table.c.name, table.c.position.desc())
        )
        if where is not None:
            query = query.where(where)
        with self._catalog.read() as connection:
            return [(row, bool(row.is_current)) for row in connection.execute(query)]


def _make_present(
    connection: sa.Connection,
    table: sa.Table,
    name: str,
    version: str,
    at: Instant,
    values: Mapping[str, str],
) -> bool:
    """Write a version at the end of its name's versions; says whether it was not there yet."""
    found = connection.execute(sa.select(table.c.version, table.c.position).where(table.c.name == name))
    known = {row.version: row.position for row in found}
    last = max(known.values(), default=-1)
    if version not in known:
        row = {"name": name, "version": version, "applied_at_us": at, "position": last + 1, **values}
        connection.execute(table.insert().values(row))
        return True
    position = known[version] if known[version] == last else last + 1
    same = (table.c.name == name) & (table.c.version == version)
    connection.execute(table.update().where(same).values(position=position, **values))
    return False


def _described(value: View | FeatureService, kinds: Mapping[str, Kind]) -> dict[str, str]:
    return {
        "owner": value.owner,
        "description": value.description,
        "tags": _text(value.tags),
        "definition": _text(value),
        "kinds": _text(kinds),
    }


def _text(value: object) -> str:
    return encode(value).decode()
