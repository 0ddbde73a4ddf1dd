"""Commits as the port tells them, read from the log."""

from __future__ import annotations

from collections.abc import Iterator

from fourfold.adapters.delta.actions import Entry
from fourfold.adapters.delta.log import Log
from fourfold.adapters.delta.state import State, advanced
from fourfold.core.errors import Corrupted, NotFound
from fourfold.core.ports.tables import Commit


def commits(log: Log, *, after: int, upto: int) -> list[Commit]:
    """Commits with `after` < version <= `upto`, oldest first, without those that were cleaned away."""
    entries = list(log.entries(after, upto))
    if all(entry.counts_rows for entry in entries):
        return [entry.commit() for entry in entries]
    return list(_counted(log, entries))


def commit_of(log: Log, entry: Entry) -> Commit:
    return commits(log, after=entry.version - 1, upto=entry.version)[0]


def _counted(log: Log, entries: list[Entry]) -> Iterator[Commit]:
    """Commits of which some were written by others, who do not say how many rows they left."""
    state = _before(log, entries[0].version)
    for bare in entries:
        entry = log.with_rows(bare)
        before = 0 if state is None else state.rows
        if state is None and entry.version:
            state = log.at(entry.version)  # the log was cleaned up to here
            yield entry.commit(rows=state.rows, added=sum(file.rows for file in entry.added))
            continue
        state = advanced(state, [entry])
        added = sum(file.rows for file in entry.added)
        removed = before + added - state.rows
        if not entry.changes_rows:
            added = removed = 0
        yield entry.commit(rows=state.rows, added=added, removed=removed)


def _before(log: Log, version: int) -> State | None:
    try:
        return log.at(version - 1) if version else None
    except (NotFound, Corrupted):
        return None
