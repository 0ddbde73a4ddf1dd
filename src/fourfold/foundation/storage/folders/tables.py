"""What the catalog knows of named files and their versions, and of blobs' other digests."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from fourfold.catalog import audit, rows, tags
from fourfold.catalog.database import Catalog, metadata
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, Refused, did_you_mean
from fourfold.core.files import KIND, FilesInfo, FilesVersion
from fourfold.core.storage import Digest
from fourfold.core.times import Instant, iso

name_table = sa.Table(
    "files_name",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("newest", sa.BigInteger, nullable=False),
    sa.Column("dropped_at_us", sa.BigInteger),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
)
version_table = sa.Table(
    "files_version",
    metadata,
    sa.Column("name", sa.Text, sa.ForeignKey("files_name.name"), primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    # Columns of this name tell the garbage collection that their blobs name further blobs.
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("chunks_manifest", sa.Text),
    sa.Column("file_count", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("added_bytes", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("write_key", sa.Text),
    sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    sa.UniqueConstraint("name", "write_key"),
)
sha256_table = sa.Table(
    "storage_sha256",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
)


class FileRecords:
    """Rows about named files; each call is one unit of work."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def made_by(self, name: str, key: str) -> FilesVersion | None:
        """The version that a write with this key made, if one did."""
        with self._catalog.read() as connection:
            return _by_key(connection, name, key)

    def newest(self, name: str) -> FilesVersion | None:
        """The newest version; `Refused` for a name that is retired."""
        with self._catalog.read() as connection:
            _refuse_retired(connection, name)
            return _newest(connection, name)

    def add(self, made: FilesVersion, *, key: str) -> FilesVersion:
        """Number a version and record it; the newest one instead where it holds the same files."""
        with self._catalog.write(durable=True) as connection:
            fresh = {"name": made.name, "created_at_us": made.at, "newest": -1}
            rows.insert_new(connection, name_table, [fresh])
            _refuse_retired(connection, made.name)
            number = connection.execute(  # locks the name's row: of two that save at once the second waits
                name_table.update()
                .where(name_table.c.name == made.name)
                .values(newest=name_table.c.newest + 1)
                .returning(name_table.c.newest)
            ).scalar_one()
            done = _by_key(connection, made.name, key) or _newest_if(connection, made)
            if done is not None:
                connection.execute(
                    name_table.update().where(name_table.c.name == made.name).values(newest=number - 1)
                )
                return done
            connection.execute(version_table.insert().values(_row(made, number, key)))
            facts = {"files": made.file_count, "bytes": made.size_bytes, "manifest": made.manifest}
            audit.record(connection, made.at, "files.save", Ref(KIND, made.name, str(number)), facts)
            return _version_of(connection, made.name, number)

    def find(self, name: str, *, version: int | None, tag: str | None) -> FilesVersion:
        """The newest version, or one named by number or tag."""
        with self._catalog.read() as connection:
            if tag is not None:
                known = tags.targets(connection, KIND, name)
                if tag not in known:
                    _refuse_unknown(connection, name)
                    raise NotFound(
                        f"files '{name}' have no tag '{tag}'",
                        ways_on=did_you_mean(tag, known, what="tags"),
                        name=name,
                        tag=tag,
                    )
                version = int(known[tag])
            newest = _newest(connection, name)
            if newest is None:
                _refuse_unknown(connection, name)
                raise NotFound(f"files '{name}' have no version yet", name=name)
            if version is None or version == newest.version:
                return newest
            if not 0 <= version < newest.version:
                raise NotFound(
                    f"files '{name}' have no version {version}",
                    ways_on=[f"versions: 0 to {newest.version}"],
                    name=name,
                    version=version,
                )
            return _version_of(connection, name, version)

    def versions(self, name: str, limit: int) -> tuple[FilesVersion, ...]:
        """A name's versions, newest first."""
        query = sa.select(version_table).where(version_table.c.name == name)
        with self._catalog.read() as connection:
            found = connection.execute(query.order_by(version_table.c.version.desc()).limit(limit)).all()
            if not found:
                _refuse_unknown(connection, name)
        return tuple(map(_version, found))

    def all(self) -> tuple[FilesInfo, ...]:
        """The newest version of every name, sorted."""
        query = (
            sa.select(version_table)
            .join(name_table, name_table.c.name == version_table.c.name)
            .where(name_table.c.newest == version_table.c.version)
            .order_by(version_table.c.name)
        )
        with self._catalog.read() as connection:
            found = [_version(row) for row in connection.execute(query)]
            return tuple(
                FilesInfo(
                    name=each.name,
                    version=each.version,
                    at=each.at,
                    file_count=each.file_count,
                    size_bytes=each.size_bytes,
                    tags={tag: int(to) for tag, to in tags.targets(connection, KIND, each.name).items()},
                )
                for each in found
            )

    def put_tag(self, at: Instant, name: str, tag: str, version: int, why: str) -> None:
        """Make a tag point at a version."""
        with self._catalog.write(durable=True) as connection:
            tags.put(connection, at, KIND, name, tag, str(version), why=why)
            audit.record(connection, at, "files.tag", Ref(KIND, name, str(version)), {"tag": tag, "why": why})

    def drop(self, at: Instant, name: str, why: str) -> None:
        """Retire a name. Its rows go, so that they cite no blob; the audit tells what there was."""
        with self._catalog.write(durable=True) as connection:
            newest = _newest(connection, name)
            if newest is None:
                _refuse_unknown(connection, name)
            connection.execute(version_table.delete().where(version_table.c.name == name))
            connection.execute(
                name_table.update().where(name_table.c.name == name).values(dropped_at_us=at, newest=-1)
            )
            facts = {"why": why, "versions": 0 if newest is None else newest.version + 1}
            audit.record(connection, at, "files.drop", Ref(KIND, name), facts)

    def sha256(self, digest: Digest) -> str | None:
        """A blob's SHA-256, if it was computed before."""
        query = sa.select(sha256_table.c.sha256).where(sha256_table.c.digest == digest)
        with self._catalog.read() as connection:
            return connection.execute(query).scalar()

    def put_sha256(self, digest: Digest, sha256: str) -> None:
        """Keep a blob's SHA-256."""
        with self._catalog.write() as connection:
            rows.insert_new(connection, sha256_table, [{"digest": digest, "sha256": sha256}])


