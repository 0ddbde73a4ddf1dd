"""The gate before a table: data are looked at before their version is seen.

What single rows can show is asked of data in memory before anything is written. What needs the whole
table, and streams too large for memory, are written to a hidden branch, checked there, and published onto
the very version that they were checked against; where the table moved meanwhile, they are checked again.
So a version that is seen has passed, and a process killed anywhere leaves the table as it was, or the new
version whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import TypeAlias

import pyarrow as pa

from fourfold.catalog.database import Catalog
from fourfold.catalog.ids import new_id
from fourfold.core.catalog import principal
from fourfold.core.decide import schemas
from fourfold.core.decide.branching import HIDDEN
from fourfold.core.decide.expectations import check_definitions, refusing
from fourfold.core.errors import Conflict, FourfoldError, OutOfSpace, Refused, Unavailable
from fourfold.core.expectations import Check, Expected, OnFailure, Rejection, Verdict
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Ability, Commit, Mark, Rows, TableStore
from fourfold.core.storage import MAIN, TableAddress, table_address
from fourfold.core.times import after
from fourfold.foundation.storage.checks.examine import Found, Would, examine, of_the_whole
from fourfold.foundation.storage.checks.kept import Aside, Kept
from fourfold.foundation.storage.checks.rows import RowRules, pieces
from fourfold.foundation.storage.checks.tables import CheckRecords
from fourfold.foundation.storage.checks.whole import Reading
from fourfold.foundation.storage.naming import Naming
from fourfold.foundation.storage.statistics.keeper import StatisticsKeeper
from fourfold.foundation.storage.statistics.sketch import TableSketch
from fourfold.foundation.storage.versions import Versions

Write: TypeAlias = Callable[[str, Rows], Commit]
"""Writes rows, under the names that people know, to the table or to a branch of it."""

STALE_S = 86_400.0
"""A hidden branch older than this belongs to a process that is gone."""
TRIES = 30
MOST_IN_MEMORY = 64 * 2**20
"""A stream with no more bytes than this is taken as a table."""


class Gate:
    """Lets data pass that are as expected of their table, and counts what they hold."""

    def __init__(
        self,
        catalog: Catalog,
        versions: Versions,
        naming: Naming,
        tables: TableStore,
        blobs: BlobStore,
        clock: Clock,
    ) -> None:
        self.records = CheckRecords(catalog)
        self.statistics = StatisticsKeeper(catalog, lambda n, v: naming.scan(n, v, None, ()), clock)
        self.kept = Kept(self.records, blobs)
        self.versions = versions
        self.naming = naming
        self.tables = tables
        self.clock = clock

    def write(self, operation: str, address: str, data: Rows, mark: Mark, write: Write) -> Commit:
        """Write, if the data are as expected; a branch takes anything until it is published.

        Operations: `append`, `upsert`, `overwrite` of a part, `replace` of all rows.
        """
        expected = self._expected(address)
        if expected is None or self.versions.made_by(address, mark.key) is not None:
            return write(address, data)
        return Passage(self, operation, address, expected, data, mark, write).go()

    def look_at_insert(self, table: str, data: pa.Table) -> None:
        """Refuse rows that are not as expected before they wait in front of their table, where readers see
        them; also where something is expected of the table as a whole, which nobody would ask in time."""
        expected = self._expected(table)
        if expected is None or not expected.expectations:
            return
        if of_the_whole(expected.expectations):
            raise Refused(
                f"table '{table}' is looked at as a whole, and inserted rows are seen before it could be",
                ways_on=["append them: what is appended is checked before it is seen"],
                table=table,
            )
        schema = schemas.fitting(table, data.schema, self.naming.schema(table, None))
        rules, aside = _looked(table, expected, schema, data)
        mark = Mark(at=self.clock.now(), by=principal())  # the insert's own key is not used up here
        self.refuse_if_due(table, "insert", mark, rules.verdicts(), aside, rules.bad_rows, Found())

    def publish(self, table: str, branch: str, mark: Mark, publish: Callable[[bool], Commit]) -> Commit:
        """Publish a branch, if what is on it is as expected of the table.

        `publish` is told whether the table must become what the branch is: where something is expected of
        the table as a whole, rows that others added meanwhile have not been looked at together with these.
        """
        expected = self._expected(table)
        if expected is None or self.versions.made_by(table, mark.key) is not None:
            return publish(False)
        now = self.versions.snapshot(str(TableAddress(table, branch)))
        read = self.reading(str(TableAddress(table, branch)), now.version)
        schema = read(None).schema
        rules, aside = _looked(table, expected, schema, read(None))
        whole = of_the_whole(expected.expectations)
        before = self.versions.snapshot(table).rows
        found = examine(whole, Would(read, None, rows_before=before, rows_after=now.rows), self.clock.now())
        verdicts = (*rules.verdicts(), *found.verdicts)
        self.refuse_if_due(table, "publish", mark, verdicts, aside, rules.bad_rows, found)
        commit = publish(bool(whole))
        self.note(Check(table, commit.version, commit.rows, verdicts), commit)
        return commit

    def refuse_if_due(
        self,
        table: str,
        operation: str,
        mark: Mark,
        verdicts: Sequence[Verdict],
        aside: Aside,
        bad_rows: int,
        found: Found,
    ) -> None:
        """Refuse the data where a verdict does, once some of the rows are kept."""
        due = refusing(verdicts)
        if not due:
            return
        for some in found.some:
            aside.add(some.slice(0, max(0, aside.room())))
        count = bad_rows + found.failing
        rejection = self.kept.put(
            table, operation, mark, rows=aside.rows, count=count, verdicts=verdicts, is_quarantined=False
        )
        see = [f"see the rows: fourfold table rejected {table} {rejection.id}"] if rejection.kept_rows else []
        raise Refused(
            f"table '{table}': the data are not as expected; nothing was written",
            ways_on=[*(verdict.reason for verdict in due), *see],
            table=table,
            rejection=rejection.id,
        )

    def note(self, check: Check, commit: Commit) -> None:
        """Keep what was found of a new version; the version stands without it."""
        if check.verdicts:
            with suppress(OutOfSpace, Unavailable):
                self.records.put_check(commit.at, check)

    def reading(self, address: str, version: int, *, shown_as: str = "") -> Reading:
        """A version's rows, under the names that `shown_as` (else itself) shows now."""
        names = self.naming.newest(shown_as or address)

        def read(columns: Sequence[str] | None) -> pa.RecordBatchReader:
            wanted = None if columns is None else names.store(columns)
            found = self.tables.scan(address, version=version, columns=wanted)
            return names.rename(found, to_stored=False) if names else found

        return read

    def forget(self, table: str) -> None:
        """Keep nothing of a table that is gone: figures and rejected rows hold its values."""
        self.statistics.forget(table)
        self.records.forget(table)

    def _expected(self, address: str) -> Expected | None:
        return self.records.expected(address) if table_address(address).branch == MAIN else None


