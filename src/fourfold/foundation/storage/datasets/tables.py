"""What the catalog keeps of datasets: their definitions, and what each version pins."""

from __future__ import annotations

import sqlalchemy as sa

from fourfold.catalog import audit, lineage, rows, tags
from fourfold.catalog.database import Catalog, metadata
from fourfold.core import wire
from fourfold.core.context import Ref
from fourfold.core.datasets import KIND, DatasetInfo, DatasetVersion, Definition
from fourfold.core.errors import NotFound, did_you_mean
from fourfold.core.lineage import Edge
from fourfold.core.times import Instant
from fourfold.core.values import replace

dataset_table = sa.Table(
    "storage_dataset",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("newest", sa.BigInteger, nullable=False),
    sa.Column("definition", sa.LargeBinary, nullable=False),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
version_table = sa.Table(
    "storage_dataset_version",
    metadata,
    sa.Column("name", sa.Text, sa.ForeignKey("storage_dataset.name"), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("contents", sa.LargeBinary, nullable=False),
    sa.Column("write_key", sa.Text),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "write_key"),
)


class DatasetRecords:
    """Rows about datasets; each call is one unit of work."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def define(self, at: Instant, name: str, definition: Definition, why: str) -> None:
        """Say what a dataset is made of from now on."""
        with self._catalog.write(durable=True) as connection:
            fresh = {"name": name, "created_at_us": at, "newest": -1, "definition": wire.encode(definition)}
            if not rows.insert_new(connection, dataset_table, [fresh]):
                connection.execute(
                    dataset_table.update()
                    .where(dataset_table.c.name == name)
                    .values(definition=wire.encode(definition))
                )
            facts = {"members": {alias: str(ref) for alias, ref in definition.members.items()}, "why": why}
            audit.record(connection, at, "dataset.define", Ref(KIND, name), facts)

    def info(self, name: str) -> DatasetInfo:
        """A dataset as it is now."""
        with self._catalog.read() as connection:
            row = connection.execute(
                sa.select(dataset_table).where(dataset_table.c.name == name)
            ).one_or_none()
            if row is None:
                raise _unknown(connection, name)
            return _info(connection, row)

    def all(self) -> tuple[DatasetInfo, ...]:
        """All datasets, sorted by name."""
        with self._catalog.read() as connection:
            found = connection.execute(sa.select(dataset_table).order_by(dataset_table.c.name)).all()
            return tuple(_info(connection, row) for row in found)

    def done(self, name: str, key: str) -> DatasetVersion | None:
        """The version that a write with this key made, if one did."""
        with self._catalog.read() as connection:
            return _by_key(connection, name, key)

    def add(self, made: DatasetVersion, *, key: str) -> DatasetVersion:
        """Number a version and record it, with what it was made from; the newest instead, where it pins the
        same."""
        here = version_table.c
        with self._catalog.write(durable=True) as connection:
            number = connection.execute(  # locks the row: of two that release at once the second waits
                dataset_table.update()
                .where(dataset_table.c.name == made.name)
                .values(newest=dataset_table.c.newest + 1)
                .returning(dataset_table.c.newest)
            ).scalar_one()
            newest = _version(connection, made.name, number - 1)
            same = newest if newest is not None and newest.digest == made.digest else None
            done = _by_key(connection, made.name, key) or same
            if done is not None:
                connection.execute(
                    dataset_table.update().where(dataset_table.c.name == made.name).values(newest=number - 1)
                )
                return done
            made = replace(made, version=number)
            row = {
                here.name: made.name,
                here.version: number,
                here.at_us: made.at,
                here.digest: made.digest,
                here.contents: wire.encode(made),
                here.write_key: key or None,
            }
            connection.execute(version_table.insert().values(row))
            lineage.record(connection, [Edge(m.ref, made.ref, None, made.at) for m in made.members])
            facts = {"digest": made.digest, "why": made.why}
            audit.record(connection, made.at, "dataset.release", made.ref, facts)
            return made

    def find(self, name: str, *, version: int | None, tag: str | None) -> DatasetVersion:
        """The newest version, or one named by number or tag."""
        info = self.info(name)
        if tag is not None:
            if tag not in info.tags:
                raise NotFound(
                    f"dataset '{name}' has no tag '{tag}'",
                    ways_on=did_you_mean(tag, info.tags, what="tags"),
                    name=name,
                    tag=tag,
                )
            version = info.tags[tag]
        if info.newest is None:
            raise NotFound(
                f"dataset '{name}' has no version yet",
                ways_on=[f"make one: fourfold dataset release {name}"],
                name=name,
            )
        if version is None:
            return info.newest
        with self._catalog.read() as connection:
            found = _version(connection, name, version)
        if found is None:
            raise NotFound(
                f"dataset '{name}' has no version {version}",
                ways_on=[f"versions: 0 to {info.newest.version}"],
                name=name,
                version=version,
            )
        return found

    def versions(self, name: str, limit: int) -> tuple[DatasetVersion, ...]:
        """A dataset's versions, newest first."""
        self.info(name)
        here = version_table.c
        query = sa.select(here.contents).where(here.name == name).order_by(here.version.desc()).limit(limit)
        with self._catalog.read() as connection:
            return tuple(_read(found) for found in connection.execute(query).scalars())

    def put_tag(self, at: Instant, name: str, tag: str, version: int, why: str) -> None:
        """Make a tag point at a version."""
        with self._catalog.write(durable=True) as connection:
            tags.put(connection, at, KIND, name, tag, str(version), why=why)
            facts = {"tag": tag, "why": why}
            audit.record(connection, at, "dataset.tag", Ref(KIND, name, str(version)), facts)


def _info(connection: sa.Connection, row: sa.Row[tuple[object, ...]]) -> DatasetInfo:
    return DatasetInfo(
        name=row.name,
        definition=wire.decode(row.definition, Definition, what="a kept definition"),
        created_at=Instant(row.created_at_us),
        newest=_version(connection, row.name, row.newest),
        tags={tag: int(to) for tag, to in tags.targets(connection, KIND, row.name).items()},
    )


def _version(connection: sa.Connection, name: str, version: int) -> DatasetVersion | None:
    here = version_table.c
    query = sa.select(here.contents).where(here.name == name, here.version == version)
    found = connection.execute(query).scalar()
    return None if found is None else _read(found)


def _by_key(connection: sa.Connection, name: str, key: str) -> DatasetVersion | None:
    if not key:
        return None
    here = version_table.c
    query = sa.select(here.contents).where(here.name == name, here.write_key == key)
    found = connection.execute(query).scalar()
    return None if found is None else _read(found)


def _read(contents: bytes) -> DatasetVersion:
    return wire.decode(contents, DatasetVersion, what="a kept version")


def _unknown(connection: sa.Connection, name: str) -> NotFound:
    known = list(connection.execute(sa.select(dataset_table.c.name)).scalars())
    return NotFound(
        f"dataset '{name}' does not exist", ways_on=did_you_mean(name, known, what="datasets"), name=name
    )
