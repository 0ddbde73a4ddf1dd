"""Rows that were not as expected, kept aside: as Parquet under a digest, with what was wrong in front."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fourfold.catalog.ids import new_id
from fourfold.core.decide.erasing import Wanted
from fourfold.core.errors import Corrupted, NotFound, Refused
from fourfold.core.expectations import Rejection, Verdict
from fourfold.core.ports.blobs import BlobStore
from fourfold.core.ports.tables import Mark
from fourfold.core.storage import Digest
from fourfold.foundation.storage.checks.tables import CheckRecords

MOST_REFUSED = 1_000
"""Rows kept of a write that was refused."""
MOST_SET_ASIDE = 100_000
"""Rows that one write may set aside. More, or larger ones, are a defect of the data, and refused."""
MOST_BYTES = 64 * 2**20
UNFIT = "it fitted the table's columns no more"
"""What is said of an insert in the place of its own reason, once rows of it were forgotten."""


class Aside:
    """The bad rows of one write, up to a bound."""

    def __init__(self, table: str, *, keeps_all: bool) -> None:
        self._table = table
        self._keeps_all = keeps_all
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0

    def room(self) -> int:
        """How many more rows to hand over."""
        if self._keeps_all:
            return MOST_SET_ASIDE + 1 - self._rows
        return 0 if self._bytes >= MOST_BYTES else MOST_REFUSED - self._rows

    def add(self, rows: pa.Table) -> None:
        self._tables.append(rows.combine_chunks())
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._keeps_all and (self._rows > MOST_SET_ASIDE or self._bytes > MOST_BYTES):
            raise Refused(
                f"table '{self._table}': more than {MOST_SET_ASIDE:,} rows, or 64 MiB of them, are not as "
                "expected: too many to be set aside; nothing was written",
                ways_on=["look at what is expected: fourfold table expectations " + self._table],
                table=self._table,
            )

    @property
    def rows(self) -> pa.Table | None:
        return pa.concat_tables(self._tables, promote_options="permissive") if self._tables else None


class Kept:
    """Keeps such rows, and word of them in the catalog."""

    def __init__(self, records: CheckRecords, blobs: BlobStore) -> None:
        self._records = records
        self._blobs = blobs

    def put(
        self,
        table: str,
        operation: str,
        mark: Mark,
        *,
        rows: pa.Table | None,
        count: int,
        verdicts: Sequence[Verdict],
        is_quarantined: bool,
    ) -> Rejection:
        """Keep rows before anything is said of them."""
        rejection = Rejection(
            id=new_id("rejection"),
            table=table,
            at=mark.at,
            by=mark.by,
            operation=operation,
            is_quarantined=is_quarantined,
            rows=count,
            kept_rows=0 if rows is None else rows.num_rows,
            verdicts=tuple(verdict for verdict in verdicts if not verdict.passed),
            step=mark.step,
        )
        self._records.put_rejection(rejection, None if rows is None else self._stored(rows))
        return rejection

    def unfit(self, table: str, number: int, mark: Mark, *, rows: pa.Table, why: str) -> None:
        """Keep an insert that fits its table's columns no more; keeping it again is keeping it once."""
        rejection = Rejection(
            id=f"insert_{table}_{number}",
            table=table,
            at=mark.at,
            by=mark.by,
            operation="insert",
            is_quarantined=True,
            rows=rows.num_rows,
            kept_rows=rows.num_rows,
            step=mark.step,
            why=why,
        )
        self._records.put_rejection(rejection, self._stored(rows))

    def written(self, rejection: Rejection, version: int) -> None:
        """Note which version holds the other rows."""
        self._records.note_version(replace(rejection, version=version))

    def all_rows(self, table: str) -> Iterator[pa.Table]:
        """The rows of each of a table's rejections that can be read."""
        for _, digest in self._records.kept_rows(table):
            with suppress(NotFound, Corrupted):
                yield self.rows(digest)

    def count(self, table: str, wanted: Wanted) -> tuple[int, list[str]]:
        """How many kept rows of a table are wanted, and of which rejections nobody can tell."""
        count, unread = 0, []
        for rejection, digest in self._records.kept_rows(table):
            try:
                rows = self.rows(digest)
            except (NotFound, Corrupted):
                unread.append(rejection.id)
                continue
            count += pc.sum(wanted.mask(rows)).as_py() or 0
            if not wanted.keys_for(rows.schema):
                unread.append(rejection.id)
        return count, unread

    def without(self, table: str, wanted: Wanted) -> tuple[int, list[str]]:
        """Keep those rows no longer; how many went, and of which rejections nobody can tell.

        The blob with them goes at once: what cites nothing would stay for the grace of the garbage.
        """
        gone, unread = self.count(table, wanted)
        for rejection, digest in self._records.kept_rows(table) if gone else ():
            if rejection.id in unread:
                continue
            rows = self.rows(digest)
            left = rows.filter(pc.invert(wanted.mask(rows)))
            if len(left) == len(rows):
                continue
            kept = self._stored(left) if len(left) else None
            why = UNFIT if rejection.why else ""  # the reason may have named a value
            self._records.replace_rows(replace(rejection, kept_rows=len(left), why=why), kept)
            if not self._records.cites(digest):
                self._blobs.delete(digest)
        return gone, unread

    def rows(self, digest: Digest) -> pa.Table:
        """The rows again."""
        return pq.read_table(io.BytesIO(self._blobs.get(digest)))

    def _stored(self, rows: pa.Table) -> Digest:
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="zstd")
        return self._blobs.put(sink.getvalue())