class Passage:
    """One write on its way through the gate."""

    def __init__(
        self,
        gate: Gate,
        operation: str,
        table: str,
        expected: Expected,
        data: Rows,
        mark: Mark,
        write: Write,
    ) -> None:
        self._gate = gate
        self._operation = operation
        self._table = table
        self._expected = expected
        self._data = _in_memory(data)
        self._mark = mark
        self._write = write
        now = gate.naming.schema(table, None)
        self._schema = schemas.fitting(table, data.schema, None if operation == "replace" else now)
        check_definitions(table, expected, self._schema)
        self._whole = of_the_whole(expected.expectations)
        self._sets_aside = expected.on_failure is OnFailure.quarantine
        self._aside = Aside(table, keeps_all=self._sets_aside)
        self._rules = RowRules(table, expected.expectations, self._schema)
        self._sketch = TableSketch(self._schema) if expected.statistics else None
        self._rejection: Rejection | None = None

    def go(self) -> Commit:
        with closing(self._rules):
            if isinstance(self._data, pa.Table):
                rows = self._sifted(self._data)
                return self._by_branch(rows) if self._whole else self._at_once(rows)
            return self._by_branch(self._data)

    def _at_once(self, rows: pa.Table) -> Commit:
        """Rows alone decide, and all of them were looked at."""
        self._decide(self._rules.verdicts(), Found())
        return self._noted(self._write(self._table, rows), self._rules.verdicts())

    def _by_branch(self, rows: Rows) -> Commit:
        gate = self._gate
        if Ability.branch not in gate.tables.abilities:
            what = "it is looked at as a whole" if self._whole else "the data are a stream"
            raise Refused(
                f"table '{self._table}': {what}, and its format has no branches to check that on",
                ways_on=["give the data as a table", "expect only what single rows can show"],
                table=self._table,
                ability=Ability.branch.value,
            )
        self._sweep()
        for _ in range(TRIES):
            base = gate.versions.snapshot(self._table).version
            branch = HIDDEN + new_id("audit")
            at = str(TableAddress(self._table, branch))
            gate.tables.fork(self._table, branch, version=base, mark=replace(self._mark, key=""))
            try:
                with _said_of(self._table, at):
                    self._write(at, rows if isinstance(rows, pa.Table) else self._sifting(rows))
                    commit = self._published(at, branch, rows)
            finally:
                with suppress(FourfoldError):  # what is left is swept a day later
                    gate.tables.drop(at)
            if commit is not None:
                return commit
            if not isinstance(rows, pa.Table):
                break
        raise _moved(self._table)

    def _published(self, at: str, branch: str, rows: Rows) -> Commit | None:
        """The new version, or nothing where the work must be done again on what the table is now."""
        gate = self._gate
        for _ in range(TRIES):
            onto = gate.versions.snapshot(self._table).version
            found = examine(self._whole, self._would(at, onto, rows), gate.clock.now())
            verdicts = (*self._rules.verdicts(), *found.verdicts)
            self._decide(verdicts, found)
            try:
                commit = gate.tables.publish(self._table, branch, onto=onto, mark=self._mark)
            except Conflict:
                if gate.versions.snapshot(self._table).version == onto:
                    return None
            else:
                return self._noted(commit, verdicts)
        return None

    def _would(self, at: str, onto: int, rows: Rows) -> Would:
        gate = self._gate
        before = gate.versions.snapshot(self._table, onto).rows
        branch = gate.versions.snapshot(at)
        if self._operation != "append":
            new = gate.reading(at, branch.version, shown_as=self._table)
            return Would(new, None, rows_before=before, rows_after=branch.rows)
        if isinstance(rows, pa.Table):
            table = rows
            new = lambda columns: (table if columns is None else table.select(columns)).to_reader()  # noqa: E731
        else:
            new = _added(gate, at, branch.version, shown_as=self._table)
        after_it = before + self._rules.rows - (self._rules.bad_rows if self._sets_aside else 0)
        old = gate.reading(self._table, onto)
        return Would(new, old, rows_before=before, rows_after=after_it)

    def _sifted(self, data: pa.Table) -> pa.Table:
        good = list(self._sift(data))
        if not (self._sets_aside and self._rules.bad_rows):
            return data
        return pa.concat_tables(good) if good else data.slice(0, 0)

    def _sifting(self, data: pa.RecordBatchReader) -> pa.RecordBatchReader:
        def batches() -> Iterator[pa.RecordBatch]:
            for piece in self._sift(data):
                yield from piece.to_batches()

        return pa.RecordBatchReader.from_batches(data.schema, batches())

    def _sift(self, data: Rows) -> Iterator[pa.Table]:
        """The rows that may go in, some at a time, each looked at and counted once."""
        for piece in pieces(data):
            looked = self._rules.look(piece)
            if looked.bad_rows and self._aside.room() > 0:
                self._aside.add(looked.bad(self._aside.room()))
            good = looked.good() if self._sets_aside else piece
            if self._sketch is not None:
                for batch in good.to_batches():
                    self._sketch.see(batch)
            yield good

    def _decide(self, verdicts: Sequence[Verdict], found: Found) -> None:
        """Refuse, or keep what is set aside, before the rest is seen."""
        gate, table, bad = self._gate, self._table, self._rules.bad_rows
        if self._sets_aside:
            of_rows = {id(each) for each in self._rules.asked}
            verdicts = [verdict for verdict in verdicts if id(verdict.expectation) not in of_rows]
        gate.refuse_if_due(table, self._operation, self._mark, verdicts, self._aside, bad, found)
        if self._sets_aside and bad and self._rejection is None:
            self._rejection = gate.kept.put(
                table,
                self._operation,
                self._mark,
                rows=self._aside.rows,
                count=bad,
                verdicts=self._rules.verdicts(),
                is_quarantined=True,
            )

    def _noted(self, commit: Commit, verdicts: Sequence[Verdict]) -> Commit:
        gate = self._gate
        gate.note(Check(self._table, commit.version, commit.rows, tuple(verdicts)), commit)
        with suppress(OutOfSpace, Unavailable):
            if self._rejection is not None:
                gate.kept.written(self._rejection, commit.version)
            if self._sketch is not None and self._operation == "replace":
                gate.statistics.replaced(self._table, commit.version, self._sketch)
            elif self._sketch is not None and self._operation == "append":
                gate.statistics.appended(self._table, commit.version, self._sketch)
        return commit

    def _sweep(self) -> None:
        """Drop the branches of writers that died."""
        gate = self._gate
        stale = after(gate.clock.now(), -STALE_S)
        for branch in gate.tables.branches(self._table):
            if branch.startswith(HIDDEN):
                with suppress(FourfoldError):
                    at = str(TableAddress(self._table, branch))
                    if gate.tables.snapshot(at).at < stale:
                        gate.tables.drop(at)


