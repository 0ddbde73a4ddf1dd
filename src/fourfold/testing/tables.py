"""A table store in memory: plain and obvious, so that others can be held against it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide import branching, erasing, evolving, keys, partitions, retention, schemas
from fourfold.core.errors import NotFound, Refused
from fourfold.core.ports.tables import (
    UNMARKED,
    Ability,
    Commit,
    Difference,
    Erased,
    Evolution,
    Mark,
    RowKey,
    Rows,
    Snapshot,
    Vacuumed,
)
from fourfold.core.rows import values_of
from fourfold.core.storage import Condition, Scalar, TableAddress, table_address
from fourfold.core.times import Instant

Files: TypeAlias = tuple[pa.Table, ...]
"""The rows of a version, in the pieces in which writes left them. A piece never changes; two versions
that have the same one share it."""


@dataclass(frozen=True, slots=True)
class _Version:
    commit: Commit
    schema: pa.Schema
    files: Files
    partition_by: tuple[str, ...] = ()
    watermark: int = -1
    is_vacuumed: bool = False

    @property
    def rows(self) -> pa.Table:
        return _in_columns(self.files, self.schema)


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a write makes of a table."""

    operation: str
    schema: pa.Schema
    files: Files
    partition_by: tuple[str, ...]
    added: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True)
class _Branch:
    """What is kept of a branch beside its versions: where it and its table last met."""

    table_version: int
    branch_version: int
    is_level: bool


