"""Datasets: named, versioned bundles of tables and files.

A version pins the version of each member, with its columns, its rows and the digest of its figures. Its
digest names just that: two versions with equal digests hold the same members, whatever they are called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from fourfold.core import wire
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, Refused, did_you_mean
from fourfold.core.storage import Column, table_name
from fourfold.core.times import Instant

KIND = "dataset"
"""The kind under which tags, lineage and the audit know datasets."""
MOST_MEMBERS = 1_000
MOST_WORDS = 10_000


@dataclass(frozen=True, slots=True)
class Definition:
    """What a dataset is made of. A member without a version is taken as it is when a version is made."""

    members: Mapping[str, Ref] = field(default_factory=dict)
    """Name in the dataset to the thing: a table, files, or anything else at a version."""
    description: str = ""
    owner: str = ""
    labels: tuple[str, ...] = ()
    """Words to find it by."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member as a version pins it."""

    name: str
    ref: Ref
    digest: str = ""
    """Of a table's exact figures, of the manifest of files."""
    rows: int | None = None
    columns: tuple[Column, ...] = ()
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One version of a dataset; versions are numbered from 0 without gaps."""

    name: str
    version: int
    digest: str
    at: Instant
    members: tuple[Member, ...]
    """Sorted by name."""
    why: str = ""
    by: str = ""
    step: str = ""

    @property
    def ref(self) -> Ref:
        return Ref(KIND, self.name, str(self.version))

    def member(self, name: str) -> Member:
        """One member, or what there is."""
        found = next((member for member in self.members if member.name == name), None)
        if found is None:
            known = [member.name for member in self.members]
            raise NotFound(
                f"{self.name} at version {self.version} has no member '{name}'",
                ways_on=did_you_mean(name, known, what="members"),
                name=self.name,
                member=name,
            )
        return found


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset as it is now."""

    name: str
    definition: Definition
    created_at: Instant
    newest: DatasetVersion | None = None
    tags: Mapping[str, int] = field(default_factory=dict)
    """Tag to version."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How one column of a table moved between two versions."""

    member: str
    column: str
    nulls_before: float
    """Shares of the rows."""
    nulls_after: float
    distance: float | None = None
    """The most by which the shares of rows below a value differ, 0 to 1; of numbers and times."""
    distinct_before: int | None = None
    distinct_after: int | None = None


@dataclass(frozen=True, slots=True)
class MemberChange:
    """A member that is another in the later version; `None` where it was not, or is no more."""

    name: str
    before: Member | None
    after: Member | None
    columns_added: tuple[Column, ...] = ()
    columns_removed: tuple[Column, ...] = ()
    """A column of another type is among both."""


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """What differs between two versions."""

    name: str
    before: int
    after: int
    changes: tuple[MemberChange, ...]
    drift: tuple[Drift, ...]
    """Columns of tables that changed, the farthest moved first."""


def digest_of(members: tuple[Member, ...]) -> str:
    """The identity of a version: what it pins, and nothing else."""
    return "sha256:" + hashlib.sha256(wire.encode(members)).hexdigest()


def dataset_name(name: str) -> str:
    """The name if it may name a dataset: as for tables, because it becomes part of addresses."""
    try:
        return table_name(name)
    except Refused as error:
        said = error.message.replace("a table", "a dataset")
        raise Refused(said, ways_on=error.ways_on, name=name[:140]) from None


def check_definition(name: str, definition: Definition) -> None:
    """Refuse what could not be a dataset."""
    if not definition.members:
        raise Refused(f"dataset '{name}' has no members", ways_on=["name some: tables=['flights']"])
    if len(definition.members) > MOST_MEMBERS:
        raise Refused(f"dataset '{name}' has more than {MOST_MEMBERS:,} members")
    words = [definition.description, definition.owner, *definition.labels]
    if any(len(text) > MOST_WORDS for text in words) or len(definition.labels) > 100:
        raise Refused(f"dataset '{name}': its description, owner or labels are too long")
    for member, ref in definition.members.items():
        dataset_name(member)
        if ref.kind not in {"table", "files"} and not ref.version:
            raise Refused(
                f"dataset '{name}': member '{member}' is {ref}, and its version is not said",
                ways_on=["only tables and files are taken as they are; of anything else, say which version"],
                name=name,
                member=member,
            )
