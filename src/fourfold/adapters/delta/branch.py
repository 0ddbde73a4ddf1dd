"""Branches: logs of their own beside the table's, over the same data files.

A branch of table `t` is the log `t/_branches/NAME/_delta_log`. Its files lie in the table's own folder (the
log calls them `../../part-….parquet`), so that publishing copies no bytes, and other programs can open it.
"""

from __future__ import annotations

from typing import Any

from fourfold.adapters.delta import history
from fourfold.adapters.delta import metadata as meta
from fourfold.adapters.delta.actions import DataFile
from fourfold.adapters.delta.errors import no_table
from fourfold.adapters.delta.evolve import whole
from fourfold.adapters.delta.log import Log
from fourfold.adapters.delta.state import State
from fourfold.adapters.delta.transaction import Outcome
from fourfold.core.decide import branching
from fourfold.core.decide.branching import Publish as How
from fourfold.core.errors import Refused


class Fork:
    """The first version of a branch: what the table was."""

    operation = "branch"
    only_adds = True

    def __init__(self, table: Log, branch: Log, *, version: int) -> None:
        self._table = table
        self._branch = branch
        self._version = version

    def prepare(self, state: State | None) -> bool:
        if state is not None:
            address = self._branch.address
            raise Refused(
                f"table '{address.table}' has a branch '{address.branch}' already",
                ways_on=[
                    f"go on with it: {address}",
                    f"or drop it, or name another: fourfold table drop {address}",
                ],
                table=address.table,
                branch=address.branch,
            )
        whole(self._table, self._version)
        return True

    def outcome(self, state: State | None) -> Outcome | None:
        if state is not None:
            return None
        begun = whole(self._table, self._version)
        fresh = meta.created(begun.schema, begun.partition_by, begun.at // 1000)
        return Outcome(
            metadata=meta.read({**begun.metadata.action, "id": fresh.action["id"]}),
            protocol=begun.protocol,
            added=list(begun.files.values()),
            rows=begun.rows,
            branch={"id": fresh.action["id"], "table_version": self._version},
            watermark=begun.watermark,
        )


class Publish:
    """What was done on a branch, brought into its table."""

    operation = "publish"

    def __init__(self, table: Log, branch: Log, *, onto: int | None, becoming: bool) -> None:
        self._table = table
        self._branch = branch
        self._onto = onto
        self._becoming = becoming
        self._how = How.add

    @property
    def only_adds(self) -> bool:
        return False

    def prepare(self, state: State | None) -> bool:
        if state is None:
            raise no_table(self._table.name)
        self._branch.there()
        return True

    def outcome(self, state: State | None) -> Outcome | None:
        if state is None:
            raise no_table(self._table.name)
        branching.check_onto(self._table.name, state.version, self._onto)
        theirs = self._branch.there()
        id_, table_version, branch_version, is_level = self._met(state)
        of_branch = history.commits(self._branch, after=branch_version, upto=theirs.version)
        begun, old = self._branch.at(branch_version), self._table.at(table_version)
        how = branching.publishing(
            self._table.name,
            self._branch.address.branch,
            of_table=history.commits(self._table, after=table_version, upto=state.version),
            of_branch=of_branch,
            is_level=is_level,
            same_columns=old.schema == state.schema and begun.schema == theirs.schema,
            becoming=self._becoming,
        )
        removed: list[DataFile] = []
        if how is How.become:
            added = [file for path, file in theirs.files.items() if path not in state.files]
            removed = [file for path, file in state.files.items() if path not in theirs.files]
        else:  # what a compaction wrote together is no addition
            entries = self._branch.entries(branch_version, theirs.version)
            added = [file for entry in entries if entry.operation == "append" for file in entry.added]
        schema = theirs.schema if how is How.become else state.schema
        return Outcome(
            metadata=state.metadata if schema == state.schema else state.metadata.with_schema(schema),
            protocol=meta.protocol_for(schema, state.protocol),
            added=added,
            removed=removed,
            rows_added=sum(commit.rows_added for commit in of_branch),
            rows_removed=sum(commit.rows_removed for commit in of_branch),
            branch={
                "id": id_,
                "name": self._branch.address.branch,
                "version": theirs.version,
                "is_level": how is How.become,
            },
        )

    def _met(self, state: State) -> tuple[str, int, int, bool]:
        """The branch's mark, where it and the table last met, and whether they then held the same."""
        begun: dict[str, Any] = self._branch.entry(0).own.get("branch", {})
        met = str(begun.get("id", "")), int(begun.get("table_version", 0)), 0, True
        for entry in self._table.entries(met[1], state.version):
            told = entry.own.get("branch", {})
            if entry.operation == "publish" and told.get("id") == met[0]:
                met = met[0], entry.version, int(told["version"]), bool(told["is_level"])
        return met