class MemoryTables:
    """Keeps every version of every table in memory. With fewer `abilities` it refuses the others."""

    def __init__(self, abilities: Collection[Ability] = tuple(Ability)) -> None:
        self._abilities = frozenset(abilities)
        self._tables: dict[str, list[_Version]] = {}
        self._branches: dict[str, dict[str, _Branch]] = {}
        self._lock = threading.RLock()

    @property
    def abilities(self) -> frozenset[Ability]:
        return self._abilities

    # Writing

    def append(
        self, name: str, data: Rows, *, partition_by: tuple[str, ...] = (), mark: Mark = UNMARKED
    ) -> Commit:
        def change(last: _Version | None) -> _Draft:
            fitted = schemas.fit(name, _whole(data), last.schema if last else None)
            columns = partitions.columns(name, last.partition_by if last else None, partition_by)
            partitions.check(name, fitted, columns, {})
            return _Draft("append", fitted.schema, _files(last) + _file(fitted), columns, added=len(fitted))

        return self._write(name, mark, change)

    def overwrite(
        self,
        name: str,
        data: Rows,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
        mark: Mark = UNMARKED,
    ) -> Commit:
        part = dict(where or {})
        if part:
            self._need(Ability.overwrite_part, "overwrite a part of a table")

        def change(last: _Version | None) -> _Draft:
            fitted = schemas.fit(name, _whole(data), last.schema if last and part else None)
            columns = partitions.columns(name, last.partition_by if last else None, partition_by)
            partitions.check(name, fitted, columns, part)
            kept: Files = ()
            if last is not None and part:
                values = partitions.values(name, last.schema, part)
                kept = _keeping(last, lambda rows: rows.filter(pc.invert(_is_in(rows, values))))
            return _Draft(
                "overwrite",
                fitted.schema,
                kept + _file(fitted),
                columns,
                added=len(fitted),
                removed=_count(_files(last)) - _count(kept),
            )

        return self._write(name, mark, change)

    def upsert(self, name: str, data: Rows, *, key: tuple[str, ...], mark: Mark = UNMARKED) -> Commit:
        self._need(Ability.upsert, "upsert")

        def change(last: _Version | None) -> _Draft:
            fitted = schemas.fit(name, _whole(data), last.schema if last else None)
            columns = partitions.columns(name, last.partition_by if last else None, ())
            partitions.check(name, fitted, columns, {})
            keys.check_columns(name, fitted.schema, key)
            keys.check_nulls(name, fitted, key)
            keys.check_unique(name, fitted.select(key))
            new = set(_keys(fitted, key))
            kept: Files = ()
            if last is not None:
                kept = _keeping(
                    last,
                    lambda rows: rows.filter(pa.array([k not in new for k in _keys(rows, key)], pa.bool_())),
                )
            removed = _count(_files(last)) - _count(kept)
            files = kept + _file(fitted)
            return _Draft("upsert", fitted.schema, files, columns, added=len(fitted), removed=removed)

        return self._write(name, mark, change)

    def delete(self, name: str, *, where: tuple[Condition, ...], mark: Mark = UNMARKED) -> Commit:
        self._need(Ability.delete, "delete rows")

        def change(last: _Version | None) -> _Draft:
            last = _there(name, last)
            condition = schemas.expression(name, where, last.schema)
            kept: Files = ()
            if condition is not None:
                kept = _keeping(last, lambda rows: rows.filter(~condition | condition.is_null()))
            removed = _count(last.files) - _count(kept)
            return _Draft("delete", last.schema, kept, last.partition_by, removed=removed)

        return self._write(name, mark, change)

    def evolve(self, name: str, change: Evolution, *, mark: Mark = UNMARKED) -> Commit:
        self._need(Ability.evolve, "change columns")

        def changed(last: _Version | None) -> _Draft:
            last = _there(name, last)
            schema = evolving.evolved(name, last.schema, change)
            return _Draft("evolve", schema, last.files, last.partition_by)

        return self._write(name, mark, changed)

    def restore(self, name: str, *, version: int, mark: Mark = UNMARKED) -> Commit:
        self._need(Ability.restore, "restore")

        def change(last: _Version | None) -> _Draft:
            old = self._readable(name, version)
            now = _there(name, last).files
            return _Draft(
                "restore",
                old.schema,
                old.files,
                old.partition_by,
                added=_count(_only(old.files, now)),
                removed=_count(_only(now, old.files)),
            )

        return self._write(name, mark, change)

    def compact(
        self,
        name: str,
        *,
        cluster_by: tuple[str, ...] = (),
        target_bytes: int = 128 * 2**20,
        mark: Mark = UNMARKED,
    ) -> Commit | None:
        self._need(Ability.compact, "compact")
        self._check_mark(mark)
        with self._lock:
            if (first := self._first(name, mark.key)) is not None:
                return first
            last = self._version(name, None)
            schemas.check_columns(name, cluster_by, last.schema)
            small = last.files if cluster_by else tuple(f for f in last.files if f.nbytes < target_bytes)
            if len(small) < (1 if cluster_by else 2):
                return None
            merged = _in_columns(small, last.schema)
            if cluster_by:  # in order of the columns: a curve would be no plainer
                merged = merged.sort_by([(column, "ascending") for column in cluster_by])
            draft = _Draft("compact", last.schema, (*_only(last.files, small), merged), last.partition_by)
            return self._commit(name, last, draft, mark)

    # Reading

    def snapshot(self, name: str, *, version: int | None = None) -> Snapshot:
        with self._lock:
            found = self._version(name, version)
        return Snapshot(
            version=found.commit.version,
            at=found.commit.at,
            schema=found.schema,
            partition_by=found.partition_by,
            rows=found.commit.rows,
            size_bytes=sum(file.nbytes for file in found.files),
            file_count=len(found.files),
            watermark=found.watermark,
        )

    def scan(
        self,
        name: str,
        *,
        version: int,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> pa.RecordBatchReader:
        with self._lock:
            found = self._readable(name, version)
        wanted = list(found.schema.names if columns is None else columns)
        schemas.check_columns(name, wanted, found.schema)
        condition = schemas.expression(name, where, found.schema)
        kept = found.rows if condition is None else found.rows.filter(condition)
        return kept.select(wanted).to_reader()

    def difference(self, name: str, *, before: int, after: int) -> Difference:
        with self._lock:
            old, new = self._readable(name, before), self._readable(name, after)
        schema = evolving.shared(name, old.schema, new.schema)
        return Difference(
            removed=_in_columns(_only(old.files, new.files), schema).to_reader(),
            added=_in_columns(_only(new.files, old.files), schema).to_reader(),
        )

    def history(self, name: str, *, after: int = -1, limit: int = 1000) -> tuple[Commit, ...]:
        with self._lock:
            self._version(name, None)
            return tuple(v.commit for v in reversed(self._tables[name][after + 1 :]))[:limit]

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in self._tables if "@" not in name))

    # Branches

    def fork(self, name: str, branch: str, *, version: int, mark: Mark = UNMARKED) -> Commit:
        self._need(Ability.branch, "branch")
        self._check_mark(mark)
        address = branching.branch_of(name, branch, "be branched")
        with self._lock:
            if (first := self._first(address, mark.key)) is not None:
                return first
            if address in self._tables:
                raise Refused(f"table '{name}' has a branch '{branch}' already", table=name, branch=branch)
            begun = self._readable(name, version)
            self._branches.setdefault(name, {})[branch] = _Branch(version, 0, is_level=True)
            draft = _Draft("branch", begun.schema, begun.files, begun.partition_by)
            return self._commit(address, None, draft, replace(mark, watermark=begun.watermark))

    def publish(
        self,
        name: str,
        branch: str,
        *,
        onto: int | None = None,
        becoming: bool = False,
        mark: Mark = UNMARKED,
    ) -> Commit:
        self._need(Ability.branch, "branch")
        self._check_mark(mark)
        address = branching.branch_of(name, branch, "be published into")
        with self._lock:
            if (first := self._first(name, mark.key)) is not None:
                return first
            last, theirs = self._version(name, None), self._version(address, None)
            branching.check_onto(name, last.commit.version, onto)
            met = self._branches[name][branch]
            ours = self._tables[name][met.table_version :]
            done = self._tables[address][met.branch_version :]
            how = branching.publishing(
                name,
                branch,
                of_table=[version.commit for version in ours[1:]],
                of_branch=[version.commit for version in done[1:]],
                is_level=met.is_level,
                same_columns=ours[0].schema == last.schema and done[0].schema == theirs.schema,
                becoming=becoming,
            )
            files = theirs.files
            if how is branching.Publish.add:  # what a compaction wrote together is no addition
                appends = [(a, b) for a, b in pairwise(done) if b.commit.operation == "append"]
                files = last.files + _all(_only(b.files, a.files) for a, b in appends)
            draft = _Draft(
                "publish",
                theirs.schema,
                files,
                theirs.partition_by,
                added=sum(version.commit.rows_added for version in done[1:]),
                removed=sum(version.commit.rows_removed for version in done[1:]),
            )
            made = self._commit(name, last, draft, mark)
            self._branches[name][branch] = _Branch(
                made.version, theirs.commit.version, is_level=how is branching.Publish.become
            )
            return made

    def branches(self, name: str) -> tuple[str, ...]:
        branching.only_table(name, "have branches")
        with self._lock:
            self._version(name, None)
            return tuple(sorted(self._branches.get(name, {})))

    # Removing

    def vacuum(self, name: str, *, keep: Collection[int], before: Instant, dry_run: bool = False) -> Vacuumed:
        self._need(Ability.vacuum, "vacuum")
        branching.only_table(name, "be vacuumed")
        with self._lock:
            self._version(name, None)
            versions = self._tables[name]
            made = [(v.commit.version, v.commit.at) for v in versions]
            old = retention.old_versions(made, before=before, keep=keep)
            used = [v for v in versions if v.commit.version not in old]
            for branch in self._branches.get(name, {}):
                used += self._tables[str(TableAddress(name, branch))]
            unused: Files = ()
            for number in old:
                unused += _only(_only(versions[number].files, _all(v.files for v in used)), unused)
            lost = tuple(n for n in old if _only(unused, versions[n].files) != unused)
            if not dry_run:
                for number in lost:
                    versions[number] = replace(versions[number], files=(), is_vacuumed=True)
            return Vacuumed(len(unused), sum(file.nbytes for file in unused), lost)

    def erase(
        self,
        name: str,
        *,
        keys: Sequence[RowKey],
        before: Instant,  # noqa: ARG002 - whatever is here is of a version
        mark: Mark = UNMARKED,
        dry_run: bool = False,
    ) -> Erased:
        self._need(Ability.erase, "erase rows from older versions")
        self._check_mark(mark)
        branching.only_table(name, "be erased from by itself")
        with self._lock:
            self._version(name, None)
            addresses = [name, *(str(TableAddress(name, b)) for b in sorted(self._branches.get(name, {})))]
            everything = [version for address in addresses for version in self._tables[address]]
            erasing.check(name, keys, (version.schema for version in everything))
            wanted = erasing.Wanted(keys)
            left: dict[int, tuple[pa.Table, pa.Table]] = {}
            """By a file's identity, the file and what stays of it."""
            for file in _all(version.files for version in everything):
                if id(file) not in left and pc.any(mask := wanted.mask(file)).as_py():
                    left[id(file)] = file, file.filter(pc.invert(mask))
            rows = {address: self._gone(address, left) for address in addresses}
            commits: dict[str, Commit] = {}
            for address, gone in rows.items() if not dry_run else ():
                if any(gone):
                    commits[address] = self._without(address, left, gone, mark)
            files = [file for file, _ in left.values()]
            found = {a: {v: count for v, count in enumerate(gone) if count} for a, gone in rows.items()}
            return Erased(
                rows={address: gone for address, gone in found.items() if gone},
                file_count=len(files),
                size_bytes=sum(file.nbytes for file in files),
                commits=commits,
            )

    def _gone(self, address: str, left: Mapping[int, tuple[pa.Table, pa.Table]]) -> list[int]:
        """How many rows each version loses."""
        return [
            sum(len(left[id(file)][0]) - len(left[id(file)][1]) for file in v.files if id(file) in left)
            for v in self._tables[address]
        ]

    def _without(
        self,
        address: str,
        left: Mapping[int, tuple[pa.Table, pa.Table]],
        gone: Sequence[int],
        mark: Mark,
    ) -> Commit:
        """Have all versions without the rows, and one more that says so."""
        versions = self._tables[address]
        for number, version in enumerate(versions):
            files = _all(_file(left[id(f)][1]) if id(f) in left else (f,) for f in version.files)
            is_begun = version.commit.operation == "branch"
            before = gone[number - 1] if number else gone[number] if is_begun else 0
            commit = erasing.recounted(version.commit, gone=gone[number], gone_before=before)
            versions[number] = replace(version, files=files, commit=commit)
        last = versions[-1]
        if last.commit.operation == "erase" and not gone[-1]:
            return last.commit
        draft = _Draft("erase", last.schema, last.files, last.partition_by)
        return self._commit(address, last, draft, mark)

    def drop(self, name: str) -> None:
        address = table_address(name)
        with self._lock:
            self._tables.pop(name, None)
            if "@" in name:
                self._branches.get(address.table, {}).pop(address.branch, None)
            else:
                for branch in self._branches.pop(name, {}):
                    self._tables.pop(str(TableAddress(name, branch)), None)

    # Inside

    def _need(self, ability: Ability, what: str) -> None:
        if ability not in self._abilities:
            raise Refused(
                f"this store in memory was made to be unable to {what}",
                ways_on=["make it with this ability"],
                ability=ability.value,
            )

    def _write(self, name: str, mark: Mark, change: Callable[[_Version | None], _Draft]) -> Commit:
        """Make the next version of a table, or of a branch that is there."""
        self._check_mark(mark)
        with self._lock:
            if (first := self._first(name, mark.key)) is not None:
                return first
            last = self._version(name, None) if name in self._tables or "@" in name else None
            if mark.watermark >= 0 and mark.since != (-1 if last is None else last.watermark):
                return _there(name, last).commit
            return self._commit(name, last, change(last), mark)

    def _check_mark(self, mark: Mark) -> None:
        if mark.key:
            self._need(Ability.write_keys, "recognise a repeated write")

    def _commit(self, name: str, last: _Version | None, draft: _Draft, mark: Mark) -> Commit:
        versions = self._tables.setdefault(name, [])
        commit = Commit(
            version=len(versions),
            at=mark.at or Instant(len(versions)),
            operation="create" if last is None and draft.operation != "branch" else draft.operation,
            rows=_count(draft.files),
            rows_added=draft.added,
            rows_removed=draft.removed,
            key=mark.key,
            by=mark.by,
            step=mark.step,
        )
        watermark = max(mark.watermark, -1 if last is None else last.watermark)
        versions.append(_Version(commit, draft.schema, draft.files, draft.partition_by, watermark))
        return commit

    def _first(self, name: str, key: str) -> Commit | None:
        """The commit that a write key made, if it made one."""
        versions = self._tables.get(name, []) if key else []
        return next((v.commit for v in versions if v.commit.key == key), None)

    def _version(self, name: str, version: int | None) -> _Version:
        versions = self._tables.get(name)
        if not versions:
            raise NotFound(f"table '{name}' does not exist", table=name)
        wanted = len(versions) - 1 if version is None else version
        if not 0 <= wanted < len(versions):
            raise NotFound(f"table '{name}' has no version {wanted}", table=name, version=wanted)
        return versions[wanted]

    def _readable(self, name: str, version: int) -> _Version:
        found = self._version(name, version)
        if found.is_vacuumed:
            raise NotFound(f"version {version} of table '{name}' was vacuumed", table=name, version=version)
        return found


