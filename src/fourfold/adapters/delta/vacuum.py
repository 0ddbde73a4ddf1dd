"""Removing files that no version needs any more."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from fourfold.adapters.delta.log import BRANCHES, Log
from fourfold.adapters.delta.place import StoredFile
from fourfold.core.decide import retention
from fourfold.core.ports.tables import Vacuumed
from fourfold.core.times import Instant

_UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True)
class _Life:
    """A file is in the versions from `first` to `last`."""

    path: str
    """As the file is called."""
    first: int
    last: int


def vacuum(
    log: Log,
    branches: Iterable[Log],
    *,
    keep: Collection[int],
    before: Instant,
    planned: Collection[str] = (),
    dry_run: bool,
) -> Vacuumed:
    """Remove what only old versions of the table use, and what no log knows nor has `planned`.

    Nobody commits to the table meanwhile, where the place lets us wait for our turn: else a restore could
    bring back a version whose files are about to go.
    """
    newest = log.there()
    made, lives = _lives(log, newest.version)
    old = frozenset(retention.old_versions(made, before=before, keep=keep))
    kept = sorted(version for version, _ in made if version not in old)
    used = {life.path for life in lives if _has_any(kept, life)} | set(planned)
    for branch in branches:
        used |= _all_files(branch)
    known = used | {life.path for life in lives}
    gone = [
        file
        for file in log.place.files(log.address.table, deep=True)
        if is_data(file.path) and file.path not in used and (file.path in known or file.modified < before)
    ]
    paths = {file.path for file in gone}
    lost = {version for life in lives if life.path in paths for version in range(life.first, life.last + 1)}
    if not dry_run:
        log.place.delete(f"{log.address.table}/{file.path}" for file in [*gone, *_unfinished(log, before)])
    return Vacuumed(
        file_count=len(gone),
        size_bytes=sum(file.size_bytes for file in gone),
        versions=tuple(sorted(lost)),
    )


def _lives(log: Log, newest: int) -> tuple[list[tuple[int, Instant]], list[_Life]]:
    """The versions with their times, and in which of them each file is."""
    entries = list(log.entries(-1, newest))
    made = [(entry.version, entry.at) for entry in entries]
    since: dict[str, int] = {}
    if first := entries[0].version:  # another program cleaned the log up to here
        since = dict.fromkeys(log.at(first).files, first)
        entries = entries[1:]
    lives: list[_Life] = []
    for entry in entries:
        ended = [path for path in entry.removed if path in since]
        lives += [_Life(unquote(path), since.pop(path), entry.version - 1) for path in ended]
        for file in entry.added:
            since.setdefault(file.path, entry.version)
    lives += [_Life(unquote(path), start, newest) for path, start in since.items()]
    return made, lives


def _has_any(kept: list[int], life: _Life) -> bool:
    """Whether one of the kept versions has the file."""
    index = bisect_left(kept, life.first)
    return index < len(kept) and kept[index] <= life.last


def _all_files(log: Log) -> set[str]:
    """All files that a version of a branch has or had."""
    state = log.newest()
    if state is None:
        return set()
    added = {file.stored_at for entry in log.entries(-1, state.version) for file in entry.added}
    return added | {file.stored_at for file in state.files.values()}


def is_data(path: str) -> bool:
    """Whether a path below the table's folder is one of data: names with `_` or `.` in front are not."""
    parts = path.split("/")
    if parts[0] == BRANCHES:  # another program wrote into a branch's own folder
        parts = parts[2:]
    return bool(parts) and all(part[0] not in "_." for part in parts)


def _unfinished(log: Log, before: Instant) -> Iterator[StoredFile]:
    """What killed writers left in the logs' folders before it had a name."""
    for file in log.place.files(log.address.table, deep=True):
        if file.path.rpartition("/")[2].startswith(_UNFINISHED) and file.modified < before:
            yield file
