"""The log of one table or branch: its versions, opened, followed and written.

We write the entries ourselves, each whole and synced before it has its name: that takes a millisecond or two,
however long the log is.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from fourfold.adapters.delta import checkpoint
from fourfold.adapters.delta.actions import DataFile, Entry, Json, parsed, text
from fourfold.adapters.delta.errors import no_table, no_version, writable
from fourfold.adapters.delta.place import Place, StoredFile
from fourfold.adapters.delta.state import ERASE, State, advanced
from fourfold.core.errors import Corrupted, OutOfSpace, Refused
from fourfold.core.storage import MAIN, TableAddress
from fourfold.core.times import Instant

CHECKPOINT_EVERY = 100
OLD_STATES = 16
"""States of older versions kept in memory, and the files that all of them together may have."""
OLD_FILES = 100_000
READ_AT_ONCE = 64
"""Entries that are asked for together."""
BRANCHES = "_branches"

_ENTRY = re.compile(r"(\d{20})\.json")


class InDoubt(Exception):
    """A commit was begun and nobody could see what became of it: its files may not be touched."""


class Log:
    """Follows the log of a table or branch. Its methods may be called from several threads."""

    def __init__(self, place: Place, address: TableAddress) -> None:
        self.address = address
        self.name = str(address)
        self.place = place
        self.home = "" if address.branch == MAIN else f"{BRANCHES}/{folder_of(address.branch)}"
        """The log's folder, seen from the table's."""
        self.folder = "/".join(part for part in (address.table, self.home, "_delta_log") if part)
        self._newest: State | None = None
        self._old: OrderedDict[int, State] = OrderedDict()
        self._foreign: dict[int, Entry] = {}
        """Entries that another program wrote, which nobody may have synced."""
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Log {self.name} at {self._newest.version if self._newest else 'no version'}>"

    def path(self, name: int | str) -> str:
        return f"{self.folder}/{name:020d}.json" if isinstance(name, int) else f"{self.folder}/{name}"

    # Versions

    def newest(self) -> State | None:
        """The table as it is now; `None` when there is none."""
        with self._lock, writable(self.name):
            state = self._newest
            if state is not None and self.place.tag(self.path(state.version)) != state.tag:
                state = None  # dropped, and perhaps made anew
                self.forget()
            if state is None:
                state = self._opened(None)
            if state is not None:
                state = self._followed(state)
            self._newest = state
            return state

    def there(self) -> State:
        """The table as it is now, which must be there."""
        if (state := self.newest()) is None:
            raise no_table(self.name)
        return state

    def at(self, version: int | None) -> State:
        """The table at a version; `None` means the newest."""
        state = self.there()
        if version is None or version == state.version:
            return state
        if not 0 <= version < state.version:
            raise no_version(self.name, version, newest=state.version)
        with self._lock, writable(self.name):
            if (old := self._old.get(version)) is None:
                old = self._replayed(version)
            self._remember(old)
            return old

    def is_there(self) -> bool:
        """Whether there is a table, without opening it."""
        if self.place.tag(self.path(0)) is not None:
            return True
        return any(_ENTRY.fullmatch(file.path) for file in self.place.files(self.folder))

    def entry(self, version: int) -> Entry:
        data = self.place.get(self.path(version))
        if data is None:
            raise no_version(self.name, version, newest=self.there().version)
        return self._parsed(version, data)

    def entries(self, after: int, upto: int) -> Iterator[Entry]:
        """Entries with `after` < version <= `upto`, oldest first, without those that were cleaned away."""
        found = False
        for start in range(after + 1, upto + 1, READ_AT_ONCE):
            versions = range(start, min(start + READ_AT_ONCE, upto + 1))
            for version, data in zip(versions, self._get(versions), strict=True):
                if data is None and not found:
                    continue  # another program cleaned the log up to here
                if data is None:
                    raise self._broken(version)
                found = True
                yield self._parsed(version, data)

    def forget(self) -> None:
        """Look at everything anew next time."""
        with self._lock:
            self._newest = None
            self._old.clear()
            self._foreign.clear()

    # Writing

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One's turn to commit: among the threads of this process, and where it can be among processes."""
        with ExitStack() as stack:
            with writable(self.name):
                stack.enter_context(self.place.turn(self.folder))
            yield

    def commit(self, state: State | None, lines: Sequence[Json], token: str) -> State | None:
        """Make these lines the version after `state`; `None` when somebody else's came first.

        `lines` tell `token` in their commit information. It is safe when this returns.
        """
        version = 0 if state is None else state.version + 1
        data, path = text(lines), self.path(version)
        self._secure()
        try:
            with writable(self.name):
                is_done = self.place.put_if_absent(path, data)
        except (OutOfSpace, Refused):
            if not self._has(version, token):
                raise
            self._settled(path)
        except Exception as error:
            if not self._has(version, token):
                raise InDoubt from error
            self._settled(path)
        else:
            if not is_done and not self._has(version, token):
                return None
        try:
            with self._lock:
                made = self._after(state, [parsed(version, data, self.home)])
                if state is not None:
                    self._remember(state)
                if self._newest is None or self._newest.version < version:
                    self._newest = made
                return made
        except Exception as error:  # it is in the log, whatever is wrong with looking at it
            self.forget()
            raise InDoubt from error

    def spare(self, state: State) -> None:
        """Spare the next opening a hundred entries. The checkpoint of a large table takes a while, so it is
        made before it is our turn.

        The log is whole without it and the write that came here is done, so no failure matters.
        """
        with suppress(Exception):
            written = checkpoint.written(state, self.home)
            with self.turn():
                self.checkpoint(state, written)

    def checkpoint(self, state: State, written: tuple[bytes, bytes] | None = None) -> None:
        """Write a checkpoint. It is to be our turn, and the state still what the log says: else an erasure
        could be followed by a checkpoint that has the rows."""
        with suppress(Exception):
            if self.place.tag(self.path(state.version)) != state.tag:
                return
            data, pointer = written or checkpoint.written(state, self.home)
            self.place.put(self.path(checkpoint.name_of(state.version)), data)
            self.place.put(self.path(checkpoint.POINTER), pointer)

    def _has(self, version: int, token: str) -> bool:
        """Whether the entry of a version is the one with this token; `InDoubt` when nobody can say."""
        try:
            data = self.place.get(self.path(version))
            return data is not None and self._parsed(version, data).own.get("id") == token
        except Exception as error:
            raise InDoubt from error

    def _settled(self, path: str) -> None:
        """What failed came after the entry had its name: make it safe now, or leave it in doubt."""
        try:
            self.place.secure([path])
        except OSError as error:
            raise InDoubt from error

    def _secure(self) -> None:
        """Ours will stand on what others wrote, so that must be as safe."""
        with self._lock, writable(self.name):
            for version, entry in self._foreign.items():
                table = self.address.table
                self.place.secure(
                    [*(f"{table}/{file.stored_at}" for file in entry.added), self.path(version)]
                )
            self._foreign.clear()

    # Opening and following

    def _opened(self, upto: int | None) -> State | None:
        """The table from its newest checkpoint (not after `upto`) and the entries after it, as listed."""
        pointer = self._pointer()
        if pointer is not None and (upto is None or pointer <= upto):
            listed = self.place.files(self.folder, after=f"{pointer:020d}")
            with suppress(Corrupted):
                return self._opened_from(listed, upto)
        return self._opened_from(self.place.files(self.folder), upto)

    def _opened_from(self, listed: Sequence[StoredFile], upto: int | None) -> State | None:
        state = self._checkpointed(listed, upto)
        versions = sorted(int(found[1]) for file in listed if (found := _ENTRY.fullmatch(file.path)))
        start = -1 if state is None else state.version
        versions = [v for v in versions if v > start and (upto is None or v <= upto)]
        entries: list[Entry] = []
        for version, data in zip(versions, self._get(versions), strict=True):
            if version != start + len(entries) + 1 or data is None:
                raise self._broken(start + len(entries) + 1)
            try:
                entries.append(self.with_rows(parsed(version, data, self.home)))
            except (ValueError, KeyError, TypeError) as error:
                if version != versions[-1] or not self.place.mend(self.path(version)):
                    raise self._broken(version) from error
        if state is None and not entries:
            return None
        self._note_foreign(entries)
        return self._after(state, entries)

    def _checkpointed(self, listed: Sequence[StoredFile], upto: int | None) -> State | None:
        found: dict[int, list[tuple[str, int]]] = {}
        for file in listed:
            if said := checkpoint.NAME.fullmatch(file.path):
                found.setdefault(int(said[1]), []).append((file.path, int(said[3] or 1)))
        for version in sorted(found, reverse=True):
            parts = [name for name, count in found[version] if count == found[version][0][1]]
            if len(parts) < found[version][0][1] or (upto is not None and version > upto):
                continue
            data = self.place.get_many([self.path(name) for name in sorted(parts)])
            entry = self.place.get(self.path(version))
            at = Instant(0) if entry is None else self._parsed(version, entry).at
            tag = self.place.tag(self.path(version)) or ""
            try:
                return checkpoint.read(version, [part or b"" for part in data], self.home, at, tag)
            except (ValueError, KeyError, TypeError, OSError, pa.ArrowException):
                for name in parts:
                    self.place.mend(self.path(name))
                self.place.delete([self.path(checkpoint.POINTER)])
        return None

    def _get(self, versions: Iterable[int]) -> list[bytes | None]:
        return self.place.get_many([self.path(version) for version in versions])

    def _pointer(self) -> int | None:
        """The version that `_last_checkpoint` names. It only spares listing, so nothing relies on it."""
        data = self.place.get(self.path(checkpoint.POINTER))
        found = re.search(rb'"version"\s*:\s*(\d+)', data or b"")
        return int(found[1]) if found else None

    def _followed(self, state: State) -> State | None:
        """The table after the entries that came since; opened anew where older entries changed as well."""
        entries: list[Entry] = []
        while (tag := self.place.tag(self.path(state.version + len(entries) + 1))) is not None:
            version = state.version + len(entries) + 1
            data = self.place.get(self.path(version))
            if data is None:
                break
            entries.append(self.with_rows(self._parsed(version, data)))
            last_tag = tag
        if not entries:
            return state
        if any(entry.own.get("operation") == ERASE for entry in entries):
            self.forget()
            return self._opened(None)
        self._note_foreign(entries)
        self._remember(state)
        return self._after(state, entries, last_tag)

    def _replayed(self, version: int) -> State:
        """An older version, from the nearest that is known."""
        known = [old for old in self._old if old < version]
        opened = None
        if not known or version - max(known) > CHECKPOINT_EVERY:
            opened = self._opened(version)
        base = opened or self._old[max(known)]
        if base.version == version:
            return base
        state = self._after(base, [self.with_rows(e) for e in self.entries(base.version, version)])
        if state.version != version:
            raise no_version(self.name, version, newest=self.there().version)
        return state

    def _after(self, state: State | None, entries: Sequence[Entry], tag: str | None = None) -> State:
        version = entries[-1].version if entries else -1
        try:
            return advanced(state, entries, tag or self.place.tag(self.path(version)) or "")
        except (ValueError, KeyError, TypeError) as error:
            raise self._broken(version) from error

    def _remember(self, state: State) -> None:
        self._old[state.version] = state
        self._old.move_to_end(state.version)
        while len(self._old) > 1 and (len(self._old) > OLD_STATES or self._old_files() > OLD_FILES):
            self._old.popitem(last=False)

    def _old_files(self) -> int:
        return sum(len(state.files) for state in self._old.values())

    def _note_foreign(self, entries: Sequence[Entry]) -> None:
        self._foreign |= {entry.version: entry for entry in entries if not entry.own.get("id")}

    def with_rows(self, entry: Entry) -> Entry:
        """The entry with rows counted where the program that wrote it did not note them."""
        if all(file.has_rows_noted for file in entry.added):
            return entry
        files = tuple(file if file.has_rows_noted else self._counted(file) for file in entry.added)
        return replace(entry, added=files)

    def _counted(self, file: DataFile) -> DataFile:
        with suppress(OSError, pa.ArrowException):
            path = self.place.located(f"{self.address.table}/{file.stored_at}")
            rows = pq.read_metadata(path, filesystem=self.place.filesystem).num_rows
            return replace(file, stats=f'{{"numRecords":{rows}}}')
        return file

    def _parsed(self, version: int, data: bytes) -> Entry:
        try:
            return parsed(version, data, self.home)
        except (ValueError, KeyError, TypeError) as error:
            raise self._broken(version) from error

    def _broken(self, version: int) -> Corrupted:
        return Corrupted(
            f"the log of table '{self.name}' cannot be read at version {version}",
            ways_on=["restore its folder from a backup"],
            table=self.name,
            version=version,
        )


def folder_of(branch: str) -> str:
    """The folder name of a branch: one folder, whatever slashes the branch has.

    >>> folder_of("dev/try-1")
    'dev~try-1'
    """
    return branch.replace("/", "~")


def branch_of(folder: str) -> str:
    return folder.replace("~", "/")
