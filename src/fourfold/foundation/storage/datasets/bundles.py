"""Bundles of tables and files: defined once, released as versions that pin their members."""

from __future__ import annotations

from collections.abc import Callable

from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.catalog import principal
from fourfold.core.context import Ref
from fourfold.core.datasets import (
    DatasetDiff,
    DatasetInfo,
    DatasetVersion,
    Definition,
    Member,
    check_definition,
    dataset_name,
    digest_of,
)
from fourfold.core.decide import drift
from fourfold.core.decide.expectations import refusing
from fourfold.core.errors import Refused
from fourfold.core.expectations import Check
from fourfold.core.ports.clock import Clock
from fourfold.core.services.files import Files
from fourfold.core.services.storage import Storage
from fourfold.core.statistics import TableStatistics
from fourfold.foundation.storage.datasets.tables import DatasetRecords


class Bundles:
    """Datasets by name. Figures and checks of tables come from whoever knows them."""

    def __init__(
        self,
        catalog: Catalog,
        storage: Storage,
        files: Files,
        clock: Clock,
        *,
        figures: Callable[[str, int], TableStatistics],
        check: Callable[[str, int], Check],
    ) -> None:
        self._records = DatasetRecords(catalog)
        self._storage = storage
        self._files = files
        self._clock = clock
        self._figures = figures
        self._check = check

    def define(self, name: str, definition: Definition, why: str) -> DatasetInfo:
        check_definition(dataset_name(name), definition)
        for member, ref in definition.members.items():
            self._pinned(member, ref)  # it is there
        self._records.define(self._clock.now(), name, definition, why)
        return self._records.info(name)

    def all(self) -> tuple[DatasetInfo, ...]:
        return self._records.all()

    def info(self, name: str) -> DatasetInfo:
        return self._records.info(dataset_name(name))

    def find(self, name: str, version: int | None, tag: str | None) -> DatasetVersion:
        found = self._records.find(dataset_name(name), version=version, tag=tag)
        context.record_read(found.ref)
        return found

    def versions(self, name: str, limit: int) -> tuple[DatasetVersion, ...]:
        return self._records.versions(dataset_name(name), limit)

    def release(self, name: str, why: str) -> DatasetVersion:
        """Pin each member as it is now; refused where a table is not as expected."""
        definition = self.info(name).definition
        key = context.write_key() or ""
        made = self._records.done(name, key)
        if made is None:
            for ref in definition.members.values():
                if ref.kind == "table" and not ref.version:
                    self._storage.flush(ref.name)  # rows that wait before it are meant too
            pins = {member: self._pinned(member, ref) for member, ref in sorted(definition.members.items())}
            self._refuse_unexpected(name, pins)
            members = tuple(self._member(member, ref) for member, ref in pins.items())
            ambient = context.ambient()
            made = self._records.add(
                DatasetVersion(
                    name=name,
                    version=-1,
                    digest=digest_of(members),
                    at=self._clock.now(),
                    members=members,
                    why=why,
                    by=principal(),
                    step=str(ambient.executing.ref) if ambient is not None else "",
                ),
                key=key,
            )
        for member in made.members:
            context.record_read(member.ref)
        context.record_write(made.ref)
        return made

    def check(self, name: str, version: int | None) -> tuple[Check, ...]:
        """The tables of a version, or as they are now, held against what is expected of them."""
        if version is None:
            members = self.info(name).definition.members
            refs = [self._pinned(member, ref) for member, ref in sorted(members.items())]
        else:
            refs = [member.ref for member in self.find(name, version, None).members]
        return tuple(self._check(ref.name, int(ref.version)) for ref in refs if ref.kind == "table")

    def diff(self, name: str, before: int, after: int | None) -> DatasetDiff:
        old, new = self.find(name, before, None), self.find(name, after, None)
        figures = {
            change.name: (self._figures_of(change.before.ref), self._figures_of(change.after.ref))
            for change in drift.changes(old, new)
            if change.before is not None
            and change.after is not None
            and change.before.ref.kind == change.after.ref.kind == "table"
        }
        return drift.diff(old, new, figures)

    def tag(self, name: str, tag: str, version: int | None, why: str) -> DatasetVersion:
        if not (0 < len(tag) <= 100 and tag.isprintable() and not tag.isdecimal() and "/" not in tag):
            raise Refused(
                f"{tag[:120]!r} cannot be a tag",
                ways_on=["use 1 to 100 letters, digits and signs, not only digits, and no '/'"],
            )
        found = self._records.find(dataset_name(name), version=version, tag=None)
        self._records.put_tag(self._clock.now(), name, tag, found.version, why)
        return found

    def _pinned(self, member: str, ref: Ref) -> Ref:
        """The thing at the version that is meant now; refused where it is not there."""
        if ref.kind not in {"table", "files"}:
            return ref
        if ref.version and not ref.version.isdecimal():
            raise Refused(
                f"member '{member}': '{ref.version}' is no version of {ref.kind} '{ref.name}'",
                ways_on=["versions are numbers; without one, the newest is taken when a version is made"],
                member=member,
            )
        version = int(ref.version) if ref.version else None
        if ref.kind == "files":
            return self._files.describe(ref.name, version=version).ref
        return Ref("table", ref.name, str(self._storage.describe(ref.name, version=version).version))

    def _member(self, name: str, ref: Ref) -> Member:
        match ref.kind:
            case "table":
                info = self._storage.describe(ref.name, version=int(ref.version))
                figures = self._figures(info.name, info.version)
                return Member(
                    name,
                    ref,
                    digest=figures.digest,
                    rows=info.rows,
                    columns=info.columns,
                    size_bytes=info.size_bytes,
                )
            case "files":
                saved = self._files.describe(ref.name, version=int(ref.version))
                return Member(name, ref, digest=saved.manifest, size_bytes=saved.size_bytes)
            case _:
                return Member(name, ref)

    def _refuse_unexpected(self, name: str, pins: dict[str, Ref]) -> None:
        wrong = [
            f"{member} ({ref}): {verdict.reason}"
            for member, ref in pins.items()
            if ref.kind == "table"
            for verdict in refusing(self._check(ref.name, int(ref.version)).verdicts)
        ]
        if wrong:
            raise Refused(
                f"dataset '{name}' is not released: its tables are not as expected",
                ways_on=[*wrong, f"see: fourfold dataset check {name}"],
                name=name,
            )

    def _figures_of(self, ref: Ref) -> TableStatistics:
        return self._figures(ref.name, int(ref.version))