def _looked(table: str, expected: Expected, schema: pa.Schema, data: Rows) -> tuple[RowRules, Aside]:
    """All rows, looked at one by one; some of the bad ones kept."""
    check_definitions(table, expected, schema)
    aside = Aside(table, keeps_all=False)
    with closing(RowRules(table, expected.expectations, schema)) as rules:
        for piece in pieces(data) if rules.asked else ():
            looked = rules.look(piece)
            if looked.bad_rows and aside.room() > 0:
                aside.add(looked.bad(aside.room()))
    return rules, aside


def _added(gate: Gate, at: str, version: int, *, shown_as: str) -> Reading:
    """The rows that were appended to a branch."""
    names = gate.naming.newest(shown_as)

    def read(columns: Sequence[str] | None) -> pa.RecordBatchReader:
        found = gate.tables.difference(at, before=0, after=version).added
        shown = names.rename(found, to_stored=False) if names else found
        if columns is None:
            return shown
        wanted = pa.schema([shown.schema.field(column) for column in columns])
        return pa.RecordBatchReader.from_batches(wanted, (batch.select(list(columns)) for batch in shown))

    return read


@contextmanager
def _said_of(table: str, branch: str) -> Iterator[None]:
    """Within the block, what is wrong with the hidden branch is said of the table."""
    try:
        yield
    except FourfoldError as error:
        said = [text.replace(branch, table) for text in (error.message, *error.ways_on)]
        if said == [error.message, *error.ways_on]:
            raise
        facts = {name: table if fact == branch else fact for name, fact in error.facts.items()}
        raise type(error)(said[0], ways_on=said[1:], **facts) from error


def _in_memory(data: Rows) -> Rows:
    """A stream that is small, as a table; a larger one as it was."""
    if isinstance(data, pa.Table):
        return data
    batches: list[pa.RecordBatch] = []
    size = 0
    for batch in data:
        batches.append(batch)
        size += batch.nbytes
        if size > MOST_IN_MEMORY:
            return pa.RecordBatchReader.from_batches(data.schema, _chained(batches, data))
    return pa.Table.from_batches(batches, schema=data.schema)


def _chained(first: list[pa.RecordBatch], rest: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    while first:
        yield first.pop(0)
    yield from rest


def _moved(table: str) -> Conflict:
    return Conflict(
        f"table '{table}' changed while new rows for it were checked; nothing was written",
        ways_on=["try again", "let fewer writers change the same rows at once"],
        table=table,
    )
