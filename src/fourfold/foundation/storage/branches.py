"""Branches of tables: cheap copies of a name, published as one version or dropped."""

from __future__ import annotations

from fourfold.core.context import Ref
from fourfold.core.decide.branching import HIDDEN
from fourfold.core.ports.tables import TableStore
from fourfold.core.storage import Branch, TableAddress, TableVersion
from fourfold.foundation.storage.checks.gate import Gate
from fourfold.foundation.storage.naming import Naming
from fourfold.foundation.storage.tables import TableRecords
from fourfold.foundation.storage.versions import Versions


class Branches:
    """Begins and publishes branches, each with its lineage: what was made on one leads back to the table."""

    def __init__(
        self, records: TableRecords, versions: Versions, naming: Naming, tables: TableStore, gate: Gate
    ) -> None:
        self._records = records
        self._versions = versions
        self._naming = naming
        self._tables = tables
        self._gate = gate

    def fork(self, table: str, branch: str, version: int | None, why: str) -> TableVersion:
        mark, address = self._versions.mark(), str(TableAddress(table, branch))
        begun = self._versions.resolve(table, version=version, at=None, tag=None)
        commit = self._tables.fork(table, branch, version=begun, mark=mark)
        self._naming.follow(address, commit, self._records.names(table, begun))
        made = self._versions.record(address, commit, {"begun_at": begun, "why": why})
        self._versions.connect(Ref("table", table, str(begun)), made)
        return made

    def publish(self, table: str, branch: str, why: str) -> TableVersion:
        mark, address = self._versions.mark(), str(TableAddress(table, branch))
        theirs = self._versions.snapshot(address).version
        commit = self._gate.publish(
            table,
            branch,
            mark,
            lambda becoming: self._tables.publish(table, branch, becoming=becoming, mark=mark),
        )
        self._naming.follow(table, commit, self._records.names(address, theirs))
        made = self._versions.record(table, commit, {"branch": branch, "why": why})
        self._versions.connect(Ref("table", address, str(theirs)), made)
        return made

    def all(self, table: str) -> tuple[Branch, ...]:
        self._versions.snapshot(table)
        shown = (each for each in self._tables.branches(table) if not each.startswith(HIDDEN))
        return tuple(self._one(table, branch) for branch in shown)

    def _one(self, table: str, branch: str) -> Branch:
        address = str(TableAddress(table, branch))
        snapshot = self._versions.snapshot(address)
        self._versions.catch_up(address, snapshot.version)
        begun = self._records.oldest(address)
        return Branch(
            table=table,
            name=branch,
            version=snapshot.version,
            rows=snapshot.rows,
            at=snapshot.at,
            begun_at=snapshot.at if begun is None else begun.at,
            begun_by="" if begun is None else begun.by,
        )