def _there(name: str, last: _Version | None) -> _Version:
    if last is None:
        raise NotFound(f"table '{name}' does not exist", table=name)
    return last


def _whole(data: Rows) -> pa.Table:
    return data.read_all() if isinstance(data, pa.RecordBatchReader) else data


def _file(rows: pa.Table) -> Files:
    """The rows as a file of their own; no rows, no file."""
    return (rows,) if len(rows) else ()


def _files(version: _Version | None) -> Files:
    return () if version is None else version.files


def _all(some: Iterable[Files]) -> Files:
    return tuple(file for files in some for file in files)


def _count(files: Files) -> int:
    return sum(len(file) for file in files)


def _only(files: Files, others: Files) -> Files:
    """The files that the others are not."""
    known = {id(file) for file in others}
    return tuple(file for file in files if id(file) not in known)


def _in_columns(files: Files, schema: pa.Schema) -> pa.Table:
    """The files' rows in these columns: wider where they were narrower, null where they lack one."""

    def fitted(file: pa.Table) -> pa.Table:
        columns = dict(zip(file.column_names, file.columns, strict=True))
        return pa.Table.from_arrays(
            [
                columns[field.name].cast(field.type)
                if field.name in columns
                else pa.chunked_array([pa.nulls(len(file), field.type)])
                for field in schema
            ],
            schema=schema,
        )

    return pa.concat_tables([schema.empty_table(), *map(fitted, files)])


def _keeping(version: _Version, stay: Callable[[pa.Table], pa.Table]) -> Files:
    """The version's files with the rows that stay; a file of which all stay is left as it is."""
    kept: Files = ()
    for file in version.files:
        rows = stay(_in_columns((file,), version.schema))
        kept += (file,) if len(rows) == len(file) else _file(rows)
    return kept


def _keys(rows: pa.Table, key: tuple[str, ...]) -> list[tuple[object, ...]]:
    return list(zip(*(values_of(rows[column]) for column in key), strict=True))


def _is_in(rows: pa.Table, values: Mapping[str, pa.Scalar]) -> pa.ChunkedArray:
    """Which rows lie in the partition with these values (those with a null do not)."""
    inside = pa.chunked_array([pa.array([True] * len(rows), pa.bool_())])
    for column, value in values.items():
        inside = pc.and_(inside, pc.fill_null(pc.equal(rows[column], value), fill_value=False))
    return inside
