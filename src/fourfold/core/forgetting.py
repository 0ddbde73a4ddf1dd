"""A person's rows, forgotten: what went, what had seen them, and what is kept of it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fourfold.core.context import Ref
from fourfold.core.storage import Scalar
from fourfold.core.times import Instant

PersonKey = Mapping[str, Scalar]
"""Columns, as a table shows them, with the values that mean a person."""


@dataclass(frozen=True, slots=True, order=True)
class Saw:
    """Something that was made from the rows, at least in part, by lineage."""

    thing: Ref
    """A training set, run, model, endpoint, dataset, or another table."""
    read: Ref
    """The version, of this table or of one of its branches, that it was made from."""


@dataclass(frozen=True, slots=True)
class ForgottenVersion:
    """A version that had some of the rows."""

    name: str
    """The table's, or a branch's address."""
    version: int
    rows: int


@dataclass(frozen=True, slots=True)
class TableForgotten:
    """What was forgotten of a table, or would be."""

    id: str
    """Under which it is kept; empty in a dry run, and where there was nothing to forget."""
    name: str
    is_dry_run: bool
    at: Instant
    versions: tuple[ForgottenVersion, ...]
    file_count: int
    size_bytes: int
    """Files that held such rows, and their bytes."""
    waiting_rows: int
    """Of a dry run: rows that were inserted and are in no version yet."""
    kept_rows: int
    """Rows that had not been as expected and were kept aside."""
    figures: int
    """Versions whose statistics go; they are counted anew when somebody asks."""
    saw: tuple[Saw, ...]
    unsure_files: int = 0
    """Young files that no version names and that hold such rows, or are being written."""
    is_saw_complete: bool = True
    """False where there is more than the walk over lineage may tell."""
    notes: tuple[str, ...] = ()
    """What is left for somebody to do."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """That rows of a table were forgotten. It tells whose only to who knows the person already."""

    id: str
    table: str
    at: Instant
    by: str
    why: str
    columns: tuple[tuple[str, ...], ...]
    """Of each key, the columns that it named."""
    digests: tuple[str, ...]
    """Of each key, `digest_of` it."""
    is_done: bool
    """False where it was begun and not finished: forget the same again."""
    told: TableForgotten


def digest_of(secret: bytes, key: PersonKey) -> str:
    """What stands for a key: the same for the same values, and useless to who lacks the secret.

    >>> digest_of(b"s", {"a": 7, "b": "x"}) == digest_of(b"s", {"b": "x", "a": "7"})
    True
    """
    said = json.dumps([[column, _text(key[column])] for column in sorted(key)], ensure_ascii=False)
    return hmac.new(secret, said.encode(), hashlib.sha256).hexdigest()


def together(before: TableForgotten, after: TableForgotten) -> TableForgotten:
    """What one forgetting told, which was cut off, and the one that finished it."""
    rows = {(each.name, each.version): each.rows for each in after.versions}
    for each in before.versions:
        rows[each.name, each.version] = max(each.rows, rows.get((each.name, each.version), 0))
    return replace(
        after,
        versions=tuple(ForgottenVersion(*key, count) for key, count in sorted(rows.items())),
        file_count=max(before.file_count, after.file_count),
        size_bytes=max(before.size_bytes, after.size_bytes),
        kept_rows=max(before.kept_rows, after.kept_rows),
        figures=max(before.figures, after.figures),
        saw=tuple(sorted({*before.saw, *after.saw})),
        is_saw_complete=before.is_saw_complete and after.is_saw_complete,
    )


def versions_of(rows: Mapping[str, Mapping[int, int]]) -> tuple[ForgottenVersion, ...]:
    """Rows by address and version, as a list."""
    found = [
        ForgottenVersion(name, version, count)
        for name, of_versions in rows.items()
        for version, count in of_versions.items()
    ]
    return tuple(sorted(found, key=lambda each: (each.name, each.version)))


def forgotten_by_version(name: str, tombstones: Sequence[Tombstone]) -> dict[int, int]:
    """How many rows each version of a table or branch lost, in all."""
    found: dict[int, int] = {}
    for tombstone in tombstones:
        for each in tombstone.told.versions:
            if each.name == name:
                found[each.version] = found.get(each.version, 0) + each.rows
    return found


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
