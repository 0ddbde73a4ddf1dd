"""Mark and sweep, and the check of what is there."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fourfold.catalog import audit, cited
from fourfold.catalog.cited import Citation
from fourfold.catalog.database import Catalog
from fourfold.core import times
from fourfold.core.context import Ref
from fourfold.core.errors import Corrupted, NotFound, Refused
from fourfold.core.ports.blobs import BlobStore, Digest
from fourfold.core.ports.clock import Clock
from fourfold.core.storage import BlobEntry
from fourfold.core.times import Instant, duration_text
from fourfold.core.upkeep import GRACE_S, LEAST_GRACE_S, BadBlob, Checked, Fault, Garbage
from fourfold.foundation.storage.folders.ways import at_once
from fourfold.foundation.storage.marks import Marks

READ_BYTES = 1 << 20
CITERS_TOLD = 5
MOST_TOLD = 1000
"""Bad blobs in one answer."""
UPLOAD_GRACE_S = 86_400.0
"""How long the pieces of an unfinished upload are kept."""

_NAMED = re.compile(rb"(blake3|chunked):([0-9a-f]{64})")
_LENGTH = len("chunked:") + 64


class Upkeep:
    """Fulfils `core.services.upkeep.Upkeep` over the catalog and the blob store.

    `uploads` is a store of its own, for the pieces of uploads; nothing cites them for long.
    """

    def __init__(
        self, catalog: Catalog, blobs: BlobStore, uploads: BlobStore, clock: Clock, *, folder: Path
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._uploads = uploads
        self._clock = clock
        self._folder = folder

    def collect_garbage(
        self, *, grace_s: float = GRACE_S, is_dry_run: bool = False, timeout_s: float = 3600.0
    ) -> Garbage:
        if not grace_s >= LEAST_GRACE_S:
            raise Refused(
                f"a grace of {grace_s:g} s is too short: a blob is stored before "
                "what cites it is written, and only its age protects it until then",
                ways_on=[f"give at least {duration_text(LEAST_GRACE_S)}"],
            )
        deadline = time.monotonic() + timeout_s
        now = self._clock.now()
        before = times.after(now, -grace_s)
        with self._marked() as (marks, _):
            sweep = _Sweep(marks, before, is_dry_run=is_dry_run, deadline=deadline)
            is_complete = sweep.blobs(self._blobs)
            pieces_bytes = sweep.uploads(self._uploads, times.after(now, -UPLOAD_GRACE_S))
            quarantine_bytes = sweep.quarantine(self._blobs)
        done = Garbage(
            is_dry_run=is_dry_run,
            is_complete=is_complete,
            before=before,
            cited_count=sweep.cited.count,
            cited_bytes=sweep.cited.size_bytes,
            young_count=sweep.young.count,
            young_bytes=sweep.young.size_bytes,
            removed_count=sweep.removed.count,
            removed_bytes=sweep.removed.size_bytes,
            pieces_removed_bytes=pieces_bytes,
            quarantine_removed_bytes=quarantine_bytes,
        )
        if not is_dry_run:
            facts = {"removed": done.removed_count, "bytes": done.removed_bytes, "grace_s": grace_s}
            with self._catalog.write() as connection:
                audit.record(connection, now, "storage.gc", Ref("project", "blobs"), facts)
        return done

    def check(self, *, after: Digest | None = None, timeout_s: float = 10.0) -> Checked:
        deadline = time.monotonic() + timeout_s
        count = size_bytes = 0
        wrong: list[BlobEntry] = []
        last: Digest | None = None
        for entry in self._blobs.entries(after=after):
            if last is not None and (time.monotonic() > deadline or len(wrong) >= MOST_TOLD):
                break
            try:
                size_bytes += sum(len(piece) for piece in _pieces(self._blobs.open(entry.digest)))
                count += 1
            except Corrupted:
                wrong.append(entry)
            except NotFound:
                pass  # collected meanwhile
            last = entry.digest
        else:
            last = None
        return Checked(count, size_bytes, self._bad(Fault.corrupted, wrong), last)

    def missing(self, *, timeout_s: float = 600.0) -> tuple[BadBlob, ...]:
        del timeout_s  # tells a client how long to wait; stopping half-way would find what is not so
        absent: list[BlobEntry] = []
        with self._marked(is_lenient=True) as (marks, chunked):
            there = (entry.digest for entry in self._blobs.entries())
            for digest in _not_in(marks, there):
                if digest not in chunked and not self._blobs.has(digest):  # nor put meanwhile
                    absent.append(BlobEntry(digest, -1, Instant(0)))
                if len(absent) == MOST_TOLD:
                    break
        return self._bad(Fault.missing, absent)

    def quarantine(self) -> tuple[BadBlob, ...]:
        aside = {entry.digest: entry for entry in self._blobs.quarantined()}
        unhealed = [entry for digest, entry in sorted(aside.items()) if not self._blobs.has(digest)]
        return self._bad(Fault.corrupted, unhealed[:MOST_TOLD])

    def _bad(self, fault: Fault, entries: list[BlobEntry]) -> tuple[BadBlob, ...]:
        """The entries, with who needs them: one walk through everything that is cited, for all."""
        if not entries:
            return ()
        citers: dict[Digest, list[str]] = {entry.digest: [] for entry in entries}
        for citation in self._cited(is_lenient=True):
            known = citers.get(citation.digest)
            if known is not None and len(known) < CITERS_TOLD and citation.by not in known:
                known.append(citation.by)
        now = self._clock.now()
        return tuple(
            BadBlob(
                digest=entry.digest,
                fault=fault,
                size_bytes=None if fault is Fault.missing else entry.size_bytes,
                at=now if fault is Fault.missing else entry.put_at,
                cited_by=tuple(citers[entry.digest]),
            )
            for entry in entries
        )

    @contextmanager
    def _marked(self, *, is_lenient: bool = False) -> Iterator[tuple[Marks, Marks]]:
        """The digests of all that is cited, and of files that lie in chunks, which no blob holds whole."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="marks-") as folder:
            marks, chunked = Marks(Path(folder) / "cited"), Marks(Path(folder) / "chunked")
            for citation in self._cited(is_lenient=is_lenient, chunked=chunked):
                marks.add(citation.digest)
            yield marks, chunked

    def _cited(self, *, is_lenient: bool, chunked: Marks | None = None) -> Iterator[Citation]:
        """What rows cite, and then what the manifests cite that rows cite.

        A manifest that cannot be read is passed over when `is_lenient`: nothing may be removed then.
        """
        manifests: dict[Digest, str] = {}
        with self._catalog.read() as connection:
            cited.hold_still(connection)
            for citation in cited.citations(connection):
                if citation.is_manifest:
                    manifests.setdefault(citation.digest, citation.by)
                yield citation
        for digest, by in sorted(manifests.items()):
            try:
                for inner, is_blob in _digests(self._blobs.open(digest)):
                    if is_blob:
                        yield Citation(inner, f"{by}, in its manifest")
                    elif chunked is not None:
                        chunked.add(inner)
            except (Corrupted, NotFound) as error:
                if not is_lenient:
                    raise type(error)(
                        f"what is garbage cannot be told: the manifest of {by} cannot be read, so what it "
                        "cites is not known; nothing was removed",
                        ways_on=["restore that blob from a backup", *error.ways_on],
                        digest=digest,
                    ) from error


