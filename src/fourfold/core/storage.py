"""Tables and their versions: the values that the storage floor speaks in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.times import Instant, parse_instant

Digest = NewType("Digest", str)
"""`blake3:` and 64 hexadecimal digits: the name of a byte string."""

Scalar = str | int | float | bool | None
"""A value to compare a column with. Dates and times travel as ISO 8601 text; instants as integers."""

Condition = tuple[str, str, Scalar | tuple[Scalar, ...]]
"""(column, operator, value); several conditions hold together. Operators: see `OPERATORS`."""

OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "in", "not in")
"""What a condition may say. `== None` and `!= None` ask for null and not null."""

Row = Mapping[str, object]
"""A row as JSON has it: dates, times, decimals and bytes as text."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*){0,3}")
_PIN = re.compile(r"v\d+$|tag:|\d{4}-\d{2}-\d{2}")
"""What stands behind a table's name for a version of it."""

MAIN = "main"
"""The branch that a plain table name means."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name and its type in Arrow's words, such as `int64` or `timestamp[us, tz=UTC]`."""

    name: str
    type: str
    is_nullable: bool = True


@dataclass(frozen=True, slots=True)
class TableVersion:
    """One version of a table. Versions are numbered from 0 without gaps."""

    name: str
    """The table's, or a branch's address: `flights@dev/try-1`."""
    version: int
    at: Instant
    rows: int
    """Rows in the whole table at this version."""
    rows_added: int
    operation: str
    """`create`, `append`, `overwrite`, `upsert`, `delete` and so on; see `core.ports.tables.Commit`."""
    by: str = ""
    """The principal who wrote it; empty when another program wrote the table's log."""
    step: str = ""
    """The step call that wrote it, if one did."""
    rows_removed: int = 0
    """Rows of the version before that this one has not; those an upsert replaced count."""
    rows_forgotten: int = 0
    """Rows that it had, and that were forgotten since: no count tells them any more."""

    @property
    def ref(self) -> Ref:
        return Ref("table", self.name, str(self.version))


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A blob as its store knows it."""

    digest: Digest
    size_bytes: int
    put_at: Instant
    """When it was last put or renewed, by the store's own clock."""


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table as it is now."""

    name: str
    version: int
    at: Instant
    rows: int
    size_bytes: int
    columns: tuple[Column, ...]
    partition_by: tuple[str, ...] = ()
    tags: Mapping[str, int] = field(default_factory=dict)
    """Tag to version."""
    file_count: int = 0
    waiting_rows: int = 0
    """Rows that were inserted since and are in no version yet; a read of the newest version has them."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """Rows that are kept durably and seen by readers; a flush brings them into a version."""

    name: str
    number: int
    """The inserts of a table are numbered as they come."""
    rows: int


@dataclass(frozen=True, slots=True)
class Exported:
    """A version of a table that another table store holds too."""

    name: str
    version: int
    to: str
    """The place, as the settings name it."""
    made: int
    """The version of the table there that holds the same rows."""
    rows: int


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch of a table as it is now."""

    table: str
    name: str
    version: int
    rows: int
    at: Instant
    """When its newest version was made."""
    begun_at: Instant
    begun_by: str = ""

    @property
    def address(self) -> str:
        """Where it is read and written, in a table's place."""
        return str(TableAddress(self.table, self.name))


@dataclass(frozen=True, slots=True)
class TableDiff:
    """What differs between two versions: counts of all, and a few rows of each."""

    name: str
    before: int
    after: int
    key: tuple[str, ...]
    """Columns by which rows were matched. Without, a changed row is one removed and one added."""
    added: int
    removed: int
    changed: int
    columns_added: tuple[Column, ...] = ()
    columns_removed: tuple[Column, ...] = ()
    """Columns that only one of the versions has (or has with a type that cannot be compared) are told
    here, and their values are not compared."""
    added_rows: tuple[Row, ...] = ()
    removed_rows: tuple[Row, ...] = ()
    changed_rows: tuple[tuple[Row, Row], ...] = ()
    """Before and after, of each."""


@dataclass(frozen=True, slots=True)
class TableVacuum:
    """What a vacuum removed, or would remove."""

    name: str
    is_dry_run: bool
    before: Instant
    """Versions replaced before then were looked at."""
    file_count: int
    size_bytes: int
    versions: tuple[int, ...]
    """Versions that can no longer be read because of it."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Old versions that stay readable, each with what cites it: `{"3": "tag report"}`."""