def _by_key(connection: sa.Connection, name: str, key: str) -> FilesVersion | None:
    here = (version_table.c.name == name) & (version_table.c.write_key == key)
    row = connection.execute(sa.select(version_table).where(here)).one_or_none() if key else None
    return None if row is None else _version(row)


def _newest_if(connection: sa.Connection, made: FilesVersion) -> FilesVersion | None:
    """The newest version, if it holds the same files."""
    newest = _newest(connection, made.name)
    return newest if newest is not None and newest.manifest == made.manifest else None


def _newest(connection: sa.Connection, name: str) -> FilesVersion | None:
    query = sa.select(version_table).where(version_table.c.name == name)
    row = connection.execute(query.order_by(version_table.c.version.desc()).limit(1)).one_or_none()
    return None if row is None else _version(row)


def _version_of(connection: sa.Connection, name: str, version: int) -> FilesVersion:
    here = (version_table.c.name == name) & (version_table.c.version == version)
    return _version(connection.execute(sa.select(version_table).where(here)).one())


def _refuse_retired(connection: sa.Connection, name: str) -> None:
    query = sa.select(name_table.c.dropped_at_us).where(name_table.c.name == name)
    at = connection.execute(query).scalar()
    if at is not None:
        raise Refused(
            f"files '{name}' were dropped at {iso(Instant(at))}, and the name is retired",
            ways_on=["use another name: older runs and models cite this one"],
            name=name,
        )


def _refuse_unknown(connection: sa.Connection, name: str) -> None:
    query = sa.select(name_table.c.name, name_table.c.dropped_at_us)
    known: Mapping[str, int | None] = {row.name: row.dropped_at_us for row in connection.execute(query)}
    if name not in known:
        there = [each for each, dropped in known.items() if dropped is None]
        raise NotFound(
            f"files '{name}' do not exist", ways_on=did_you_mean(name, there, what="files"), name=name
        )
    dropped = known[name]
    if dropped is not None:
        raise NotFound(f"files '{name}' were dropped at {iso(Instant(dropped))}", name=name)


def _row(made: FilesVersion, number: int, key: str) -> dict[str, object]:
    return {
        "name": made.name,
        "version": number,
        "at_us": made.at,
        "manifest": made.manifest,
        "chunks_manifest": made.chunks,
        "file_count": made.file_count,
        "size_bytes": made.size_bytes,
        "added_bytes": made.added_bytes,
        "by": made.by,
        "step": made.step,
        "message": made.message,
        "write_key": key or None,
    }


def _version(row: sa.Row[tuple[object, ...]]) -> FilesVersion:
    return FilesVersion(
        name=row.name,
        version=row.version,
        at=Instant(row.at_us),
        manifest=Digest(row.manifest),
        file_count=row.file_count,
        size_bytes=row.size_bytes,
        added_bytes=row.added_bytes,
        by=row.by,
        step=row.step,
        message=row.message,
        chunks=None if row.chunks_manifest is None else Digest(row.chunks_manifest),
    )