class _Tally:
    def __init__(self) -> None:
        self.count = self.size_bytes = 0

    def add(self, entry: BlobEntry) -> None:
        self.count += 1
        self.size_bytes += entry.size_bytes


class _Sweep:
    """Removes what is neither marked nor young."""

    def __init__(self, marks: Marks, before: Instant, *, is_dry_run: bool, deadline: float) -> None:
        self._marks = marks
        self._before = before
        self._is_dry_run = is_dry_run
        self._deadline = deadline
        self.cited, self.young, self.removed = _Tally(), _Tally(), _Tally()

    def blobs(self, store: BlobStore) -> bool:
        """Whether all were looked at. Several are removed at once: an object store is asked for each."""
        is_complete = True

        def garbage() -> Iterator[BlobEntry]:
            nonlocal is_complete
            for entry in store.entries():
                if time.monotonic() > self._deadline:
                    is_complete = False
                    return
                if entry.digest in self._marks:
                    self.cited.add(entry)
                elif entry.put_at >= self._before:
                    self.young.add(entry)
                else:
                    yield entry

        def remove(entry: BlobEntry) -> tuple[BlobEntry, bool]:
            return entry, self._remove(store, entry, self._before)

        for entry, is_removed in at_once(remove, garbage()):
            (self.removed if is_removed else self.young).add(entry)
        return is_complete

    def uploads(self, store: BlobStore, before: Instant) -> int:
        return sum(
            entry.size_bytes
            for entry in store.entries()
            if entry.put_at < before and self._remove(store, entry, before)
        )

    def quarantine(self, store: BlobStore) -> int:
        """What was put aside goes when the right bytes are there again, or nobody wants them."""
        size_bytes = 0
        for entry in list(store.quarantined()):
            is_wanted = entry.digest in self._marks and not store.has(entry.digest)
            if entry.put_at < self._before and not is_wanted:
                size_bytes += entry.size_bytes
                if not self._is_dry_run:
                    store.release(entry.digest)
        return size_bytes

    def _remove(self, store: BlobStore, entry: BlobEntry, before: Instant) -> bool:
        return self._is_dry_run or store.collect(entry.digest, before)


def _not_in(marked: Iterable[Digest], there: Iterator[Digest]) -> Iterator[Digest]:
    """Of one sorted stream, what another has not."""
    other = next(there, None)
    for digest in marked:
        while other is not None and other < digest:
            other = next(there, None)
        if other != digest:
            yield digest


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        yield from iter(lambda: stream.read(READ_BYTES), b"")


def _digests(stream: BinaryIO) -> Iterator[tuple[Digest, bool]]:
    """The digests in a text of any length, and whether each is a blob's.

    One that lies across two pieces is found in the second.
    """
    rest = b""
    for piece in _pieces(stream):
        text = rest + piece
        end = 0
        for found in _NAMED.finditer(text):
            yield Digest(f"blake3:{found[2].decode()}"), found[1] == b"blake3"
            end = found.end()
        rest = text[max(end, len(text) - _LENGTH + 1) :]