def table_name(name: str) -> str:
    """The name if it may name a table, else refused: a name becomes a folder and part of addresses.

    >>> table_name("raw.flights")
    'raw.flights'
    >>> table_name("../secrets")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: '../secrets' cannot name a table
      use letters, digits, '_', '-' and single dots: raw.flights, daily_weather
    """
    if _NAME.fullmatch(name) is None or ".." in name or name.endswith("."):
        raise Refused(
            f"'{name[:140]}' cannot name a table",
            ways_on=["use letters, digits, '_', '-' and single dots: raw.flights, daily_weather"],
            name=name[:140],
        )
    return name


@dataclass(frozen=True, slots=True, order=True)
class TableAddress:
    """A table, or a branch of it: what `flights` and `flights@dev/try-1` say."""

    table: str
    branch: str = MAIN

    def __str__(self) -> str:
        return self.table if self.branch == MAIN else f"{self.table}@{self.branch}"


def table_address(text: str) -> TableAddress:
    """The table and branch that an address names, else refused.

    >>> table_address("flights@dev/try-1")
    TableAddress(table='flights', branch='dev/try-1')
    >>> str(table_address("flights@main"))
    'flights'
    """
    name, at, branch = text.partition("@")
    return TableAddress(table_name(name), branch_name(branch) if at else MAIN)


@dataclass(frozen=True, slots=True)
class TablePin:
    """A table or branch at one version, or as it is now."""

    address: str
    version: int | None = None
    at: Instant | None = None
    tag: str | None = None


def table_pin(text: str) -> TablePin:
    """What a name with a version behind it means: by number, tag or time, also of a branch.

    >>> table_pin("flights@v3")
    TablePin(address='flights', version=3, at=None, tag=None)
    >>> table_pin("flights@dev/try-1@tag:report").tag
    'report'
    >>> table_pin("flights@2013-06-01T00:00Z").at, table_pin("flights@dev/try-1").version
    (1370044800000000, None)
    """
    name, at, rest = text.partition("@")
    branch = MAIN
    if at and not _PIN.match(rest):
        branch, at, rest = rest.partition("@")
    address = str(table_address(f"{name}@{branch}"))
    if not at:
        return TablePin(address)
    if rest.startswith("tag:"):
        return TablePin(address, tag=rest[4:])
    if re.fullmatch(r"v\d+", rest):
        return TablePin(address, version=int(rest[1:]))
    if _PIN.match(rest):
        return TablePin(address, at=parse_instant(rest))
    raise Refused(
        f"'{text[:140]}' names no version of a table",
        ways_on=["write flights@v3, flights@tag:report, flights@2013-06-01T00:00Z or flights@dev/try-1@v3"],
        name=text[:140],
    )


def branch_name(branch: str) -> str:
    """The name if it may name a branch, else refused.

    >>> branch_name("dev/../x")
    Traceback (most recent call last):
    ...
    fourfold.core.errors.Refused: 'dev/../x' cannot name a branch
      use letters, digits, '_', '-', single dots and up to three '/': dev/try-1
      what looks like a version (v3) or a day (2013-06-01) would be taken for one
    """
    if (
        len(branch) > 100
        or _BRANCH.fullmatch(branch) is None
        or ".." in branch
        or branch.endswith(".")
        or "./" in branch
        or _PIN.match(branch) is not None
    ):
        raise Refused(
            f"'{branch[:140]}' cannot name a branch",
            ways_on=[
                "use letters, digits, '_', '-', single dots and up to three '/': dev/try-1",
                "what looks like a version (v3) or a day (2013-06-01) would be taken for one",
            ],
            branch=branch[:140],
        )
    return branch


def check_tag(tag: str) -> None:
    """Refuse what cannot be a tag: it stands beside numbers, and in addresses."""
    if not (0 < len(tag) <= 100 and tag.isprintable() and not tag.isdecimal() and "/" not in tag):
        raise Refused(
            f"{tag[:120]!r} cannot be a tag",
            ways_on=["use 1 to 100 letters, digits and signs, not only digits, and no '/'"],
        )
